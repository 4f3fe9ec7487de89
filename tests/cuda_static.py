"""What can be known of the CUDA kernels without a GPU: registers, spills, stack.

`python tests/cuda_static.py [--architectures 80 90 120]` compiles every kernel with
nvcc for each architecture, prints a table from `ptxas -v`, and ends with status 1
where a kernel spills registers or uses a stack.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parent.parent


@dataclass
class Kernel:
    name: str
    architecture: str
    registers: int
    stack: int
    spilled: int
    shared: int


def compile_kernels(source: Path, architectures: list[str]) -> str:
    """Compile one source and return what ptxas says of it."""
    includes = [ROOT / "csrc", *cpp_extension.include_paths()]
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
    if torch.version.cuda is None:
        flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    for architecture in architectures:
        code = f"arch=compute_{architecture},code=sm_{architecture}"
        flags += ["-gencode", code]
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *flags, *(f"-I{path}" for path in includes), "-c"]
        command += [str(source), "-o", f"{folder}/kernels.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"nvcc failed on {source}:\n{done.stderr}")
    return done.stdout + done.stderr


def parse(log: str) -> list[Kernel]:
    """Read the kernels out of the output of `ptxas -v`."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    kernels = []
    for found in pattern.finditer(log):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        kernels.append(
            Kernel(
                demangle(found["name"]),
                found["architecture"],
                int(found["registers"]),
                int(found["stack"]),
                int(found["stores"]) + int(found["loads"]),
                int(shared[1]) if shared else 0,
            )
        )
    return kernels


def demangle(name: str) -> str:
    """The kernel's name and template arguments, without its parameters."""
    done = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix("void ").split("(")[0].split("cuda::")[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=["80", "90", "120"])
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is not on PATH")
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    sources.append(ROOT / "tests" / "emulation" / "planted.cu")
    with ThreadPoolExecutor() as pool:
        logs = pool.map(lambda s: compile_kernels(s, options.architectures), sources)
        kernels = [kernel for log in logs for kernel in parse(log)]
    print(f"{'kernel':<64} {'sm':>4} {'regs':>5} {'stack':>6} {'spill':>6} {'smem':>6}")
    for k in sorted(kernels, key=lambda k: (k.name, int(k.architecture))):
        print(
            f"{k.name:<64} {k.architecture:>4} {k.registers:>5} {k.stack:>6} "
            f"{k.spilled:>6} {k.shared:>6}"
        )
    found = {kernel.architecture for kernel in kernels}
    if found != set(options.architectures):
        print(f"kernels were read for {found} only")
        return 1
    bad = [kernel for kernel in kernels if kernel.stack or kernel.spilled]
    print(f"{len(kernels)} kernels, {len(bad)} with stack or spills")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
