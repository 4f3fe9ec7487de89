"""How long nvcc takes for one architecture, and for all that a build may ask for.

`python tests/tools/cuda_build_time.py` compiles the units of csrc/cuda as setup.py
does, one after the other, and prints the seconds of processor time: what one core
takes. nvcc has to be on PATH; a torch without CUDA serves, since the sources need only
its headers.
"""

import argparse
import os
import resource
import runpy
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import setuptools
import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]


def build() -> SimpleNamespace:
    """What setup.py defines, with nothing built."""
    os.environ["TRAJGRU_CUDA"] = "0"
    cpp_extension.CUDA_HOME = str(Path(shutil.which("nvcc")).parents[1])
    setuptools.setup = lambda **_: None
    return SimpleNamespace(**runpy.run_path(str(ROOT / "setup.py")))


def seconds(source: Path, architectures: list[str]) -> float:
    """Processor time of one source, for these and the last one's PTX."""
    command = ["nvcc", "-c", str(source), *cpp_extension.COMMON_NVCC_FLAGS]
    command += ["-O3", "-std=c++20", "-lineinfo", "--threads=1"]
    command += ["--compiler-options", "-fPIC"]
    if torch.version.cuda is None:
        command.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    command += [f"-I{ROOT / 'csrc'}"]
    command += [f"-isystem={path}" for path in cpp_extension.include_paths()]
    for one in architectures:
        command += ["-gencode", f"arch=compute_{one},code=sm_{one}"]
    last = architectures[-1]
    command += ["-gencode", f"arch=compute_{last},code=compute_{last}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "-o", f"{folder}/made.o"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", default="90", help="the one architecture")
    options = parser.parse_args()
    setup = build()
    chosen = setup.choose_architectures("all", setup.toolkit_capabilities(), [])
    every = chosen.removesuffix("+PTX").replace(".", "").split(";")
    totals = [0.0, 0.0]
    print(f"with PTX: sm_{options.one}, and {', '.join(f'sm_{one}' for one in every)}")
    for name in setup.cuda_units():
        each = [seconds(ROOT / name, some) for some in ([options.one], every)]
        totals = [total + one for total, one in zip(totals, each, strict=True)]
        print(f"{name:<24} {each[0]:6.1f} s {each[1]:6.1f} s", flush=True)
    print(f"{'all of these':<24} {totals[0]:6.1f} s {totals[1]:6.1f} s")


if __name__ == "__main__":
    main()
