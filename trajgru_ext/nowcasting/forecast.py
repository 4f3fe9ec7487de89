"""Forecast the frames that follow the last of an archive.

By the network of a checkpoint, by chances of exceedance, which the package's own
network tells, or by a method that needs no training.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from trajgru_ext.nowcasting import cli
from trajgru_ext.nowcasting.archive import Archive, Series
from trajgru_ext.nowcasting.baselines import BASELINES
from trajgru_ext.nowcasting.datasets import Forecast, write_geotiffs, write_netcdf
from trajgru_ext.nowcasting.exceedance import (
    FURTHEST,
    MODEL,
    check_times,
    exceedance,
    frames_read,
    load,
    pixel_metres,
)
from trajgru_ext.nowcasting.frames import Frames
from trajgru_ext.nowcasting.nowcaster import Nowcaster
from trajgru_ext.nowcasting.radar import pixels_to_rain
from trajgru_ext.nowcasting.times import parse_time, written
from trajgru_ext.nowcasting.train import device_of


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli.add_frames(parser)
    cli.add_thresholds(parser)
    make = parser.add_argument_group("forecast").add_argument
    make("--checkpoint", type=Path, help="of train, best.pt; or of fit, for exceedance")
    make(
        "--method",
        choices=(*BASELINES, MODEL),
        help="without a checkpoint of train (default: spectral_prognosis)",
    )
    make(
        "--ahead",
        type=cli.positive,
        help=f"frames (default: as in training; without a checkpoint {AHEAD})",
    )
    make(
        "--time", type=cli.moment, help="of the last frame to read (default: the last)"
    )
    make("--members", type=cli.natural, default=0, help="of an ensemble")
    make("--seed", type=cli.natural, default=0, help="of the ensemble")
    cli.add_output(parser)
    output = parser.add_argument_group("files").add_argument
    output("--output", type=Path, default=Path("forecast.nc"), help="NetCDF")
    output("--geotiff", type=Path, metavar="FOLDER", help="a file a lead time, too")
    output("--picture", type=Path, metavar="PNG", help="draw it, too")


PAST, AHEAD = 5, 12  # frames that a method reads and makes


def archive_for(args: argparse.Namespace, caster: Nowcaster) -> Archive:
    """The archive, whose numbers mean what they meant in training unless told.

    Raises:
        ValueError: its step or its Z-R relation are others than the checkpoint's.

    """
    archive = cli.archive_of(args, replace(caster.decoding, zr=None))
    if archive.minutes != caster.minutes:
        raise ValueError(
            f"{args.checkpoint}: reads frames every {caster.minutes:g} minutes, "
            f"those of {args.frames} are every {archive.minutes:g}"
        )
    if archive.known_zr not in (None, caster.zr):
        raise ValueError(
            f"{args.checkpoint}: makes rain by {caster.zr}, {args.frames} by "
            f"{archive.known_zr}"
        )
    decoding = replace(archive.reading.decoding, zr=caster.zr)
    archive.reading = replace(archive.reading, decoding=decoding)
    return archive


def last_series(archive: Archive, past: int, time: str | None) -> Series:
    """The frames up to a time that follow each other without a gap.

    Raises:
        ValueError: they are fewer than the forecast reads.

    """
    series = archive.latest
    if time is not None:
        end = parse_time(time)
        found = [one for one in archive.series if end in one.times]
        if not found:
            raise ValueError(f"{archive.root}: has no frame of {written(end)}")
        longest = max(found, key=lambda one: int((one.times <= end).sum()))
        series = longest.between(longest.times[0], end + 1)
    if len(series.times) < past:
        raise ValueError(
            f"{archive.root}: a forecast reads {past} frames without a gap, "
            f"got {len(series.times)} up to {written(series.times[-1])}"
        )
    return series


def run(args: argparse.Namespace) -> None:
    """Forecast as the options say."""
    if args.method not in (None, MODEL) and args.checkpoint:
        raise ValueError(f"--method {args.method}: reads no --checkpoint")
    network = args.checkpoint and args.method is None
    past, made, forecast = (_by_network if network else _by_method)(args)
    if not args.picture:
        del made  # a forecast of a continent is large, and so is what writes it
    command = " ".join(["trajgru-ext", *sys.argv[1:]])
    dataset = forecast.to_xarray(args.thresholds, command)
    write_netcdf(dataset, args.output, forecast.reference)
    print(
        f"{args.output}: {len(forecast.values)} frames from "
        f"{written(forecast.times[0])} to {written(forecast.times[-1])}"
    )
    if args.geotiff:
        write_geotiffs(forecast, args.geotiff)
    if args.picture:
        _draw(args, past, made, forecast)


def _past(archive: Archive, count: int, time: str | None) -> tuple[Series, Tensor]:
    """The last frames, and their pixels."""
    print("\n".join(archive.report), flush=True)
    series = last_series(archive, count, time)
    series = series.between(series.times[-count], series.times[-1] + 1)
    archive.check_values([series])
    return series, series[:]


def _by_network(args: argparse.Namespace) -> tuple[Tensor, Tensor, Forecast]:
    """The past pixels, those of the network of a checkpoint, and the forecast."""
    caster = Nowcaster.load(args.checkpoint, device_of(args.device))
    archive = archive_for(args, caster)
    series, past = _past(archive, caster.past, args.time)
    caster.check(
        Frames(past.numpy(), archive.quantity, None, series.kind.grid, series.kind.zr)
    )
    made = caster.forecast_pixels(past, args.ahead)
    ensemble = None
    if args.members:
        ensemble = caster.members_of(past, made, args.members, args.seed)
    forecast = caster.as_forecast(made, ensemble, series.times[-1], series.kind.grid)
    return past, made, forecast


def _by_method(args: argparse.Namespace) -> tuple[Tensor, Tensor, Forecast]:
    """The past pixels, those of a method that needs no training, and the forecast."""
    if args.members:
        raise ValueError("--members: wanted a --checkpoint, which knows its errors")
    archive = cli.archive_of(args)
    brightness = archive.quantity == "brightness"
    if args.method == MODEL:
        if brightness:
            raise ValueError(f"{args.frames}: {MODEL} wanted rain, got brightness")
        made, series, past = _by_chances(args, archive)
    else:
        series, past = _past(archive, PAST, args.time)
        method = BASELINES[args.method or "spectral_prognosis"]
        made = method(past, args.ahead or AHEAD, None if brightness else archive.zr)
    values = made if brightness else pixels_to_rain(made, archive.zr)
    forecast = Forecast(
        values.numpy(),
        None,
        brightness,
        series.times[-1],
        archive.minutes,
        series.kind.grid,
        archive.zr,
    )
    return past, made, forecast


def _by_chances(
    args: argparse.Namespace, archive: Archive
) -> tuple[Tensor, Series, Tensor]:
    """The pixels that are made of chances of exceedance, and those of the past."""
    minutes, net = archive.minutes, load(args.checkpoint)
    ahead = args.ahead or min(AHEAD, int(FURTHEST / minutes))
    count = frames_read(minutes)
    check_times(count, ahead, minutes)
    series, past = _past(archive, count, args.time)
    metres = pixel_metres(series)
    made, _ = exceedance(net, past, ahead, archive.zr, minutes, metres)
    return made, series, past


def _draw(
    args: argparse.Namespace, past: Tensor, made: Tensor, forecast: Forecast
) -> None:
    """Draw the pixels that were made."""
    from trajgru_ext.nowcasting.drawing import Picture, draw  # noqa: PLC0415

    assert forecast.reference is not None
    title = f"Forecast from {written(forecast.reference)}"
    picture = Picture(
        past=past,
        rows={"forecast": made},
        flows=None,
        minutes=forecast.minutes,
        rain=not forecast.brightness,
        title=title,
        credit=args.credit,
        zr=forecast.zr,
        grid=forecast.grid,
    )
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(picture, args.picture)
