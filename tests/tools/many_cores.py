"""How much sooner 4, 16 and 64 threads would be done, on a machine that has fewer.

`python tests/tools/many_cores.py [--write] [--only TEXT]` runs layers and operators at
the benchmarks' sizes on one thread. A preloaded library (many_cores.c) runs each
parallel loop part by part, as torch cuts it for so many threads, and cut as finely as
it can be, into its items; each part's own time is measured. From these come two
speed-ups for every loop: `cut`, where each thread takes what torch gives it, and
`best`, where the items go to the threads by longest processing time. For a whole case
("all"), with the loops of torch's own operators, what is outside of all loops counts as
done by one thread, and so does what oneDNN and MKL compute. What threads share, as the
bandwidth of memory, is not in these figures.

It ends with status 1 where a loop has fewer items than in the table
tests/golden/many_cores.csv, or a speed-up below 80 % of that there in two measurements;
--write writes the rows of these cases anew. Items are those that 64 threads find, the
fewest of all calls.
"""

import argparse
import csv
import ctypes
import heapq
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import trajgru_ext
from trajgru_ext import _C
from trajgru_ext.nn import ConvGRU, ConvLSTM, TrajGRU

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "golden" / "many_cores.csv"
LIBRARY = ROOT / "build" / "many_cores.so"
THREADS = (4, 16, 64)
KINDS = ("cut", "best")
SPEEDUPS = [f"{kind} {n}" for kind in KINDS for n in THREADS]
COLUMNS = ["case", "pass", "loop", "items", "share", *SPEEDUPS]
FINE = 1 << 12  # parts that a loop is offered, so that it shows its items
RUNS = 2
# What tells no loop from another.
AROUND = {
    "at",
    "internal",
    "invoke_parallel",
    "parallel_for",
    "trajgru_ext",
    "_GLOBAL__N_1",
    "for_items",
    "for_tiles",
    "for_chunks",
    "for_groups",
    "for_winograd_tiles",
    "run",
    "loop",
    "WinogradConv",
}
NOTED = ("region", "call", "nanoseconds")
SLACK = 0.8  # of a speed-up, which is measured
SHOWN = 0.01  # of a pass's time: loops that take less have no row
BATCH = 3  # as HKO-7's networks are trained

Work = Callable[[], object]
Call = tuple[str, list[float]]  # a loop, and the seconds of its parts
Row = dict[str, str]


class Part(ctypes.Structure):
    """As in many_cores.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in NOTED)


def preload() -> None:
    """Start this program again with the library, compiled."""
    LIBRARY.parent.mkdir(exist_ok=True)
    source = Path(__file__).with_suffix(".c")
    compiler = sysconfig.get_config_var("CC").split()[0]
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", LIBRARY, source, "-ldl"]
    subprocess.run([*map(str, command)], check=True)
    alone = {"LD_PRELOAD": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | alone)


def loop_name(symbol: str) -> str:
    """Where a loop is, of the mangled symbol of its parallel region.

    The functions around it and what they are templates of, two names; and which loop of
    the function it is, if not the first.
    """
    plain = re.sub(r"[ST][0-9A-Z]*_", "", symbol)  # what is said again, or a parameter
    names, at = [], 0
    while found := re.compile(r"[1-9]\d*").search(plain, at):
        at = found.end() + int(found[0])
        if (name := plain[found.end() : at]) not in AROUND:
            names.append(name)
    which = re.search(r"EUl+E(\d+)_", symbol)
    number = f" {int(which[1]) + 2}" if which else ""
    return "::".join(names[:2]) + number


def loops() -> dict[int, str]:
    """The loops of the built library, by the addresses of their regions."""
    said = subprocess.run(
        ["nm", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.split() for line in said.splitlines() if "_omp_fn" in line]
    found = {int(address, 16): loop_name(symbol) for address, _, symbol in lines}
    return found | {0: "torch's"}


class Machine:
    """Of as many threads as one likes, by what the preloaded library measures."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(str(LIBRARY))
        self.library.many_cores_count.restype = ctypes.c_int64
        self.library.many_cores_parts.restype = ctypes.POINTER(Part)
        self.loops = loops()

    def run(self, work: Work, threads: int, parts: int) -> tuple[list[Call], float]:
        """The calls of all loops, and the seconds outside of them."""
        self.library.many_cores_begin(threads, parts)
        begun = time.thread_time()
        work()
        outside = time.thread_time() - begun
        self.library.many_cores_end()
        noted = self.library.many_cores_parts()
        calls: list[Call] = []
        for k in range(self.library.many_cores_count()):
            if noted[k].call == len(calls):
                calls.append((self.loops[noted[k].region], []))
            calls[-1][1].append(1e-9 * noted[k].nanoseconds)
        return calls, outside - sum(sum(times) for _, times in calls)

    def least(self, work: Work, threads: int, parts: int) -> tuple[list[Call], float]:
        """The same, of each part the shortest time of some runs."""
        runs = [self.run(work, threads, parts) for _ in range(RUNS)]
        calls = []
        for same in zip(*(calls for calls, _ in runs), strict=True):
            of_parts = zip(*(times for _, times in same), strict=True)
            calls.append((same[0][0], [min(times) for times in of_parts]))
        return calls, min(outside for _, outside in runs)


def longest_first(items: list[float], threads: int) -> float:
    """When all are done, where whoever is free takes the longest item that is left."""
    done = [0.0] * threads
    for item in sorted(items, reverse=True):
        heapq.heapreplace(done, done[0] + item)
    return max(done)


@dataclass
class Sums:
    """Of all calls of a loop, or of all loops."""

    alone: float = 0.0
    together: float = 0.0
    items: list[int] = field(default_factory=list)

    def add(self, alone: float, together: float) -> None:
        self.alone += alone
        self.together += together


def measure(machine: Machine, work: Work) -> Iterator[Row]:
    """The rows of one pass."""
    work()
    rows: dict[str, Row] = defaultdict(dict)
    for threads in THREADS:
        for kind in KINDS:
            sums: dict[str, Sums] = defaultdict(Sums)
            offered = threads if kind == "cut" else FINE
            calls, outside = machine.least(work, threads, offered)
            sums["all"].add(outside, outside)
            for loop, times in calls:
                last = max(times) if kind == "cut" else longest_first(times, threads)
                for one in sums[loop], sums["all"]:
                    one.add(sum(times), last)
                sums[loop].items.append(len(times))
            for loop, one in sums.items():
                rows[loop][f"{kind} {threads}"] = f"{one.alone / one.together:.1f}"
                rows[loop]["share"] = f"{one.alone / sums['all'].alone:.2f}"
                rows[loop]["items"] = str(min(one.items, default=1))
    for loop, row in sorted(rows.items(), key=lambda row: -float(row[1]["share"])):
        if float(row["share"]) >= SHOWN:
            yield {"loop": loop} | row


def last(*shape: int) -> Tensor:
    """An image, channels last."""
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def passes(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    *tensors: Tensor,
    parameters: tuple[Tensor, ...] = (),
) -> Iterator[tuple[str, Work]]:
    """Forward, and the gradients to the tensors and the parameters."""
    leaves = [one.requires_grad_() for one in tensors]
    found = function(*leaves)
    outputs = (found,) if isinstance(found, Tensor) else found
    seeds = [torch.randn_like(one) for one in outputs]
    to = [*leaves, *parameters]
    yield "forward", lambda: function(*leaves)
    yield (
        "backward",
        lambda: torch.autograd.grad(outputs, to, seeds, retain_graph=True),
    )


def layer(module: nn.Module, steps: int, *image: int) -> Iterator[tuple[str, Work]]:
    """Passes of a layer in training."""
    module = module.to(memory_format=torch.channels_last)
    inputs = last(steps * image[0], *image[1:]).unflatten(0, (steps, image[0]))
    parameters = tuple(module.parameters())
    return passes(lambda given: module(given)[0], inputs, parameters=parameters)


def flows(batch: int, links: int, side: int) -> Tensor:
    """Of some pixels."""
    coarse = torch.randn(batch, 2 * links, max(2, side // 12), max(2, side // 12))
    return 3 * nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def cases() -> Iterator[tuple[str, Iterator[tuple[str, Work]]]]:
    """What is measured."""
    for channels, features, side, links in (
        (8, 64, 96, 13),
        (192, 192, 32, 13),
        (192, 192, 16, 9),
    ):
        title = f"HKO-7's TrajGRU {channels} to {features}, {side}x{side}"
        of = TrajGRU(channels, features, links, zero_flows=False)
        yield title, layer(of, 2, BATCH, channels, side, side)
    for channels, side, links in ((64, 96, 13), (192, 32, 13), (192, 16, 9)):
        weight = torch.randn(3 * channels, links * channels, 1, 1)
        yield (
            f"flow_conv {channels}, {side}x{side}",
            passes(
                trajgru_ext.flow_conv,
                last(BATCH, channels, side, side),
                flows(BATCH, links, side),
                weight,
                torch.randn(3 * channels),
            ),
        )
    for batch, channels, side in ((3, 64, 96), (1, 8, 480)):
        yield (
            f"flow_warp {channels}, {side}x{side}",
            passes(
                trajgru_ext.flow_warp,
                last(batch, channels, side, side),
                flows(batch, 1, side),
            ),
        )
    for batch, channels, outputs, side, taps in (
        (4, 16, 64, 64, 3),
        (4, 64, 256, 64, 3),
        (3, 192, 576, 32, 3),
        (3, 64, 32, 96, 5),
        (4, 256, 512, 16, 5),
    ):
        yield (
            f"conv2d {channels} to {outputs}, {side}x{side}, {taps} taps",
            passes(
                lambda x, w, b, taps=taps: trajgru_ext.conv2d(
                    x, w, b, padding=taps // 2
                ),
                last(batch, channels, side, side),
                last(outputs, channels, taps, taps),
                torch.randn(outputs),
            ),
        )
    for kind in ConvLSTM, ConvGRU:
        for channels, features, side in ((64, 64, 64), (1, 16, 128)):
            title = f"{kind.__name__} {channels} to {features}, {side}x{side}"
            yield title, layer(kind(channels, features, 3), 3, 4, channels, side, side)
    yield (
        "lstm_gates 64, 64x64",
        passes(trajgru_ext.lstm_gates, *(last(4, n * 64, 64, 64) for n in (4, 4, 1))),
    )
    yield (
        "gru_gates 64, 64x64",
        passes(trajgru_ext.gru_gates, *(last(4, n * 64, 64, 64) for n in (3, 3, 1))),
    )
    yield (
        "channel_mean 256, 56x56",
        passes(trajgru_ext.channel_mean, last(8, 256, 56, 56)),
    )
    yield (
        "se_scale 256, 56x56",
        passes(trajgru_ext.se_scale, last(8, 256, 56, 56), torch.randn(8, 256)),
    )
    yield (
        "sk_select 512, 28x28",
        passes(
            lambda one, two, logits: trajgru_ext.sk_select([one, two], logits),
            last(8, 512, 28, 28),
            last(8, 512, 28, 28),
            torch.randn(8, 2, 512),
        ),
    )
    yield (
        "hff_concat 4 of 32, 28x28",
        passes(
            lambda *branches: trajgru_ext.hff_concat(branches),
            *(last(8, 32, 28, 28) for _ in range(4)),
        ),
    )
    yield (
        "spatial_pyramid_pool 256, 13x13",
        passes(
            lambda image: trajgru_ext.spatial_pyramid_pool(image, 4, "max"),
            last(8, 256, 13, 13),
        ),
    )


def key(row: Row) -> tuple[str, str, str]:
    return row["case"], row["pass"], row["loop"]


def worse(row: Row, table: dict[tuple[str, str, str], Row]) -> bool:
    """Whether there is less to share out than in the table."""
    before = table.get(key(row))
    if before is None:  # what hardly takes time may be shown in one run alone
        return float(row["share"]) >= 2 * SHOWN
    return int(row["items"]) < int(before["items"]) or any(
        float(row[one]) < SLACK * float(before[one]) for one in SPEEDUPS
    )


def better(rows: list[Row], again: list[Row]) -> list[Row]:
    """The better of two measurements: others' work only slows things down."""
    other = {key(row): row for row in again}
    for row in rows:
        for one in SPEEDUPS:
            if key(row) in other:
                row[one] = max(row[one], other[key(row)][one], key=float)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="these rows, anew")
    parser.add_argument("--only", default="", help="cases with this in their name")
    options = parser.parse_args()
    if "many_cores" not in os.environ.get("LD_PRELOAD", ""):
        preload()
    torch.manual_seed(0)
    torch.empty(31 << 20, dtype=torch.uint8)  # freed blocks are kept: see measure.py
    with TABLE.open() as file:
        table = {key(row): row for row in csv.DictReader(file)}
    machine = Machine()
    found = []
    for case, of_case in cases():
        if options.only not in case:
            continue
        for name, work in of_case:
            where = {"case": case, "pass": name}
            rows = [where | row for row in measure(machine, work)]
            if not options.write and any(worse(row, table) for row in rows):
                rows = better(rows, [where | row for row in measure(machine, work)])
            for row in rows:
                print(",".join(row[column] for column in COLUMNS), flush=True)
            found += rows
    if options.write:
        measured = {row["case"] for row in found}
        kept = [row for row in table.values() if row["case"] not in measured]
        with TABLE.open("w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(kept + found, key=lambda row: row["case"]))
        return 0
    bad = [row for row in found if worse(row, table)]
    for row in bad:
        print(f"worse: {row}\n  was {table.get(key(row))}")
    print(f"{len(found)} loops, {len(bad)} worse than {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
