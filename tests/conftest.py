"""Backends that the operators run on, and the options of the test run."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from emulation import device as emulated
from hypothesis import HealthCheck, Phase, settings

from trajgru_ext import _build
from trajgru_ext.check import ieee_float32, why_not
from trajgru_ext.ops import _registry

settings.register_profile(
    "trajgru_ext",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    # The backend is switched for a test, not for an example.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("trajgru_ext")
# At random, and many: `make fuzz`.
settings.register_profile(
    "fuzz",
    settings.get_profile("trajgru_ext"),
    derandomize=False,
    max_examples=int(os.environ.get("CASES", "20000")),
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--radar", help="real radar frames, fmi_20160928.npz")
    parser.addoption("--radar-archive", help="folder of real files of weather services")
    parser.addoption("--large", action="store_true", help="tensors of many GiB, too")
    parser.addoption("--gpu", action="store_true", help="fail where there is none")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--gpu") and (reason := why_not("cuda")):
        raise pytest.UsageError(f"no GPU to test: {reason}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """`-k emulated` finds what uses the emulated devices, whatever its name is."""
    if "emulated_devices" in getattr(item, "fixturenames", ()):
        item.extra_keyword_matches.add("emulated")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Load the emulated devices before anything is differentiated.

    PyTorch counts the devices when the first backward pass of a process begins.
    """
    if any(
        "emulated" in item.nodeid or "emulated" in item.extra_keyword_matches
        for item in session.items
    ):
        emulated.load()


@pytest.fixture
def radar_frames(request: pytest.FixtureRequest) -> Path:
    path = request.config.getoption("--radar")
    if path is None:
        pytest.skip("needs real radar frames: --radar PATH")
    return Path(path)


@dataclass(frozen=True)
class Backend:
    name: str
    device: str

    def operator(self, name: str):
        return _registry.operator(name)

    def compile(self, function: Callable, **options: Any) -> Callable:
        """In one graph; Inductor makes no code for an emulated device."""
        by = "aot_eager" if self.device == emulated.NAME else "inductor"
        return torch.compile(function, fullgraph=True, backend=by, **options)


@pytest.fixture
def emulated_devices() -> Iterator[None]:
    """What is queued there, and what was found wrong, belongs to the test."""
    emulated.load()
    yield
    for device in range(torch.accelerator.device_count()):
        torch.accelerator.synchronize(device)


@pytest.fixture(params=["cpu", "cuda-emulated", "cuda"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The operators on the CPU, from the CUDA sources on the host, and on a GPU."""
    name = request.param
    if name == "cuda" and _build.no_cuda_kernels:
        pytest.skip(f"no CUDA kernels: {_build.no_cuda_kernels}")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name == "cuda-emulated":
        request.getfixturevalue("emulated_devices")
    return Backend(name, emulated.NAME if name == "cuda-emulated" else name)


@pytest.fixture(autouse=True, scope="session")
def _float32():
    """On a GPU products and convolutions are exact to float32, as on the CPU."""
    with ieee_float32():
        yield


@pytest.fixture
def one_thread():
    """Tiny tensors and models gain nothing by more, and wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
