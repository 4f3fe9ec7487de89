"""How long nvcc takes for one architecture, and for all that a build may ask for.

`python tests/tools/cuda_build_time.py [flow_warp ...]` compiles sources of csrc/cuda,
all where none is named, as setup.py does, one after the other, and prints the seconds
of processor time: what one core takes. nvcc has to be on PATH; a torch without CUDA
serves, since the sources need only its headers.
"""

import argparse
import re
import resource
import subprocess
import tempfile
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]


def capabilities() -> list[str]:
    """All that setup.py builds for, as nvcc has them."""
    source = (ROOT / "setup.py").read_text()
    found = re.search(r"^CAPABILITIES = \((.*)\)$", source, re.MULTILINE)[1]
    nvcc = ["nvcc", "--list-gpu-arch"]
    said = subprocess.run(nvcc, capture_output=True, text=True, check=True).stdout
    numbers = (one.replace(".", "") for one in re.findall(r'"([\d.]+)"', found))
    return [one for one in numbers if f"compute_{one}\n" in said]


def seconds(source: Path, architectures: list[str], ptx: bool) -> float:
    """Processor time of one source, for these and, where wanted, the last one's PTX."""
    command = ["nvcc", "-c", str(source), *cpp_extension.COMMON_NVCC_FLAGS]
    command += ["-O3", "-std=c++20", "-lineinfo", "--threads=1"]
    command += ["--compiler-options", "-fPIC"]
    if torch.version.cuda is None:
        command.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    command += [f"-I{ROOT / 'csrc'}"]
    command += [f"-isystem={path}" for path in cpp_extension.include_paths()]
    for one in architectures:
        command += ["-gencode", f"arch=compute_{one},code=sm_{one}"]
    if ptx:
        last = architectures[-1]
        command += ["-gencode", f"arch=compute_{last},code=compute_{last}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, "-o", f"{folder}/made.o"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of sources in csrc/cuda")
    parser.add_argument("--one", default="90", help="the one architecture")
    options = parser.parse_args()
    every, totals = capabilities(), [0.0, 0.0]
    folder = ROOT / "csrc" / "cuda"
    names = options.names or sorted(one.stem for one in folder.glob("*.cu"))
    print(f"sm_{options.one}, and {', '.join(f'sm_{one}' for one in every)} with PTX")
    for name in names:
        source = folder / f"{name}.cu"
        each = seconds(source, [options.one], False), seconds(source, every, True)
        totals = [total + one for total, one in zip(totals, each, strict=True)]
        print(f"{name:<24} {each[0]:6.1f} s {each[1]:6.1f} s", flush=True)
    print(f"{'all of these':<24} {totals[0]:6.1f} s {totals[1]:6.1f} s")


if __name__ == "__main__":
    main()
