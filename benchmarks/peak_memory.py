"""How much memory a function needs at its peak, beyond what there was before it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from measure import as_timed, device

MIB = 1024  # KiB


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _measure(prepare: Callable[..., Callable[[], object]], arguments: tuple) -> float:
    run = prepare(*arguments)
    if device() != "cpu":
        gpu: Any = torch.get_device_module(device())
        gpu.reset_peak_memory_stats()
        before = gpu.memory_allocated()
        with as_timed():
            run()
        return (gpu.max_memory_allocated() - before) / MIB**2
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    run()
    return (_status("VmHWM") - before) / MIB


def peak_mib(prepare: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """MiB that prepare(*arguments)() adds at its peak, in a process of its own (Linux).

    prepare must be importable; what it allocates does not count.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_measure, prepare, arguments).result()
