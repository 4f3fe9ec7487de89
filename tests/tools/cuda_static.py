"""What is known of the CUDA kernels as nvcc compiles them, for each architecture.

`python tests/tools/cuda_static.py [--architectures 80 90 120] [--write]` compiles every
kernel and has cuobjdump (on PATH, or triton's) say its registers, stack, to which
registers are spilled, and shared memory, from which follows how many of a
multiprocessor's warps can be resident, and the bytes of the loads and stores and the
tensor cores' instructions in its machine code. It ends with status 1 where a kernel has
a stack, or where something is worse than in the table tests/golden/cuda_static.csv,
which --write writes anew, for all architectures; `--sources flow_conv_fused` looks at
some sources alone, and leaves the rows of others. `--library trajgru_ext/_C.*.so` reads
what a build of the package holds instead, and compiles nothing. `--instructions .`
prints how many each kernel of a checkout, this one or another, consists of instead.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils import cpp_extension

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "golden" / "cuda_static.csv"
EMULATION = ROOT / "tests" / "emulation"

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


def cuobjdump(binary: Path, *options: str) -> str:
    """What it says of a binary's machine code."""
    found = shutil.which("cuobjdump")
    if found is None and (triton := find_spec("triton")):
        folder = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        found = shutil.which("cuobjdump", path=folder)
    if found is None:
        raise SystemExit("no cuobjdump: it has to be on PATH, or triton be installed")
    # It runs nvdisasm, which lies beside it.
    path = os.pathsep.join([str(Path(found).parent), os.environ["PATH"]])
    return subprocess.run(
        [found, *options, str(binary)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def by_kernel(said: str) -> Iterator[tuple[str, str, str]]:
    """(architecture, kernel, line) of what cuobjdump says, headers left out."""
    architecture = name = ""
    for line in said.splitlines():
        if header := re.match(r"arch = sm_(\w+)", line):
            architecture = header[1]
        elif header := re.match(r"\s*Function (?:: )?(\w+)", line):
            name = header[1]
        else:
            yield architecture, name, line


def read_code(disassembly: str) -> dict[tuple[str, str], Code]:
    """Loads, stores and products, by architecture and kernel."""
    widths = {"8": 1, "16": 2, "64": 8, "128": 16, "256": 32}
    widths |= {"32x2": 8, "32x4": 16}  # of atomic additions, F32x4
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
            width = re.findall(r"\b[USF]?(8|16|64|128|256|32x[24])\b", access[2])
            store = access[1] != "LD"
            of_kernel[store].add(widths[width[-1]] if width else 4)
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
            copied = floors & set(re.findall(r"R\d+", operands))
            floors.discard(result)
            rounds = name.startswith("FRND") and "FLOOR" in name
            if rounds or (copied and "MOV" in name):
                floors.add(result)
    return found


def count_instructions(binary: Path) -> list[tuple[str, str, int]]:
    """(architecture, kernel, instructions), but for those that do nothing."""
    found: Counter[tuple[str, str]] = Counter()
    for architecture, name, line in by_kernel(cuobjdump(binary, "-sass")):
        if re.match(r"\s*/\*[0-9a-f]{4,}\*/ +(?!NOP\b)\S", line):
            found[architecture, name] += 1
    return [(of, demangle(name), count) for (of, name), count in found.items()]


Read = TypeVar("Read")


def compile_kernels(
    source: Path, architectures: list[str], read: Callable[[Path], list[Read]]
) -> list[Read]:
    """Compile one source of a checkout, and read what came of it."""
    root = next(one for one in source.parents if (one / "csrc").is_dir())
    includes = [root / "csrc", *cpp_extension.include_paths()]
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr"]
    if torch.version.cuda is None:
        flags.append("-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE")
    for architecture in architectures:
        code = f"arch=compute_{architecture},code=sm_{architecture}"
        flags += ["-gencode", code]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernels.fatbin"
        command = ["nvcc", *flags, *(f"-I{path}" for path in includes), "-fatbin"]
        command += [str(source), "-o", str(binary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"nvcc failed on {source}:\n{done.stderr}")
        return read(binary)


def read_kernels(binary: Path) -> list[Kernel]:
    """The kernels in a binary, the project's own."""
    sass = cuobjdump(binary, "-sass")
    if kernels := contracted(sass):
        raise SystemExit(
            f"{binary}: a product must be rounded before its fraction is taken "
            f"(math/rounded_product.h) in {', '.join(sorted(kernels))}"
        )
    codes = read_code(sass)
    kernels = []
    for architecture, name, line in by_kernel(cuobjdump(binary, "-res-usage")):
        if used := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, used.groups())
            if shared and int(architecture) >= 90:
                shared -= 1024  # what a block takes for itself is counted there
            kernels.append(
                Kernel(
                    demangle(name),
                    architecture,
                    registers,
                    stack + local,
                    shared,
                    resident_warps(architecture, registers, shared),
                    *codes[architecture, name],
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
    for name in ("registers", "stack", "shared"):
        if getattr(kernel, name) > getattr(before, name):
            said.append(name)
    if kernel.warps < before.warps:
        said.append("warps")
    for name in ("loads", "stores"):
        if widest(getattr(kernel, name)) < widest(getattr(before, name)):
            said.append(name)
    # Of tensor cores, any kind and number will do, but none.
    if before.products and not kernel.products:
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


def compile_all(
    only: list[str] | None,
    architectures: list[str],
    read: Callable[[Path], list[Read]],
    root: Path = ROOT,
) -> list[Read]:
    """What is read of all sources of a checkout, or of those of some names."""
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is not on PATH")
    sources = sorted((root / "csrc" / "cuda").glob("*.cu"))
    sources += sorted((root / EMULATION.relative_to(ROOT)).glob("*.cu"))
    sources = [one for one in sources if not only or one.stem in only]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda one: compile_kernels(one, architectures, read), sources)
        return [kernel for kernels in found for kernel in kernels]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=["80", "90", "120"])
    parser.add_argument("--write", action="store_true", help="the table, anew")
    parser.add_argument("--sources", nargs="+", help="names, of some of the sources")
    parser.add_argument("--library", type=Path, help="a build, which is read instead")
    parser.add_argument("--instructions", type=Path, help="a checkout, as above")
    options = parser.parse_args()
    if options.instructions:
        root, names = options.instructions.resolve(), options.sources
        found = compile_all(names, options.architectures, count_instructions, root)
        print("\n".join(" ".join(map(str, one)) for one in found))
        return 0
    if options.library:
        found = read_kernels(options.library)
        architectures = {kernel.sm for kernel in found} or options.architectures
    else:
        architectures = list(LIMITS) if options.write else options.architectures
        found = compile_all(options.sources, architectures, read_kernels)
    # Several sources have some kernels in common.
    by_name = {(k.kernel, k.sm): k for k in found}
    kernels = sorted(by_name.values(), key=lambda k: (k.kernel, int(k.sm)))
    counts = defaultdict(int)
    for kernel in kernels:
        counts[kernel.sm] += 1
    if set(counts) != set(architectures):
        print(f"kernels were read for {sorted(counts)} only")
        return 1
    table = {(k.kernel, k.sm): k for k in read_table()}
    if options.write:
        kept = table if options.sources or options.library else {}
        table = kept | {(k.kernel, k.sm): k for k in kernels}
        write_table(sorted(table.values(), key=lambda k: (k.kernel, int(k.sm))))
    # The emulation's own kernels are in no build.
    own = "".join(one.read_text() for one in EMULATION.glob("*.cu"))
    lost = [
        name
        for name, sm in sorted(set(table) - set(by_name))
        if sm in counts and not (options.library and f" {name}(" in own)
    ]
    if options.sources:
        lost = []
    bad = 0
    for kernel in kernels:
        before = table.get((kernel.kernel, kernel.sm))
        said = worse(kernel, before) if before else ["not in the table"]
        if kernel.stack:
            said.append("stack")
        if said:
            bad += 1
            print(f"{', '.join(said)}:\n  {kernel}\n  {before or ''}")
    for name in lost:
        print(f"in the table alone: {name}")
    for sm, count in counts.items():
        share = [k.warps for k in kernels if k.sm == sm]
        print(f"sm_{sm}: {count} kernels, {min(share)} to {max(share)}% of the warps")
    print(f"{bad} worse than {TABLE.relative_to(ROOT)}, {len(lost)} missing")
    return 1 if bad or lost else 0


if __name__ == "__main__":
    sys.exit(main())
