"""What a step of a sequence gives a GPU to do, counted on the emulated device.

`python tests/tools/cuda_launches.py [--write]` runs every sequence, forward and
backward, with four steps more than before, and counts what those add: our kernels,
convolutions, products, copies, fills, and PyTorch's other operators, with the bytes
that the last three read and write. It ends with status 1 where something is more than
in the table tests/golden/cuda_launches.csv, which --write writes anew, with that in
docs/gpu.md, which also has the first count, tests/golden/cuda_launches_before.csv.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import trajgru_ext
from trajgru_ext.check import ieee_float32
from trajgru_ext.ops._catalog import cases
from trajgru_ext.ops._operator import Case
from trajgru_ext.ops._samples import Samples

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from emulation import device  # noqa: E402 - from the folder above

TABLE = ROOT / "tests" / "golden" / "cuda_launches.csv"
BEFORE = TABLE.with_name("cuda_launches_before.csv")
DOCUMENT = ROOT / "docs" / "gpu.md"
BEGIN, END = "<!-- from tests/tools/cuda_launches.py -->\n", "<!-- end -->\n"
SIZES = {"B": 2, "C": 16, "F": 16, "G": 16, "L": 2, "H": 3, "W": 7}
FEW, MORE = 4, 8
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
# Kinds of work, by what the emulated device calls it.
KINDS = {
    "kernels": "a kernel",
    "convolutions": "convolution.*",
    "products": "aten::(add)?mm",
    "copies": "a copy",
    "fills": "aten::(zero_|fill_.*)",
    "others": ".*",
}
# Those whose bytes are counted: what nothing computes with is to be little.
MOVED = ("copies", "fills", "others")
COUNTED = [*KINDS, "bytes"]
KEY = ["sequence", "layout", "pass"]
COLUMNS = [*KEY, *COUNTED]
Row = dict[str, str]


class Variant(NamedTuple):
    """Of a sequence: other sizes or another dtype; what may round to TF32."""

    sizes: Mapping[str, int] = MappingProxyType({})
    dtype: torch.dtype = torch.float32
    convolutions: bool = False
    products: bool = False


# Where features come not in whole slices, flow_conv is gathered in chunks, forward too.
ODD = {"F": 12, "G": 12}
# The TrajGRU's, which has other kernels then: in channels last.
VARIANTS = {
    "TF32": Variant(convolutions=True, products=True),
    "default flags": Variant(convolutions=True),
    "bfloat16": Variant(dtype=torch.bfloat16),
    "3 chunks back": Variant({"L": 13}),
    "1 chunk": Variant(ODD),
    "1 chunk, default flags": Variant(ODD, convolutions=True),
    "2 chunks": Variant(ODD | {"L": 13}),
    "2 chunks, default flags": Variant(ODD | {"L": 13}, convolutions=True),
}


def counts() -> Counter[str]:
    """How often each kind of work was done since this was last called, and its bytes.

    Those of what MOVED has.
    """
    found: Counter[str] = Counter()
    for name, often, size in zip(*torch.ops.emulated.counts(), strict=True):
        kind = next(k for k, those in KINDS.items() if re.fullmatch(those, name))
        found[kind] += often
        if kind in MOVED:
            found["bytes"] += size
    return found


def run(
    case: Case, steps: int, layout: torch.memory_format, variant: Variant
) -> list[Counter[str]]:
    """What a forward pass gives to do, and a backward pass."""
    sizes = {**SIZES, **variant.sizes, "T": steps}
    source = Samples(sizes, case.choices, variant.dtype, device.NAME, layout)
    leaves, spec = tree_flatten(case.operator.sample(source))
    for one in leaves:
        if isinstance(one, Tensor) and one.is_floating_point():
            one.requires_grad_()
    given = tree_unflatten(leaves, spec)
    counts()
    found = case.operator.call(trajgru_ext, given)
    forward = counts()
    seeds = [torch.full_like(one, 0.5) for one in found]
    wanted = [
        one
        for one in tree_leaves(given)
        if isinstance(one, Tensor) and one.requires_grad
    ]
    counts()
    torch.autograd.grad(found, wanted, seeds)
    return [forward, counts()]


def measure() -> Iterator[Row]:
    """The rows of the table."""
    device.load()
    for case in cases():
        if not case.operator.recurrent:
            continue
        for name in FORMATS:
            yield from measure_case(case, case.title, name, Variant())
        for title, variant in VARIANTS.items() if case.title == "traj_gru" else ():
            yield from measure_case(
                case, f"traj_gru, {title}", "channels last", variant
            )


def measure_case(case: Case, title: str, name: str, variant: Variant) -> Iterator[Row]:
    """The rows of one sequence, in the layout of that name."""
    with ieee_float32():
        torch.backends.cuda.matmul.allow_tf32 = variant.products
        torch.backends.cudnn.allow_tf32 = variant.convolutions
        few, more = (run(case, steps, FORMATS[name], variant) for steps in (FEW, MORE))
    for k, which in enumerate(("forward", "backward")):
        each = {
            kind: f"{(more[k][kind] - few[k][kind]) / (MORE - FEW):g}"
            for kind in COUNTED
        }
        yield {"sequence": title, "layout": name, "pass": which, **each}


def read_table(table: Path = TABLE) -> list[Row]:
    with table.open() as file:
        return list(csv.DictReader(file))


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def beside_products(row: Row) -> str:
    """All kinds but convolutions and products."""
    kinds = set(KINDS) - {"convolutions", "products"}
    return f"{sum(float(row[kind]) for kind in kinds):g}"


def markdown(rows: list[Row]) -> str:
    """The table for a document."""
    before = {key(row): beside_products(row) for row in read_table(BEFORE)}
    lines = [[*COLUMNS, "all but convolutions and products", "before"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        lines.append([*row.values(), beside_products(row), before.get(key(row), "")])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def between() -> str:
    """What the document has between the marks."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]


def write(rows: list[Row]) -> None:
    with TABLE.open("w") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    before, after = (
        DOCUMENT.read_text().split(mark)[k] for k, mark in ((0, BEGIN), (1, END))
    )
    DOCUMENT.write_text(f"{before}{BEGIN}{markdown(rows)}{END}{after}")


def more_than_in_the_table(rows: list[Row]) -> list[tuple[Row, Row | None]]:
    """The rows that are worse, and what the table has for them."""
    table = {key(row): row for row in read_table()}
    pairs = [(row, table.get(key(row))) for row in rows]
    return [
        (row, before)
        for row, before in pairs
        if before is None or any(float(row[k]) > float(before[k]) for k in COUNTED)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="the tables, anew")
    options = parser.parse_args()
    rows = list(measure())
    if options.write:
        write(rows)
    bad = more_than_in_the_table(rows)
    for row, before in bad:
        print(f"worse: {row}\n  was {before}")
    print(f"{len(rows)} passes, {len(bad)} worse than {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
