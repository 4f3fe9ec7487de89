"""The 32-byte sectors of memory that each CUDA kernel's warps touch, without a GPU.

`python tests/tools/cuda_sectors.py [--write]` runs every operator, forward and
backward, on the host with a trace of each load, store and atomic addition, and counts
for each kernel the sectors that its warps' accesses touch and the fewest that could
hold the bytes they want; of a block's loads the different sectors, against what its
warps want, one by one, which is below 1 where they find each other's; of shared memory,
the wavefronts that its banks take, and the fewest that could. It ends with status 1
where a kernel touches a larger share too many than the table
tests/golden/cuda_sectors.csv has, which --write writes anew;
`--operators flow_conv` runs some operators alone, and leaves the rows of other kernels.
"""

import argparse
import csv
import ctypes
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import torch
from cuda_static import kernel_name
from reproducible_results import SIZES, derivatives, samples
from torch.utils._pytree import tree_map

from trajgru_ext.ops._operator import Case
from trajgru_ext.ops._options import GruOptions

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests"))

from emulation import device  # noqa: E402 - from the folder above

TABLE = ROOT / "tests" / "golden" / "cuda_sectors.csv"
KINDS = ("load", "block", "store", "atomic", "bank")
COLUMNS = ["layout", "kernel", *KINDS, "where"]
FORMATS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}


class Trace:
    """Reads the counts of the traced library, and says where they come from."""

    def __init__(self) -> None:
        self.library = device.load("trace")
        self.handle = ctypes.CDLL(str(self.library))
        self.handle.trace_lines.restype = ctypes.c_char_p
        self.handle.trace_begin()
        self.frames: dict[str, list[tuple[str, str]]] = {}

    def read(self) -> list[tuple[str, str, str, int, int]]:
        """(kernel, source line, kind, sectors, fewest) of what has run."""
        lines = [
            line.split() for line in self.handle.trace_lines().decode().split("\n")
        ]
        lines = [line for line in lines if line]
        self.find({address for line in lines for address in line[5:]})
        found = []
        for kind, _, _, sectors, fewest, *path in lines:
            frames = [frame for at in reversed(path) for frame in self.frames[at]]
            kernel = next(name for name, _ in frames if "_kernel<" in name)
            where = next(line for _, line in frames if "/csrc/" in line)
            line = where.split("/csrc/")[1].split(" ")[0]
            found.append((kernel_name(kernel), line, kind, int(sectors), int(fewest)))
        return found

    def find(self, addresses: set[str]) -> None:
        """The functions and source lines at the addresses, the innermost first."""
        new = sorted(addresses - self.frames.keys())
        if not new:
            return
        text = subprocess.run(
            ["addr2line", "-afiC", "-e", str(self.library), *new],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for address, block in zip(
            new, re.split(r"^0x\w+\n", text, flags=re.M)[1:], strict=True
        ):
            lines = block.splitlines()
            self.frames[address] = list(zip(lines[::2], lines[1::2], strict=True))


def traced_samples(layout: str, outputs: int) -> dict[str, tuple[Case, dict]]:
    """Operators, and rows and pixels of whole sectors.

    A warp's threads go the same way, so that their n-th accesses belong together: flows
    stay within the image, and no slope is that of a negative number.
    """
    sizes = SIZES | {"C": 32, "F": 32, "O": outputs, "H": 16, "W": 32}
    given = samples(sizes, layout=FORMATS[layout])
    del given["traj_gru"]  # Its kernels are flow_conv's and conv_gru's.
    ramp = torch.linspace(1, -1, 32).expand(2, 1, 16, 32)
    moved = ("flow_warp", "flow", 1), ("flow_warp, border", "flow", 1)
    for title, flow, links in (*moved, ("flow_conv", "flows", 2)):
        flows = 0.4 * ramp.sign().repeat(1, 2 * links, 1, 1)
        flows[:, 1::2] = 0.4 * torch.linspace(1, -1, 16).sign()[:, None]
        given[title][1][flow] = flows.contiguous(memory_format=FORMATS[layout])
    case, arguments = given["hff_concat, affine"]
    given["hff_concat, affine"] = (case, tree_map(abs, arguments))
    return given


# Of a flow_conv: what products of matrices multiply, and what its own kernel does.
OUTPUTS = {"chunks": SIZES["O"], "tiles": 192}


def cases(layout: str, only: list[str] | None) -> list[tuple[Case, dict]]:
    """All operators, or some."""
    found = traced_samples(layout, OUTPUTS["chunks"])
    found["flow_conv, tiles"] = traced_samples(layout, OUTPUTS["tiles"])["flow_conv"]
    return [
        (case, given)
        for case, given in found.values()
        if only is None or case.operator.name in only
    ]


def in_tiles(layout: str, dtype: torch.dtype) -> None:
    """A flow_conv in one kernel, and a step of TrajGRU, which is no public operator."""
    given = traced_samples(layout, OUTPUTS["tiles"])["flow_conv"][1]
    h, weight = (given[name].to(device.NAME, dtype) for name in ("input", "weight"))
    flows = given["flows"].to(device.NAME, torch.float32)
    torch.ops.trajgru_ext.flow_conv(h, flows, weight)
    if layout == "planes":
        return
    gates = h.repeat(1, 3, 1, 1).contiguous(memory_format=FORMATS[layout])
    mask = torch.zeros_like(h, dtype=torch.bool)
    torch.ops.trajgru_ext.flow_conv_gru_step(
        *(gates, h, flows, weight[: gates.shape[1]], -1.0, True),
        *(GruOptions.choose("").numbers(), mask),
        *(torch.empty_like(h), torch.empty_like(h), None, None),
    )


def measure(only: list[str] | None) -> list[dict[str, str]]:
    """The rows of the table."""
    trace = Trace()
    counts = defaultdict(lambda: [0, 0])
    for layout in FORMATS:
        for dtype in (torch.float32, torch.bfloat16):
            for case, given in cases(layout, only):
                # Where a fixed order is asked for, or float32 stays what it is, other
                # kernels are launched.
                warps = case.operator.family == "flow"
                for fixed_order in (False, True) if warps else (False,):
                    torch.use_deterministic_algorithms(fixed_order)
                    derivatives(case, given, dtype, device.NAME)
                    torch.accelerator.synchronize()
                torch.use_deterministic_algorithms(False)
                for rounds in (False, True) if case.title == "flow_conv" else ():
                    torch.backends.cudnn.allow_tf32 = rounds
                    in_tiles(layout, dtype)
                    torch.accelerator.synchronize()
                for kernel, line, kind, sectors, fewest in trace.read():
                    for part in "", line:
                        count = counts[layout, kernel, kind, part]
                        count[0] += sectors
                        count[1] += fewest
    rows = []
    for layout, kernel in dict.fromkeys(key[:2] for key in counts):
        row = {"layout": layout, "kernel": kernel}
        for kind in KINDS:
            sectors, fewest = counts.get((layout, kernel, kind, ""), (0, 0))
            row[kind] = f"{sectors / fewest:.2f}" if fewest else ""
        places = {
            f"{key[2]} {key[3]}": sectors - fewest
            for key, (sectors, fewest) in counts.items()
            if key[:2] == (layout, kernel) and key[3] and key[2] != "block"
        }
        worst = max(places, key=places.__getitem__)
        row["where"] = worst if places[worst] else ""
        rows.append(row)
    return sorted(rows, key=by_kernel)


def by_kernel(row: dict[str, str]) -> tuple[str, str]:
    return row["kernel"], row["layout"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="the table, anew")
    parser.add_argument("--operators", nargs="+", help="names, of some of them")
    options = parser.parse_args()
    rows = measure(options.operators)
    with TABLE.open() as file:
        table = {(row["layout"], row["kernel"]): row for row in csv.DictReader(file)}
    if options.write:
        kept = table if options.operators else {}
        table = kept | {(row["layout"], row["kernel"]): row for row in rows}
        with TABLE.open("w") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(table.values(), key=by_kernel))
    bad = 0
    for row in rows:
        before = table.get((row["layout"], row["kernel"]))
        if before is None:
            print(f"not in the table: {row}")
        elif all(float(row[kind] or 0) <= float(before[kind] or 0) for kind in KINDS):
            continue
        else:
            print(f"worse: {row}\n  was {before}")
        bad += 1
    print(
        f"{len(rows)} kernels and layouts, {bad} worse than {TABLE.relative_to(ROOT)}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
