"""Builds the CUDA operators for execution on the host.

`python tests/emulation/build.py [address|thread|trace]` builds the variant with those
sanitizers, or that which counts memory accesses (trace.cpp), and prints its path.
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils import cpp_extension

NAMESPACE = "trajgru_ext_emulated"

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent / "csrc"

# What is compiled: all that any device has, and the CUDA sources.
PARTS = ("schemas.cpp", "operators/*/*.cpp", "sequences/*.cpp", "cuda/*.cu")

SANITIZERS = {
    "": ["-O1"],
    "address": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
    # A thread's wide access stays one.
    "trace": ["-O1", "-g", "-fsanitize=thread", "-fno-tree-sra"],
}


def compile_host(source: Path, output: Path, *options: str) -> None:
    """Compile a CUDA source for the host, the emulation's headers before the real."""
    compiler = os.environ.get("CXX", "c++")
    includes = [f"-I{HERE}", f"-I{SOURCES}"]
    language = ["-std=c++20", "-x", "c++", str(source), "-x", "none"]
    command = [compiler, *includes, *language, *options, "-pthread", "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def write_operators(source: Path) -> None:
    """Write one source of all operators, for CPU tensors and their own namespace."""
    found = [p for pattern in PARTS for p in sorted(SOURCES.glob(pattern))]
    lines = (f'#include "{part.relative_to(SOURCES)}"\n' for part in found)
    source.write_text("".join(lines))


def build(sanitizer: str = "") -> Path:
    """Compile the operators, where a source has changed, and return the library."""
    suffix = f"-{sanitizer}" if sanitizer else ""
    library = HERE / "build" / f"{NAMESPACE}-torch-{torch.__version__}{suffix}.so"
    library.parent.mkdir(exist_ok=True)
    with library.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one compiles
        _build(library, sanitizer)
    return library


def _build(library: Path, sanitizer: str) -> None:
    parts = [*HERE.glob("*.[ch]*"), *HERE.glob("cuda/*"), *SOURCES.rglob("*.[ch]*")]
    newest = max(part.stat().st_mtime for part in parts)
    if not library.exists() or library.stat().st_mtime < newest:
        operators = library.with_suffix(".cpp")
        write_operators(operators)
        torch_options = [f"-isystem{path}" for path in cpp_extension.include_paths()]
        for path in cpp_extension.library_paths():
            torch_options += [f"-L{path}", f"-Wl,-rpath,{path}"]
        partial = library.with_suffix(".partial")
        compiled = [*SANITIZERS[sanitizer], *torch_options, "-Wall", "-fPIC"]
        compiled += [f"-DTRAJGRU_NAMESPACE={NAMESPACE}", "-Wno-unknown-pragmas"]
        linked = ["-shared", "-ltorch", "-ltorch_cpu", "-lc10"]
        if sanitizer == "trace":
            # Apart, since what trace.cpp does is not traced; without the sanitizer
            # at the link, since trace.cpp has its functions.
            instrumented = library.with_suffix(".o")
            compile_host(operators, instrumented, *compiled, "-c")
            tracer = ["-O2", "-fPIC", *torch_options, str(instrumented), *linked]
            compile_host(HERE / "trace.cpp", partial, *tracer)
            instrumented.unlink()
        else:
            compile_host(operators, partial, *compiled, *linked)
        partial.replace(library)


if __name__ == "__main__":
    print(build(*sys.argv[1:2]))
