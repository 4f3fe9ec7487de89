"""Builds the CUDA operators, and a device of PyTorch's kind that runs them on the host.

`python tests/emulation/build.py [address|thread|trace]` builds the variant with those
sanitizers, or that which counts memory accesses (trace.cpp), and prints its path.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "csrc"

# As nvcc, the compiler may add to products that it has not rounded.
CONTRACTED = ["-mfma", "-ffp-contract=fast", "-fexpensive-optimizations"]
if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
    CONTRACTED = []

SANITIZERS = {
    "": ["-O1", *CONTRACTED],
    "address": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover"],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
    # A thread's wide access stays one.
    "trace": ["-O1", "-g1", "-fsanitize=thread", "-fno-tree-sra", "-DTRAJGRU_TRACE"],
}
# Other options for the device itself: PyTorch's headers are not ours to check.
DEVICE = {"address": ["-O1", "-g1", "-fsanitize=address"], "trace": ["-O1"]}


def compile_host(source: Path, output: Path, *options: str) -> None:
    """Compile a CUDA source for the host, the emulation's headers before the real."""
    compiler = os.environ.get("CXX", "c++")
    includes = [f"-I{HERE}", f"-I{SOURCES}"]
    includes += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    language = ["-std=c++20", "-x", "c++", str(source), "-x", "none"]
    command = [compiler, *includes, *language, *options, "-pthread", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


# What is written for any device, by the dispatcher alone, for the emulated one.
ANY_DEVICE = """\
#include "tensors/library.h"
#undef TRAJGRU_LIBRARY_IMPL
#define TRAJGRU_LIBRARY_IMPL(key, m) TORCH_LIBRARY_IMPL(trajgru_ext, PrivateUse1, m)
"""


def write_source(source: Path, parts: Iterable[Path], first: str = "") -> Path:
    """Write one source of all parts: the headers are what takes the time."""
    lines = (f'#include "{part}"\n' for part in sorted(parts))
    source.write_text(first + "".join(lines))
    return source


def build(sanitizer: str = "") -> Path:
    """Compile device and operators, where a source has changed; return the library."""
    suffix = f"-{sanitizer}" if sanitizer else ""
    library = HERE / "build" / f"emulated-torch-{torch.__version__}{suffix}.so"
    library.parent.mkdir(exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one compiles
        _build(library, sanitizer)
    return library


def _build(library: Path, sanitizer: str) -> None:
    parts = [Path(__file__), *HERE.rglob("*.[ch]*"), *SOURCES.rglob("*.[ch]*")]
    newest = max(p.stat().st_mtime for p in parts if p.parent != library.parent)
    if library.exists() and library.stat().st_mtime >= newest:
        return
    common = ["-Wall", "-Wno-unknown-pragmas", "-fPIC", "-fvisibility=hidden"]
    instrumented = [*common, *SANITIZERS[sanitizer]]
    # What trace.cpp and the device do is not traced; trace.cpp has the functions of the
    # sanitizer itself.
    traced = sanitizer == "trace"
    device = [*common, *DEVICE.get(sanitizer, SANITIZERS[sanitizer])]

    def source(name: str, parts: Iterable[Path], first: str = "") -> Path:
        return write_source(library.with_suffix(f".{name}.cpp"), parts, first)

    sources = {
        source("kernels", SOURCES.glob("cuda/*.cu")): instrumented,
        source("device", HERE.glob("device/*.cpp")): device,
    }
    if sanitizer == "address":  # the extension itself is not instrumented
        anywhere = *SOURCES.glob("sequences/*.cpp"), *SOURCES.glob("operators/*/*.cpp")
        sources[source("sequences", anywhere, ANY_DEVICE)] = instrumented
    if traced:
        sources[HERE / "trace.cpp"] = [*common, "-O2"]

    def compile_object(source: Path) -> Path:
        made = library.with_suffix(f".{source.stem.split('.')[-1]}.o")
        compile_host(source, made, *sources[source], "-c")
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_object, sources))
    linked = ["-shared", "-ltorch", "-ltorch_cpu", "-lc10"]
    for path in cpp_extension.library_paths():
        linked += [f"-L{path}", f"-Wl,-rpath,{path}"]
    if not traced:
        linked += [one for one in SANITIZERS[sanitizer] if "sanitize" in one]
    partial = library.with_suffix(".partial")
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, *map(str, objects), *linked, "-pthread", "-o", str(partial)]
    subprocess.run(command, check=True)
    for one in objects:
        one.unlink()
    partial.replace(library)


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
