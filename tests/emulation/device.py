"""The devices emulated:0 and emulated:1, on which the CUDA operators run on the host.

`load()` makes them known to this process; `torch.emulated` is then to them what
`torch.cuda` is to a GPU.
"""

import functools
import os
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from emulation.build import build

import trajgru_ext  # noqa: F401 - has the schemas

NAME = "emulated"


@functools.cache
def load(variant: str | None = None) -> Path:
    """Compile the devices where need be, and register them with PyTorch.

    variant: of build.py; the environment's TRAJGRU_SANITIZER where none is given.
    """
    library = build(variant or os.environ.get("TRAJGRU_SANITIZER", ""))
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend()
    return library


def _number(device: torch.device | str | int | None) -> int | None:
    if device is None or isinstance(device, int):
        return device
    found = torch.device(device).index
    return torch.accelerator.current_device_index() if found is None else found


def _module() -> types.ModuleType:
    module = types.ModuleType("torch.emulated")
    get_rng_state = torch.ops.emulated.get_rng_state
    set_rng_state = torch.ops.emulated.set_rng_state
    allocated = torch.ops.emulated.allocated_bytes
    functions = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 2,
        "current_device": torch.accelerator.current_device_index,
        "set_device": torch.accelerator.set_device_index,
        "synchronize": torch.accelerator.synchronize,
        "current_stream": torch.accelerator.current_stream,
        "set_stream": torch.accelerator.set_stream,
        "stream": lambda stream: stream,
        "device": lambda device: torch.accelerator.device_index(_number(device)),
        "Stream": torch.Stream,
        "Event": torch.Event,
        "_sleep": lambda cycles: None,
        "get_device_properties": lambda device: types.SimpleNamespace(
            L2_cache_size=1 << 16
        ),
        "memory_allocated": lambda device=NAME: allocated(_number(device))[0],
        "max_memory_allocated": lambda device=NAME: allocated(_number(device))[1],
        "reset_peak_memory_stats": lambda device=NAME: torch.ops.emulated.reset_peak(
            _number(device)
        ),
        "get_amp_supported_dtype": lambda: [torch.float16, torch.bfloat16],
        "manual_seed": torch.ops.emulated.manual_seed,
        "manual_seed_all": torch.ops.emulated.manual_seed,
        "get_rng_state": lambda device=NAME: get_rng_state(_number(device)),
        "set_rng_state": lambda state, device=NAME: set_rng_state(
            _number(device), state
        ),
    }
    vars(module).update(functions)
    return module


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Within it, queued kernels run in a legal order drawn at random."""
    torch.ops.emulated.shuffle(seed)
    try:
        yield
    finally:
        torch.ops.emulated.shuffle(0)


@functools.cache
def _captured_stream(index: int) -> torch.Stream:
    return torch.Stream(torch.device(NAME, index))


@contextmanager
def captured() -> Iterator[None]:
    """Within it, what a CUDA graph cannot capture is an error.

    As by `torch.cuda.graph`, the stream that is captured is one of its own, the same
    each time; the current one then runs the graph.
    """
    stream = _captured_stream(torch.accelerator.current_device_index())
    with stream:
        torch.ops.emulated.capture(True)
    try:
        with stream:
            yield
    finally:
        torch.ops.emulated.capture(False)
