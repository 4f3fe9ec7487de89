"""What is known of the CUDA kernels as nvcc compiles them, for each architecture.

`python tests/tools/cuda_static.py [--architectures 80 90 120] [--write]` compiles every
kernel and reads registers, stack, spills and shared memory from `ptxas -v`, from which
follows how many of a multiprocessor's warps can be resident, and the bytes of the
loads and stores, and the tensor cores' instructions, from the disassembly (by
cuobjdump: on PATH, or triton's). It ends with status 1 where a kernel spills or has a
stack, or where something is worse than in the table tests/golden/cuda_static.csv, which
--write writes anew, for all architectures; `--sources flow_conv_fused` looks at some
sources alone, and leaves the rows of others.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "golden" / "cuda_static.csv"

# Of a multiprocessor: warps, blocks, KiB of shared memory (CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability"). All have 65536 registers.
LIMITS = {
    "75": (32, 16, 64),
    "80": (64, 32, 164),
    "86": (48, 16, 100),
    "89": (48, 24, 100),
    "90": (64, 32, 228),
    "100": (64, 32, 228),
    "120": (48, 24, 100),
}


@dataclass(order=True)
class Kernel:
    """One kernel on one architecture.

    `warps`: percent of a multiprocessor's; `loads`, `stores`: of 4 16 bytes, say;
    `products`: the tensor cores' instructions, and how many.
    """

    kernel: str
    sm: str
    registers: int
    stack: int
    spilled: int
    shared: int
    warps: int
    loads: str
    stores: str
    products: str


# What is read of a kernel's machine code.
Code = tuple[str, str, str]


def resident_warps(architecture: str, registers: int, shared: int) -> int:
    """Percent of the warps that fit, by registers, shared memory and blocks."""
    source = (ROOT / "csrc" / "cuda" / "runtime.h").read_text()
    per_block = int(re.search(r"kBlock = (\d+)", source)[1]) // 32
    warps, blocks, kib = LIMITS[architecture]
    # Each quarter of a multiprocessor gives registers to warps in units of 256.
    of_registers = 4 * (65536 // 4 // (-(-registers * 32 // 256) * 256))
    # A block takes one KiB of shared memory for itself.
    of_shared = kib * 1024 // (shared + 1024)
    blocks = min(blocks, warps // per_block, of_registers // per_block, of_shared)
    return 100 * blocks * per_block // warps


def disassembler() -> str | None:
    """The folder of cuobjdump, and of nvdisasm, which it runs."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := find_spec("triton")):
        folder = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found = shutil.which("cuobjdump", path=folder)
    return found and str(Path(found).parent)


def read_code(disassembly: str) -> dict[tuple[str, str], Code]:
    """Loads, stores and products, by architecture and kernel."""
    bits = {"8": 1, "16": 2, "64": 8, "128": 16, "256": 32}
    found: dict[tuple[str, str], tuple[set, set]] = {}
    products: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    architecture = ""
    for line in disassembly.splitlines():
        if header := re.match(r"arch = sm_(\w+)", line):
            architecture = header[1]
        elif header := re.match(r"\s*Function : (\w+)", line):
            kernel = architecture, header[1]
            of_kernel = found.setdefault(kernel, (set(), set()))
        elif product := re.search(r"\bHMMA\.[\w.]+", line):
            products[kernel][product[0]] += 1
        elif access := re.search(r"\b(LD|ST|RED|ATOM)G?\.([\w.]+) ", line):
            width = re.findall(
                r"\b[USF]?(8|16|64|128|256)\b", access[2].replace(".", " ")
            )
            store = access[1] != "LD"
            of_kernel[store].add(bits[width[-1]] if width else 4)
    return {
        kernel: (
            " ".join(map(str, sorted(loads))),
            " ".join(map(str, sorted(stores))),
            " ".join(f"{n} {name}" for name, n in sorted(products[kernel].items())),
        )
        for kernel, (loads, stores) in found.items()
    }


def contracted(disassembly: str) -> set[str]:
    """The kernels in which a floor is subtracted from a product that is not rounded."""
    found = set()
    floors: set[str] = set()
    kernel = ""
    for line in disassembly.splitlines():
        if header := re.match(r"\s*Function : (\w+)", line):
            kernel, floors = header[1], set()
        elif operation := re.search(r"\b([A-Z][A-Z0-9.]+) (R\d+),(.*)", line):
            name, result, operands = operation.groups()
            fused = name.startswith(("FFMA", "DFMA"))
            if fused and floors & set(re.findall(r"-(R\d+)", operands)):
                found.add(demangle(kernel))
            floors.discard(result)
            if name.startswith("FRND") and "FLOOR" in name:
                floors.add(result)
    return found


def compile_kernels(source: Path, architectures: list[str]) -> list[Kernel]:
    """Compile one source, and read what ptxas says of it and what it made."""
    includes = [ROOT / "csrc", *cpp_extension.include_paths()]
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xptxas", "-v"]
    if torch.version.cuda is None:
        flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    for architecture in architectures:
        code = f"arch=compute_{architecture},code=sm_{architecture}"
        flags += ["-gencode", code]
    sass = ""
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/kernels.fatbin"
        command = ["nvcc", *flags, *(f"-I{path}" for path in includes), "-fatbin"]
        command += [str(source), "-o", binary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"nvcc failed on {source}:\n{done.stderr}")
        if tools := disassembler():
            path = os.pathsep.join([tools, os.environ["PATH"]])
            sass = subprocess.run(
                [f"{tools}/cuobjdump", "-sass", binary],
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            if kernels := contracted(sass):
                raise SystemExit(
                    f"{source}: a product must be rounded before its fraction is taken "
                    f"(math/rounded_product.h) in {', '.join(sorted(kernels))}"
                )
    return parse(done.stdout + done.stderr, read_code(sass))


def parse(log: str, codes: dict[tuple[str, str], Code]) -> list[Kernel]:
    """Read the kernels out of the output of `ptxas -v`."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<sm>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    kernels = []
    for found in pattern.finditer(log):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        registers, bytes_shared = (
            int(found["registers"]),
            int(shared[1] if shared else 0),
        )
        code = codes.get((found["sm"], found["name"]), ("", "", ""))
        kernels.append(
            Kernel(
                demangle(found["name"]),
                found["sm"],
                registers,
                int(found["stack"]),
                int(found["stores"]) + int(found["loads"]),
                bytes_shared,
                resident_warps(found["sm"], registers, bytes_shared),
                *code,
            )
        )
    return kernels


def kernel_name(name: str) -> str:
    """A function's name and template arguments, without namespaces and parameters."""
    name = re.sub(r"\([\w:]+\)(?=\d)", "", name)  # the type of an enumerator
    name = name.removeprefix("void ").split("(")[0].split("cuda::", 1)[-1]
    return re.sub(r"(trajgru_ext|cuda|c10)::|(?<=>) (?=>)", "", name)


def demangle(name: str) -> str:
    done = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True)
    return kernel_name(done.stdout.strip())


def worse(kernel: Kernel, before: Kernel) -> list[str]:
    """What became worse since the table was written."""

    def widest(accesses: str) -> int:
        return max(map(int, accesses.split()), default=0)

    said = []
    for name in ("registers", "stack", "spilled", "shared"):
        if getattr(kernel, name) > getattr(before, name):
            said.append(name)
    if kernel.warps < before.warps:
        said.append("warps")
    for name in ("loads", "stores"):
        # Without a disassembler nothing is known of them.
        found, old = getattr(kernel, name), getattr(before, name)
        if found and widest(found) < widest(old):
            said.append(name)
    # Of tensor cores, any kind and number will do, but none.
    if kernel.loads and before.products and not kernel.products:
        said.append("products")
    return said


def read_table() -> list[Kernel]:
    types = {field.name: field.type for field in fields(Kernel)}
    with TABLE.open() as file:
        return [
            Kernel(**{name: types[name](value) for name, value in row.items()})
            for row in csv.DictReader(file)
        ]


def write_table(kernels: list[Kernel]) -> None:
    with TABLE.open("w") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(Kernel)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(kernel) for kernel in kernels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=["80", "90", "120"])
    parser.add_argument("--write", action="store_true", help="the table, anew")
    parser.add_argument("--sources", nargs="+", help="names, of some of the sources")
    options = parser.parse_args()
    architectures = list(LIMITS) if options.write else options.architectures
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is not on PATH")
    if disassembler() is None:
        print("no cuobjdump: the widths of loads and stores are not compared")
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    sources += sorted((ROOT / "tests" / "emulation").glob("*.cu"))
    if options.sources:
        sources = [one for one in sources if one.stem in options.sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda s: compile_kernels(s, architectures), sources)
        # Several sources have some kernels in common.
        by_name = {(k.kernel, k.sm): k for kernels in found for k in kernels}
    kernels = sorted(by_name.values(), key=lambda k: (k.kernel, int(k.sm)))
    counts = defaultdict(int)
    for kernel in kernels:
        counts[kernel.sm] += 1
    if set(counts) != set(architectures):
        print(f"kernels were read for {sorted(counts)} only")
        return 1
    table = {(k.kernel, k.sm): k for k in read_table()}
    if options.write:
        kept = table if options.sources else {}
        table = kept | {(k.kernel, k.sm): k for k in kernels}
        write_table(sorted(table.values(), key=lambda k: (k.kernel, int(k.sm))))
    bad = 0
    for kernel in kernels:
        before = table.get((kernel.kernel, kernel.sm))
        said = worse(kernel, before) if before else ["not in the table"]
        if kernel.stack or kernel.spilled:
            said.append("stack or spills")
        if said:
            bad += 1
            print(f"{', '.join(said)}:\n  {kernel}\n  {before or ''}")
    for sm, count in counts.items():
        share = [k.warps for k in kernels if k.sm == sm]
        print(f"sm_{sm}: {count} kernels, {min(share)} to {max(share)}% of the warps")
    print(f"{bad} worse than {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
