"""What this installation is: versions, compiler, instruction set, devices."""

import platform
from typing import Any

import torch

from trajgru_ext import _C, _build


def _described(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return f"{name}, compute capability {major}.{minor}"


def _precision(backend: Any) -> str:
    """How torch computes float32 there, as it is set: ieee where nothing is."""
    said = str(backend.fp32_precision)
    return "ieee" if said == "none" else said


_OLD_DRIVER = (
    "the GPU's driver is too old for this torch's CUDA: update the driver, or install "
    "a torch for an older CUDA"
)
_NO_MEMORY = "the GPU has no memory left: end what else uses it, which nvidia-smi lists"
# What CUDA, its libraries and our launches say, and what to do.
FAILURES = {
    "kernels were not built for this gpu": "the kernels were not built for this GPU: "
    "build trajgru_ext again on this machine, or with its compute capability in "
    "TORCH_CUDA_ARCH_LIST",
    "no kernel image": "this torch has no kernels for this GPU: install one that has",
    "out of memory": _NO_MEMORY,
    "cublas_status_alloc_failed": _NO_MEMORY,
    "cudnn_status_alloc_failed": _NO_MEMORY,
    "driver on your system is too old": _OLD_DRIVER,
    "driver version is insufficient": _OLD_DRIVER,
    "unsupported toolchain": _OLD_DRIVER,
    "unsupported display driver": "the GPU's driver does not fit what runs of it, as "
    "after an update: start the machine again",
    "found no nvidia driver": "torch finds no GPU, or none with a driver",
}


def what_to_do(error: Exception) -> str:
    """One sentence that says what to do about an error of CUDA's, or nothing."""
    text = str(error).lower()
    return next((what for sign, what in FAILURES.items() if sign in text), "")


def explain(error: Exception) -> str:
    """What to do about an error, or else its first line."""
    said = str(error).strip()
    return what_to_do(error) or (said.splitlines()[0] if said else repr(error))


def _why_no_device() -> str:
    """What torch says of a GPU that it cannot use."""
    initialize: Any = torch.cuda.init
    try:
        initialize()
    except (RuntimeError, AssertionError) as error:
        return explain(error)
    return "torch finds no GPU that it can use"


def cuda_devices() -> list[str] | str:
    """The GPUs that torch finds, or the reason why there is none."""
    if torch.cuda.is_available():
        return [_described(k) for k in range(torch.cuda.device_count())]
    if torch.version.cuda is None:
        return "none: this torch has no CUDA"
    return f"none: {_why_no_device()}"


def collect() -> dict[str, Any]:
    """Facts of the build and of this machine; what is missing gives its reason."""
    from trajgru_ext import __version__  # noqa: PLC0415 - the package imports us

    facts = _C.facts()
    cudnn: Any = torch.backends.cudnn
    if _build.no_cuda_kernels:
        kernels: str = f"none: {_build.no_cuda_kernels}"
    else:
        kernels = f"for {_build.cuda_architectures}"
    return {
        "trajgru_ext": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "built against torch": _build.torch_version,
        "compiler": facts["compiler"],
        "cpu capability": facts["cpu_capability"],
        "cpu capabilities built": facts["cpu_capabilities"],
        "threads": facts["threads"] if facts["openmp"] else "1: built without OpenMP",
        "cuda kernels": kernels,
        "cuda of torch": torch.version.cuda or "none: this torch is a CPU build",
        "cuda devices": cuda_devices(),
        "cudnn": cudnn.version() or "none: this torch has no cuDNN",
        "float32 on a GPU": f"convolutions {_precision(cudnn.conv)}, "
        f"products {_precision(torch.backends.cuda.matmul)}",
    }
