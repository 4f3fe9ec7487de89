"""The tables of `bench_compare.py`: scores with intervals, time and memory."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scipy.stats import t

LEVEL = 0.95
NAMES = {"traj_gru": "TrajGRU", "conv_gru": "ConvGRU", "conv_lstm": "ConvLSTM"}
FIRST = "traj_gru"  # in whose times those of the others are given

Record = dict[str, Any]
Table = tuple[str, list[str], list[list[str]]]  # words before it, columns, rows
WHEN = ("trained", "tested")
BOUNDS = ("low", "middle", "high")


def half_width(values: Sequence[float]) -> float:
    """Of Student's interval of the mean; not a number for fewer than two values."""
    count = len(values)
    if count < 2:
        return math.nan
    quantile = float(t.ppf((1 + LEVEL) / 2, count - 1))
    return quantile * statistics.stdev(values) / math.sqrt(count)


def figure(values: Sequence[float], sign: str = "", digits: int = 3) -> str:
    """The mean and its interval."""
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    half = half_width(values)
    return mean if math.isnan(half) else f"{mean} ± {half:.{digits}f}"


def sides(
    record: Record, scores: Callable[[Record], list[float]], digits: Sequence[int]
) -> Iterator[tuple[str, list[str]]]:
    """Of every network, forecast without training and difference, the scores."""

    def cells(trainings: Sequence[Sequence[float]], sign: str = "") -> list[str]:
        each = zip(*trainings, strict=True)
        return [
            figure(one, sign, places) for one, places in zip(each, digits, strict=True)
        ]

    found = {
        kind: [scores(one) for one in trainings]
        for kind, trainings in record["trainings"].items()
    }
    for kind, of in found.items():
        yield kind, cells(of)
    for name, one in record["untrained"].items():
        yield name, cells([scores(one)])
    for one, other in itertools.combinations(found, 2):
        # Of the same seed, and so on the same batches.
        less = [
            [a - b for a, b in zip(*pair, strict=True)]
            for pair in zip(found[one], found[other], strict=True)
        ]
        yield f"{NAMES[one]} less {NAMES[other]}", cells(less, "+")


def costs(record: Record, kind: str) -> list[str]:
    """Parameters, time and memory, of what is trained."""
    if kind not in record["step_ms"]:
        return [""] * 3
    ms = record["step_ms"][kind]
    return [
        f"{record['parameters'][kind]:,}",
        f"{ms:.0f} ({ms / record['step_ms'][FIRST]:.2f})",
        f"{record['peak_mib'][kind]:.0f}",
    ]


def words(record: Record) -> str:
    """What was trained and tested, in a sentence."""
    size, seeds = record["size"], len(record["trainings"][FIRST])
    text = (
        f"**{record['data'].capitalize()}**: {record['past']} frames to "
        f"{record['ahead']}, {seeds} seeds of {record['steps']} steps of "
        f"{record['batch']} of {record['windows']} windows of {size}×{size} pixels; "
        f"{record['tests']} forecasts tested"
    )
    if "tested_on" in record:
        height, width = record["frames_tested"]
        learned, tested = (", ".join(record[f"{one}_on"]) for one in WHEN)
        text += (
            f", of {height}×{width} pixels; trained on {learned}, tested on {tested}"
        )
    bounds = ", ".join(record["thresholds"])
    return f"{text}. Low, middle and high are {bounds}."


def tables(report: Record) -> Iterator[Table]:
    """Costs and mean scores of all data, then the scores of the last lead time."""
    records = [one for one in report["records"] if "trainings" in one]
    if not records:
        return
    facts = report["machine"]
    threads = "one thread" if facts["threads"] == 1 else f"{facts['threads']} threads"
    text = "\n\n".join(map(words, records))
    widths = "; ".join(
        f"{NAMES[kind]} {' and '.join(map(str, features))}"
        for kind, features in records[0]["features"].items()
    )
    text += (
        f"\n\nChannels of the states: {widths}. Measured on {facts['processor']}, "
        f"{facts['cpu capability']}, {threads}, torch {facts['torch']}."
    )
    columns = ["", "parameters", "ms a step (times)", "MiB a step"]
    columns += ["MSE × 1000", *(f"CSI, {one}" for one in BOUNDS)]
    rows = []
    for record in records:
        for side, cells in sides(
            record, lambda one: [1000 * one["mse"], *one["csi"]], (1, 3, 3, 3)
        ):
            rows.append([titled(record, side), *costs(record, side), *cells])
    yield text, columns, rows
    rows = []
    for record in records:
        for side, cells in sides(record, lambda one: one["csi_last"], (3, 3, 3)):
            rows.append([titled(record, side), *cells])
    leads = " and ".join(f"{one['data']} +{one['lead']}" for one in records)
    yield f"The last lead time alone, {leads}:", ["", *columns[-3:]], rows


def titled(record: Record, side: str) -> str:
    return f"{record['data']}, {NAMES.get(side, side.replace('_', ' '))}"
