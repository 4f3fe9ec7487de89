"""TrajGRU, ConvGRU and ConvLSTM compared: accuracy, time and memory of equal networks.

Each is the encoder-forecaster of `trajgru_ext.nowcasting`, of two levels; ConvGRU and
ConvLSTM get the widths, multiples of 4, whose number of parameters is nearest to that
of TrajGRU. All are trained by the same loss, optimiser and rate for as many steps, on
batches that for a seed are the same in the same order: on moving digits, and on rain
where frames are given. Tested are movies of digits that training never sees, and the
event of the first frames given; the rest are trained on, but for what was within a day
of it. Persistence and the forecasts along the motion are of the same starts.

Of rain those pixels count that all of these know. CSI is the mean over lead times,
"last" that of the last one. Intervals are Student's of 95 % over the seeds alone: what
other test movies or events would give is not in them. Times are medians of training
steps of the three in turn, memory is what a step adds at its peak, after one on
smaller frames.
"""

import argparse
import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from bench_skill import recordings
from compare_table import NAMES
from measure import add_arguments, medians_of_models, write
from peak_memory import peak_mib
from torch import Tensor

from trajgru_ext.nowcasting import ZR, Scores, Windows, carry_on, fill_missing
from trajgru_ext.nowcasting.archive import Series
from trajgru_ext.nowcasting.baselines import BASELINES
from trajgru_ext.nowcasting.fit import starts
from trajgru_ext.nowcasting.motion import estimate_motion
from trajgru_ext.nowcasting.network import DIVISOR, network
from trajgru_ext.nowcasting.radar import HKO7, pixels_to_rain, rain_to_pixels
from trajgru_ext.nowcasting.training import Training

CHANNELS = 16  # of the convolutions beside the finer level, in all three
FEATURES = (16, 32)  # of TrajGRU's states, the finer level first
MULTIPLE = 4  # of the states' channels, for which kernels are made
WIDEST = 48  # channels of a state
MARGIN = 0.03  # share by which numbers of parameters may differ

PAST = 5
STEPS, BATCH, SEEDS = 300, 4, 3
RATE, BALANCE = 2e-3, 0.5  # as the nowcaster and the demonstration have them

MOVIES, TESTS = 1024, 64
MOVIES_AHEAD = 10
BRIGHTNESSES = (0.25, 0.5, 0.75)

MINUTES = 30
THRESHOLDS = (0.5, 2.0, 5.0)  # mm/h
CROP = 64  # pixels a side, in training
CROPS = 1024  # at most
WET = 0.1  # share of a crop's last past frame
STARTS = 8
APART = np.timedelta64(1, "D")  # within it rain resembles itself

DIGITS = runpy.run_path(
    str(Path(__file__).parent.parent / "examples" / "digits.py"),
)


class Case(NamedTuple):
    """A forecast to be scored: `[T, H, W]` each, and which of the pixels count."""

    past: Tensor
    came: Tensor
    mask: Tensor


@dataclass
class Task:
    """Frames to train on and to test with."""

    name: str
    frames: Tensor  # [S, PAST + ahead, H, W]
    cases: list[Case]
    ahead: int
    thresholds: tuple[float, ...]  # mm/h, as of the scores
    zr_of_training: ZR
    zr: ZR | None  # None of brightness
    about: dict[str, Any]


def parameters(kind: str, features: tuple[int, int]) -> int:
    """How many the network has, which is not made for it."""
    with torch.device("meta"):
        net = network(kind, 1, channels=CHANNELS, features=features)
    return sum(one.numel() for one in net.parameters())


def equal_widths(kind: str) -> tuple[int, int]:
    """The widths with about as many parameters as TrajGRU has.

    The coarser level has one to two times the channels of the finer, as in TrajGRU.
    """
    wanted = parameters("traj_gru", FEATURES)
    if kind == "traj_gru":
        return FEATURES
    return min(
        (
            (fine, coarse)
            for fine in range(MULTIPLE, WIDEST + 1, MULTIPLE)
            for coarse in range(fine, 2 * fine + 1, MULTIPLE)
        ),
        key=lambda features: abs(parameters(kind, features) - wanted),
    )


def in_training(kind: str, seed: int, steps: int, ahead: int, zr: ZR) -> Training:
    """A network with its optimiser, before its first step."""
    torch.manual_seed(seed)
    net = network(kind, ahead, channels=CHANNELS, features=equal_widths(kind))
    settings = {"rate": RATE, "steps": steps, "batch": BATCH, "seed": seed}
    settings |= {"balance": BALANCE, "amp": False, "data": {"zr": [zr.a, zr.b]}}
    return Training(net, settings, torch.device("cpu"))


def prepare_step(kind: str, ahead: int, size: int) -> Callable[[], object]:
    """A training step on frames of noise, for what takes as long with any frames."""
    training = in_training(kind, 0, 10**6, ahead, HKO7)
    random = torch.Generator().manual_seed(0)
    frames = torch.rand(BATCH, PAST + ahead, 1, size, size, generator=random)
    past, came = frames[:, :PAST], frames[:, PAST:]
    mask = torch.ones_like(came, dtype=torch.bool)
    return lambda: training._step(training.net, past, came, mask)


def prepare_memory(kind: str, ahead: int, size: int) -> Callable[[], object]:
    """For peak_mib: a training step that is about to run.

    After one on smaller frames, so that what libraries need once does not count.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    prepare_step(kind, ahead, DIVISOR)()
    return prepare_step(kind, ahead, size)


def digits() -> Task:
    """The demonstration's movies."""
    count = PAST + MOVIES_AHEAD
    make = DIGITS["moving_digits"]
    learned, tested = make(MOVIES, count, 0), make(TESTS, count, 1, test=True)
    cases = [
        Case(one[:PAST], one[PAST:], torch.ones_like(one[PAST:], dtype=torch.bool))
        for one in tested.float() / 255
    ]
    rates = pixels_to_rain(torch.tensor(BRIGHTNESSES, dtype=torch.float64))
    about = {
        "size": learned.shape[-1],
        "windows": len(learned),
        "tests": len(cases),
        "thresholds": [f"{one:g}" for one in BRIGHTNESSES],
        "lead": f"{MOVIES_AHEAD} frames",
    }
    frames = learned.float() / 255
    thresholds = tuple(rates.tolist())
    return Task("digits", frames, cases, MOVIES_AHEAD, thresholds, HKO7, None, about)


def wet_crops(series: Series, length: int, random: torch.Generator) -> Tensor:
    """Crops where every pixel is known and it rains, `[S, length, CROP, CROP]`."""
    frames = series[slice(0, len(series.times))]
    bound = rain_to_pixels(torch.tensor(THRESHOLDS[0]), series.archive.zr).item()
    shares = [
        F.avg_pool2d(one.float()[:, None], CROP, CROP // 2)[:, 0]
        for one in (frames >= bound, frames.isnan())
    ]
    found = []
    for begin in range(len(frames) - length + 1):
        wet = shares[0][begin + PAST - 1] > WET
        whole = shares[1][begin : begin + length].amax(0) == 0
        found += [(begin, *corner) for corner in (wet & whole).nonzero().tolist()]
    chosen = torch.randperm(len(found), generator=random)[:CROPS].tolist()
    crops = []
    for begin, row, column in (found[k] for k in chosen):
        i, j = row * (CROP // 2), column * (CROP // 2)
        crops.append(frames[begin : begin + length, i : i + CROP, j : j + CROP])
    return torch.stack(crops) if crops else torch.empty(0, length, CROP, CROP)


def rain_cases(series: Series, ahead: int, wanted: int) -> list[Case]:
    """Forecasts spread over an event, of frames as large as the network takes."""
    bound = rain_to_pixels(torch.tensor(THRESHOLDS[0]), series.archive.zr).item()
    cases = []
    for end in starts(series, bound, PAST, ahead, wanted):
        frames = series[slice(end - PAST + 1, end + 1 + ahead)]
        height, width = (n - n % DIVISOR for n in frames.shape[1:])
        frames = frames[:, :height, :width]
        past, came = frames[:PAST], frames[PAST:]
        motion = estimate_motion(past[:, None, None])
        mask = carry_on(torch.ones(1, 1, height, width), motion, ahead)[1][:, 0, 0]
        mask = mask & ~came.isnan()
        for make in BASELINES.values():  # all are scored on what all of them know
            mask &= ~make(past, ahead, series.archive.zr).isnan()
        cases.append(Case(past, came, mask))
    return cases


def rain(paths: list[Path], wanted: int) -> Task:
    """Radar frames: the event of the first path is tested, the others are learned."""
    tested = dict(recordings(paths[:1], []))
    if not tested:
        raise SystemExit(f"{paths[0]}: wanted an hour of frames and more, to test with")
    of_test = next(iter(tested.values())).archive
    minutes = of_test.minutes
    ahead = round(MINUTES / minutes)
    random = torch.Generator().manual_seed(0)
    parts: list[Tensor] = []
    names: list[str] = []
    zr: ZR | None = None
    for name, series in recordings(paths[1:], []):
        if series.archive.minutes != minutes:
            print(f"{name} is left out: it is not at the {minutes:g} minutes' step")
            continue
        if any(
            series.times[0] <= one.times[-1] + APART
            and one.times[0] <= series.times[-1] + APART
            for one in tested.values()
        ):
            print(f"{name} is left out: it was within a day of what is tested")
            continue
        if zr not in (None, series.archive.zr):
            print(f"{name} is left out: it does not make rain by {zr}")
            continue
        crops = wet_crops(series, PAST + ahead, random)
        if len(crops):
            parts.append(crops)
            names.append(name)
            zr = series.archive.zr
    if not parts or zr is None:
        raise SystemExit("wanted rain to train on, of another day than what is tested")
    frames = torch.cat(parts)
    frames = frames[torch.randperm(len(frames), generator=random)[:CROPS]]
    cases = [case for one in tested.values() for case in rain_cases(one, ahead, wanted)]
    if not cases:
        raise SystemExit(f"{paths[0]}: wanted rain to test with")
    about = {
        "size": CROP,
        "windows": len(frames),
        "tests": len(cases),
        "thresholds": [f"{one:g} mm/h" for one in THRESHOLDS],
        "lead": f"{MINUTES} min",
        "trained_on": names,
        "tested_on": [*tested],
        "frames_tested": [*cases[0].came.shape[1:]],
    }
    return Task("rain", frames, cases, ahead, THRESHOLDS, zr, of_test.zr, about)


def scored(task: Task, forecast: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Scores of a forecaster of pixels `[T, H, W]`."""
    scores = Scores(task.ahead, task.thresholds, task.zr or HKO7)
    squares, pixels = 0.0, 0
    for past, came, mask in task.cases:
        made = forecast(past)
        scores.update(made[:, None, None], came[:, None, None], mask[:, None, None])
        squares += (made - came)[mask].double().square().sum().item()
        pixels += int(mask.sum())
    csi = scores.compute()["csi"].double()
    if csi.isnan().any():
        raise SystemExit(f"{task.name}: wanted rain at or above every threshold")
    return {
        "mse": round(squares / pixels, 6),
        "csi": [round(one, 4) for one in csi.mean(0).tolist()],
        "csi_last": [round(one, 4) for one in csi[-1].tolist()],
    }


def trained(task: Task, kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one network, and score it."""
    training = in_training(kind, seed, steps, task.ahead, task.zr_of_training)
    windows = Windows(task.frames, PAST, task.ahead)
    with tempfile.TemporaryDirectory() as folder:
        training.run(windows, Path(folder) / "checkpoint.pt", save_every=steps)
    net = training.net.eval()

    @torch.no_grad()
    def forecast(past: Tensor) -> Tensor:
        made: Tensor = net(fill_missing(past)[:, None, None])
        return made[:, 0, 0].clamp(0, 1)

    last = training.losses[-max(1, steps // 10) :]
    loss = round(sum(last) / len(last), 6)
    return {"seed": seed, "loss": loss} | scored(task, forecast)


def measured_costs(task: Task, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds and memory of a training step of each."""
    size = task.about["size"]
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    sides = {kind: prepare_step(kind, task.ahead, size) for kind in NAMES}
    times = medians_of_models(sides, rounds)
    return {
        "step_ms": {kind: round(ms, 1) for kind, ms in times.items()},
        "peak_mib": {
            kind: round(peak_mib(prepare_memory, kind, task.ahead, size), 1)
            for kind in NAMES
        },
    }


def tasks(frames: list[Path], wanted: int) -> Iterator[Task]:
    yield digits()
    if len(frames) > 1:
        yield rain(frames, wanted)
    else:
        print("rain is left out: give frames to test on and frames to train on")


def main() -> None:
    """Measure costs, train all, and write the report."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "compare")
    parser.add_argument(
        "frames", type=Path, nargs="*", help="to test on, then those to train on"
    )
    parser.add_argument("--starts", type=int, default=STARTS, help="forecasts of rain")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a training")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    features = {kind: equal_widths(kind) for kind in NAMES}
    counts = {kind: parameters(kind, widths) for kind, widths in features.items()}
    print(features, counts)
    if max(counts.values()) > (1 + MARGIN) * min(counts.values()):
        raise SystemExit(f"wanted about as many parameters, got {counts}")
    alike = {"features": features, "parameters": counts, "past": PAST}
    alike |= {"steps": options.steps, "batch": BATCH, "rate": RATE, "balance": BALANCE}
    records: list[dict[str, Any]] = []
    given = [*tasks(options.frames, options.starts)]
    for task in given:
        record = {"data": task.name, **alike, "ahead": task.ahead, **task.about}
        record |= measured_costs(task, options.rounds)
        record["trainings"] = {kind: [] for kind in NAMES}
        record["untrained"] = {
            name: scored(
                task, lambda past, make=make, t=task: make(past, t.ahead, t.zr)
            )
            for name, make in BASELINES.items()
        }
        print({k: v for k, v in record.items() if k not in alike}, flush=True)
        records.append(record)
    for seed in range(options.seeds):
        for task, record in zip(given, records, strict=True):
            for kind in NAMES:
                found = trained(task, kind, seed, options.steps)
                print(task.name, kind, found, flush=True)
                record["trainings"][kind].append(found)
    write(options.json, records)


if __name__ == "__main__":
    main()
