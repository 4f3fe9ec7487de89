"""How much sooner 4, 16 and 64 threads would be done, on a machine that has fewer.

`python tests/tools/many_cores.py [--items | --write] [--only TEXT]` runs layers and
operators at the benchmarks' sizes on one thread. A preloaded library (many_cores.c)
runs each parallel loop part by part, as torch cuts it for so many threads, and cut as
finely as it can be, into its items; each part's own time is measured. From these come
two speed-ups for every loop: `cut`, where each thread takes what torch gives it, and
`best`, where the items go to the threads by longest processing time. For a whole case
("all"), with the loops of torch's own operators, what is outside of all loops counts as
done by one thread, and so does what oneDNN and MKL compute. What threads share, as the
bandwidth of memory, is not in these figures.

It ends with status 1 where a loop has fewer items than in the table
tests/golden/many_cores.csv, or a speed-up below 80 % of that there in two measurements;
--items counts alone, which no other work disturbs; --write writes the rows of these
cases anew. Items are those that 64 threads find with AVX2, the fewest of all calls.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from many_cores_cases import Work, cases

from trajgru_ext import _C

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
TORCHS = "torch's"  # loops, which are not ours to cut
NOTED = ("region", "call", "nanoseconds")
SLACK = 0.8  # of a speed-up, which is measured
SHOWN = 0.01  # of a pass's time: loops that take less have no row

Call = tuple[str, list[float]]  # a loop, and the seconds of its parts
Row = dict[str, str]


class Part(ctypes.Structure):
    """As in many_cores.c."""

    _fields_ = tuple((name, ctypes.c_int64) for name in NOTED)


def preload(capability: str) -> None:
    """Start this program again with the library, compiled.

    capability: of ATEN_CPU_CAPABILITY; wider vectors may make fewer items.
    """
    LIBRARY.parent.mkdir(exist_ok=True)
    source = Path(__file__).with_suffix(".c")
    compiler = sysconfig.get_config_var("CC").split()[0]
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", LIBRARY, source, "-ldl"]
    subprocess.run([*map(str, command)], check=True)
    alone = {"LD_PRELOAD": str(LIBRARY), "OMP_NUM_THREADS": "1"}
    if capability:
        alone["ATEN_CPU_CAPABILITY"] = capability
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
    return found | {0: TORCHS}


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


def count_items(machine: Machine, work: Work) -> Iterator[Row]:
    """Of one pass, the fewest items that a loop has in a call, for 64 threads."""
    work()
    found: dict[str, int] = {}
    for loop, times in machine.run(work, THREADS[-1], FINE)[0]:
        found[loop] = min(len(times), found.get(loop, FINE))
    for loop, items in found.items():
        yield {"loop": loop, "items": str(items)}


def key(row: Row) -> tuple[str, str, str]:
    return row["case"], row["pass"], row["loop"]


def fewer(row: Row, table: dict[tuple[str, str, str], Row]) -> bool:
    """Whether a loop of ours has fewer items than in the table."""
    before = table.get(key(row))
    ours = row["loop"] != TORCHS
    return ours and before is not None and int(row["items"]) < int(before["items"])


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
    parser.add_argument("--items", action="store_true", help="count, and no times")
    parser.add_argument("--only", default="", help="cases with this in their name")
    options = parser.parse_args()
    if "many_cores" not in os.environ.get("LD_PRELOAD", ""):
        preload("avx2" if options.items else "")
    torch.manual_seed(0)
    torch.empty(31 << 20, dtype=torch.uint8)  # freed blocks are kept: see measure.py
    with TABLE.open() as file:
        table = {key(row): row for row in csv.DictReader(file)}
    machine = Machine()
    look, wrong = (count_items, fewer) if options.items else (measure, worse)
    found = []
    for case, of_case in cases():
        if options.only not in case:
            continue
        for name, work in of_case:
            where = {"case": case, "pass": name}
            rows = [where | row for row in look(machine, work)]
            timed = not options.write and not options.items
            if timed and any(worse(row, table) for row in rows):
                rows = better(rows, [where | row for row in measure(machine, work)])
            for row in rows:
                print(",".join(row.get(one, "") for one in COLUMNS), flush=True)
            found += rows
    if options.write:
        measured = {row["case"] for row in found}
        kept = [row for row in table.values() if row["case"] not in measured]
        with TABLE.open("w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(kept + found, key=lambda row: row["case"]))
        return 0
    bad = [row for row in found if wrong(row, table)]
    for row in bad:
        print(f"worse: {row}\n  was {table.get(key(row))}")
    print(f"{len(found)} loops, {len(bad)} worse than {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
