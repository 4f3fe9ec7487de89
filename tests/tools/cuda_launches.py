"""What a step of a sequence gives a GPU to do, counted on the emulated device.

`python tests/tools/cuda_launches.py [--write]` runs every sequence, forward and
backward, with four steps more than before, and counts what those add: our kernels,
convolutions, products, copies, fills, and PyTorch's other operators, with the bytes
that the last three read and write. It ends with status 1 where something is more than
in the table tests/golden/cuda_launches.csv, which --write writes anew, with that in
docs/gpu.md.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import trajgru_ext
from trajgru_ext.check import ieee_float32
from trajgru_ext.ops._catalog import Case, cases
from trajgru_ext.ops._samples import Samples

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from emulation import device  # noqa: E402 - from the folder above

TABLE = ROOT / "tests" / "golden" / "cuda_launches.csv"
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
COLUMNS = ["sequence", "layout", "pass", *COUNTED]
Row = dict[str, str]


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


def run(case: Case, steps: int, layout: torch.memory_format) -> list[Counter[str]]:
    """What a forward pass gives to do, and a backward pass."""
    source = Samples(
        SIZES | {"T": steps}, case.choices, torch.float32, device.NAME, layout
    )
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
        yield from measure_case(case, case.title)
        if case.title == "traj_gru":  # of which a part is another kernel, then
            yield from measure_case(case, f"{case.title}, TF32", tf32=True)


def measure_case(case: Case, title: str, *, tf32: bool = False) -> Iterator[Row]:
    """The rows of one sequence; tf32: products and convolutions may round."""
    for name, layout in FORMATS.items():
        with ieee_float32():
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.backends.cudnn.allow_tf32 = tf32
            few, more = (run(case, steps, layout) for steps in (FEW, MORE))
        for k, which in enumerate(("forward", "backward")):
            each = {
                kind: f"{(more[k][kind] - few[k][kind]) / (MORE - FEW):g}"
                for kind in COUNTED
            }
            yield {"sequence": title, "layout": name, "pass": which, **each}


def read_table() -> list[Row]:
    with TABLE.open() as file:
        return list(csv.DictReader(file))


def markdown(rows: list[Row]) -> str:
    """The table for a document."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([*row.values()] for row in rows)]
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
    table = {tuple(row[k] for k in COLUMNS[:3]): row for row in read_table()}
    pairs = [(row, table.get(tuple(row[k] for k in COLUMNS[:3]))) for row in rows]
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
