"""What every benchmark shares: interleaved timing, the machine's facts, reports.

On a GPU (BENCH_DEVICE=cuda, as run.py sets it; not yet run on one) all tensors are made
there, times are those between CUDA events, and each run finds the L2 cache cold. What
sides compute is checked in IEEE float32, and timed as torch computes float32 there,
which for convolutions is TF32: that costs digits, and the bounds of the checks are
tighter.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from results_folder import results_folder
from sgemm import machine_rates
from torch.utils.benchmark import Timer

from trajgru_ext.info import collect

Side = Callable[[], object]
if "BENCH_DEVICE" in os.environ:
    torch.set_default_device(os.environ["BENCH_DEVICE"])
BACKENDS: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
ALLOWED = [backend.allow_tf32 for backend in BACKENDS]  # as torch has it
for backend in BACKENDS:
    backend.allow_tf32 = False
MOST_BUSY = 0.05  # seconds that a GPU is kept busy before what is timed
# glibc gives a freed block back to the system, so that the next call pages it in anew,
# until it has once freed one as large, of at most 32 MiB. A network does so at its
# first step: all sides are measured as after that.
torch.empty(31 << 20, dtype=torch.uint8)


def add_arguments(
    parser: argparse.ArgumentParser, name: str
) -> argparse.ArgumentParser:
    """Add the options that every benchmark has."""
    parser.add_argument("--rounds", type=int, default=15, help="rounds of every side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--json",
        type=Path,
        default=results_folder(device() == "cuda") / f"{name}.json",
        help="where the figures are written",
    )
    return parser


def arguments(doc: str | None, name: str) -> argparse.Namespace:
    """Parse them, and set the threads."""
    options = add_arguments(argparse.ArgumentParser(description=doc), name).parse_args()
    torch.set_num_threads(options.threads)
    return options


def device() -> str:
    """The kind of device that the sides run on."""
    return torch.empty(0).device.type


@contextmanager
def as_timed() -> Iterator[None]:
    """Within it, float32 is computed as torch does unless it is told otherwise."""
    before = [backend.allow_tf32 for backend in BACKENDS]
    try:
        for backend, allowed in zip(BACKENDS, ALLOWED, strict=True):
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, allowed in zip(BACKENDS, before, strict=True):
            backend.allow_tf32 = allowed


def machine() -> dict[str, object]:
    """The machine and the versions that the figures hold for."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = ("trajgru_ext", "python", "torch", "cpu capability", "compiler")
    facts = {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "device": device(),
        **{k: collect()[k] for k in versions},
    }
    if device() == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def medians(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """Median milliseconds of each side, one run of each in turn.

    Taking turns gives every side the same share of whatever else the machine does.
    """
    if device() != "cpu":
        return _device_medians(sides, rounds)
    timers = {
        name: Timer(
            "side()", globals={"side": side}, num_threads=torch.get_num_threads()
        )
        for name, side in sides.items()
    }
    # About 20 ms each, so that the clock's resolution and a single interruption
    # matter little.
    repeats = {
        name: max(1, int(0.02 / max(timer.timeit(2).median, 1e-6)))
        for name, timer in timers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(repeats[name]).median)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def medians_of_models(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """The same where a run may take many seconds, and is then made once a turn.

    The timer that `medians` has warms up again before every turn.
    """
    if device() != "cpu":
        return _device_medians(sides, rounds)

    def mean(side: Side, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            side()
        return (time.perf_counter() - start) / repeats

    for side in sides.values():
        side()
    # A fifth of a second, of which a single interruption is little.
    repeats = {n: max(1, int(0.2 / mean(side, 1))) for n, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(mean(side, repeats[name]))
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def _device_medians(sides: dict[str, Side], rounds: int) -> dict[str, float]:
    """The device is busy while the host launches what is timed: its time is measured.

    That of a side which launches more than the queue holds, about a thousand kernels,
    or waits for the device, is in part the host's.
    """
    gpu: Any = torch.get_device_module(device())
    cache = gpu.get_device_properties(0).L2_cache_size
    other = torch.empty(2 * cache, dtype=torch.uint8)  # takes the inputs' place in it
    times: dict[str, list[float]] = {name: [] for name in sides}
    busy: dict[str, int] = {}  # cycles for twice as long as the host launches a side

    with as_timed():
        for _ in range(2):  # warms up, and then says how long the host takes
            for name, side in sides.items():
                begun = time.perf_counter()
                side()
                seconds = 2 * (time.perf_counter() - begun)
                # No clock of a GPU is much above 2 GHz. A display's GPU may not be
                # busy for seconds.
                busy[name] = int(2e9 * min(max(1e-3, seconds), MOST_BUSY))
                gpu.synchronize()
        for _ in range(rounds):
            for name, side in sides.items():
                other.zero_()
                gpu._sleep(busy[name])
                start, end = (gpu.Event(enable_timing=True) for _ in range(2))
                start.record()
                side()
                end.record()
                gpu.synchronize()
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(title: str, times: dict[str, float], ours: str) -> None:
    """Each side's median, and how many times ours it takes."""
    print(f"\n{title}")
    for name, ms in times.items():
        print(f"  {name:<32} {ms:9.3f} ms   {ms / times[ours]:6.2f} x ours")


def _on_one_line(items: re.Match[str]) -> str:
    """A list of JSON that has no other within."""
    return f"[{' '.join(items[1].split())}]"


def write(path: Path, records: list[dict[str, object]]) -> None:
    """Write the figures with the machine they were measured on.

    On a GPU each says how float32 was computed; the CPU computes it as IEEE has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with as_timed():
        rates = machine_rates()
        precision = {"float32": collect()["float32 on a GPU"]}
    if device() != "cpu":
        records = [precision | record for record in records]
    report = {"machine": machine() | rates, "records": records}
    text = json.dumps(report, indent=1)
    text = re.sub(r"\[\n([^][{}]*)\]", _on_one_line, text)
    path.write_text(text + "\n")
    print(f"\nwritten to {path}")
