"""Score forecasts against the frames that came: of a checkpoint, or of files."""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from trajgru_ext.nowcasting import cli
from trajgru_ext.nowcasting._libraries import one_line
from trajgru_ext.nowcasting.archive import Archive, Series
from trajgru_ext.nowcasting.baselines import BASELINES, Baseline
from trajgru_ext.nowcasting.forecast import archive_for
from trajgru_ext.nowcasting.forecast_files import read_forecast
from trajgru_ext.nowcasting.frames import FramesError
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.network import learned_flows
from trajgru_ext.nowcasting.nowcaster import Nowcaster, rain_pixels
from trajgru_ext.nowcasting.radar import ZR
from trajgru_ext.nowcasting.splits import split
from trajgru_ext.nowcasting.times import written
from trajgru_ext.nowcasting.train import device_of
from trajgru_ext.nowcasting.verification import LEVEL, SCALES, Verification
from trajgru_ext.nowcasting.windows import Windows, fill_missing

Verifications = dict[str, Verification]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli.add_frames(parser)
    cli.add_thresholds(parser)
    what = parser.add_argument_group("what is scored").add_argument
    what("--checkpoint", type=Path, help="beside the baselines")
    what("--test", help="times and events to forecast, as of train (default: all)")
    what("--every", type=cli.positive, default=1, help="frames between two forecasts")
    what(
        "--members", type=cli.natural, default=0, help="of ensembles of the checkpoint"
    )
    what("--forecasts", type=Path, nargs="+", help="NetCDF files instead")
    cli.add_output(parser)
    output = parser.add_argument_group("files").add_argument
    output("--output", type=Path, default=Path("out/nowcast"), help="a folder")


def run(args: argparse.Namespace) -> None:
    """Score as the options say."""
    if (args.checkpoint is None) == (args.forecasts is None):
        raise ValueError("wanted either --checkpoint or --forecasts")
    args.output.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        found = _of_checkpoint(args) if args.checkpoint else _of_files(args)
    table = table_of(found)
    print(table)
    (args.output / "scores.txt").write_text(table + "\n")
    (args.output / "scores.json").write_text(as_json(found))
    from trajgru_ext.nowcasting.plots import plot  # noqa: PLC0415

    plot(found, args.output / "scores.png")


def _of_checkpoint(args: argparse.Namespace) -> Verifications:
    caster = Nowcaster.load(args.checkpoint, device_of(args.device))
    archive = archive_for(args, caster)
    print("\n".join(archive.report), flush=True)
    lengths = {"past": caster.past, "ahead": caster.ahead}
    series = split(archive, "", "", args.test, **lengths)["test"]
    if args.test is None:
        series = split(archive, None, "", None, **lengths)["train"]
    if not series:
        raise ValueError(
            f"--test: no stretch of {caster.past + caster.ahead} frames without a gap"
        )
    brightness = archive.quantity == "brightness"
    forecasts = _forecasts(caster, None if brightness else caster.zr)
    found = {name: Verification(args.thresholds, caster.zr) for name in forecasts}
    archive.check_values(series)
    windows = Windows(series, caster.past, caster.ahead)
    events = [_event(archive, one) for one in series]
    chosen = range(0, len(windows), args.every)
    for index in tqdm(chosen, desc="testing", unit="forecast"):
        recording, begin, _, _ = windows.place(index)
        frames = series[recording][begin : begin + windows.length]
        past, coming = frames[: caster.past], frames[caster.past :]
        for name, make in forecasts.items():
            made = make(past)
            members = None
            if args.members and name == caster.settings["model"]:
                members = caster.members_of(past, made, args.members, index)
            found[name].add(events[recording], made, coming, members)
    grid = series[recording].kind.grid
    _draw(args, caster, forecasts, frames, brightness, grid)
    return found


def _forecasts(
    caster: Nowcaster, zr: ZR | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    def of(baseline: Baseline) -> Callable[[Tensor], Tensor]:
        return lambda past: baseline(past, caster.ahead, zr)

    baselines = {name: of(baseline) for name, baseline in BASELINES.items()}
    return {str(caster.settings["model"]): caster.forecast_pixels, **baselines}


def _event(archive: Archive, series: Series) -> str:
    """The number of the event that a stretch of frames is of."""
    place = series.places[0].tolist()
    for number, one in enumerate(archive.series, 1):
        if (one.places == place).all(1).any():
            return str(number)
    raise AssertionError("a series is of its archive")


def _draw(
    args: argparse.Namespace,
    caster: Nowcaster,
    forecasts: dict[str, Callable[[Tensor], Tensor]],
    frames: Tensor,
    brightness: bool,
    grid: Grid | None,
) -> None:
    """Draw the last forecast beside what came."""
    from trajgru_ext.nowcasting.drawing import Picture, animate, draw  # noqa: PLC0415

    past, coming = frames[: caster.past], frames[caster.past :]
    rows = {"observed": coming}
    rows |= {name: make(past) for name, make in forecasts.items()}
    flows = learned_flows(caster.net, fill_missing(past)[:, None, None])
    picture = Picture(
        past=past,
        rows=rows,
        flows=None if flows is None else flows[:, 0].float().cpu(),
        minutes=caster.minutes,
        rain=not brightness,
        title="Moving digits" if brightness else args.frames.name,
        credit=args.credit,
        zr=caster.zr,
        grid=grid,
    )
    draw(picture, args.output / "forecast.png")
    animate(picture, args.output / "forecast.gif")
    print(f"pictures: {args.output}/forecast.png, forecast.gif")


def _of_files(args: argparse.Namespace) -> Verifications:
    archive = cli.archive_of(args)
    print("\n".join(archive.report), flush=True)
    archive.check_values(archive.series)
    if archive.quantity == "brightness":
        raise ValueError(f"--forecasts: wanted frames of rain, {args.frames} is none")
    found = Verification(args.thresholds, archive.zr)
    leads: dict[int, Path] = {}
    for path in tqdm(args.forecasts, desc="scoring", unit="file"):
        try:
            made = read_forecast(path)
            event, observed, grid = _observed(archive, made.times)
            made = made.on(grid, observed.shape[1:])
            if archive.quantity == "reflectivity" and made.zr not in (
                None,
                str(archive.zr),
            ):
                raise FramesError(
                    f"made rain by {made.zr}, the frames by {archive.zr}: give --zr"
                )
        except FramesError as error:
            raise FramesError(f"{path}: {error}") from error
        except Exception as error:
            raise FramesError(f"{path}: cannot be read ({one_line(error)})") from error
        leads[len(made.times)] = path
        if len(leads) > 1:
            told = ", ".join(f"{one}: {count}" for count, one in leads.items())
            raise FramesError(f"wanted forecasts of as many frames each, got {told}")
        members = made.members
        if members is not None:
            members = rain_pixels(members.numpy(), archive.zr)
        found.add(event, rain_pixels(made.mean.numpy(), archive.zr), observed, members)
    return {"forecast": found}


def _observed(
    archive: Archive, times: NDArray[np.datetime64]
) -> tuple[str, Tensor, Grid | None]:
    """The frames of these times, NaN without one; the first's event, and their grid.

    Of several grids, the first that has frames of some of the times.
    """
    wanted = None
    for number, series in enumerate(archive.series, 1):
        places = np.searchsorted(series.times, times)
        inside = places < len(series.times)
        inside[inside] = series.times[places[inside]] == times[inside]
        if not inside.any() or (wanted and series.kind != wanted[1]):
            continue
        if wanted is None:
            frames = torch.full((len(times), *series.shape[1:]), torch.nan)
            wanted = str(number), series.kind
        for k in np.flatnonzero(inside).tolist():
            frames[k] = series[slice(places[k], places[k] + 1)][0]
    if wanted is None:
        first, last = (written(times[k]) for k in (0, -1))
        raise FramesError(f"{archive.root} has no frame of {first} to {last}")
    return wanted[0], frames, wanted[1].grid


def table_of(found: Verifications) -> str:
    """The scores as text: means over lead times, a line a score and threshold."""
    intervals = {name: one.intervals() for name, one in found.items()}
    wide = any(intervals.values())
    column = 26 if wide else 15
    first = "mean over lead times"
    lines = [f"{first:<21}" + "".join(f"{name:>{column}}" for name in found)]
    scores = {name: one.compute() for name, one in found.items()}

    def line(title: str, score: str, at: Any, digits: int) -> str:
        cells = ""
        for name, values in scores.items():
            cell = f"{values[score][at].nanmean().item():.{digits}f}"
            if score in intervals[name]:
                low, high = (end[at].nanmean().item() for end in intervals[name][score])
                cell += f" ({low:.{digits}f}-{high:.{digits}f})"
            cells += f"{cell:>{column}}"
        return f"{title:<21}{cells}"

    thresholds = next(iter(found.values())).thresholds
    for score in ("csi", "hss", "pod", "far"):
        for k, threshold in enumerate(thresholds):
            title = f"{score.upper():<4}{threshold:>5g} mm/h"
            lines.append(line(title, score, (slice(None), k), 4))
    for s, scale in enumerate(SCALES):
        for k, threshold in enumerate(thresholds):
            title = f"FSS {threshold:>5g} mm/h {scale:>4}px"
            lines.append(line(title, "fss", (slice(None), k, s), 4))
    lines.append(line("B-MSE", "b_mse", slice(None), 0))
    lines.append(line("B-MAE", "b_mae", slice(None), 0))
    if all("crps" in one for one in scores.values()):
        lines.append(line("CRPS mm/h", "crps", slice(None), 4))
    else:
        for name, one in scores.items():
            if "crps" in one:
                lines.append(f"CRPS of {name}: {one['crps'].nanmean().item():.4f} mm/h")
    events = len(next(iter(found.values())).events)
    if wide:
        lines.append(
            f"in brackets: {LEVEL:.0%} intervals by a bootstrap of {events} events"
        )
    else:
        lines.append("one event: no intervals")
    return "\n".join(lines)


def as_json(found: Verifications) -> str:
    """All scores, by lead time and threshold; null where nothing defines them."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value if math.isfinite(value) else None

    def entries(one: Verification) -> Iterator[tuple[str, Any]]:
        for name, values in one.compute().items():
            yield name, plain(values.tolist())
        for name, ends in one.intervals().items():
            yield f"{name}_interval", [plain(end.tolist()) for end in ends]

    first = next(iter(found.values()))
    about = {
        "thresholds_mm_h": list(first.thresholds),
        "z_r": [first.zr.a, first.zr.b],
        "fss_scales_pixels": list(SCALES),
        "interval_level": LEVEL,
        "events": len(first.events),
    }
    by_name = {name: dict(entries(one)) for name, one in found.items()}
    return json.dumps(about | by_name, indent=1) + "\n"
