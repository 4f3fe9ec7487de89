"""The command line of the nowcaster, `trajgru-ext nowcast`.

`train` makes a checkpoint of an archive of frames, `fit` that of the small network of
chances of several, `forecast` makes the frames that follow some of one, `score`
compares forecasts with the frames that came.
"""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch

from trajgru_ext.info import what_to_do
from trajgru_ext.nowcasting._cache import CACHE_BYTES
from trajgru_ext.nowcasting.archive import Archive
from trajgru_ext.nowcasting.frames import PROFILES, QUANTITIES, Decoding, Reading
from trajgru_ext.nowcasting.index import default_index
from trajgru_ext.nowcasting.radar import THRESHOLDS, ZR
from trajgru_ext.nowcasting.times import parse_time

COMMANDS = ("train", "fit", "forecast", "score")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def number(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    """A parser of finite numbers that are not below a least one."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            name = "a whole" if kind is int else "a finite"
            above = "" if least == -math.inf else f" of {least:g} or more"
            raise argparse.ArgumentTypeError(f"wanted {name} number{above}, got {text}")
        return value

    return parse


positive, natural = number(int, 1), number(int, 0)
real, above_zero = number(float, -math.inf), number(float, 1e-9)


def numbers(text: str) -> tuple[float, ...]:
    """A parser of numbers with commas between them."""
    return tuple(real(part) for part in text.split(","))


def rates(text: str) -> tuple[float, ...]:
    """A parser of rain rates with commas between them."""
    return tuple(above_zero(part) for part in text.split(","))


def zr(text: str) -> ZR:
    """A parser of a Z-R relation, a,b."""
    try:
        return ZR(*(float(part) for part in text.split(",")))
    except (TypeError, ValueError) as error:
        message = f"wanted a,b of Z = a R^b such as 223,1.53, got {text}"
        raise argparse.ArgumentTypeError(message) from error


def layout(text: str) -> str:
    """A parser of the axes of an array."""
    if sorted(text) not in (sorted("THW"), sorted("NTHW")):
        message = f"wanted T, H, W and perhaps N in some order, got {text}"
        raise argparse.ArgumentTypeError(message)
    return text


def moment(text: str) -> str:
    """A parser of a time."""
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def option(text: str) -> tuple[str, Any]:
    """A parser of NAME=VALUE."""
    name, equal, value = text.partition("=")
    if not equal:
        raise argparse.ArgumentTypeError(f"wanted NAME=VALUE, got {text}")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def add_frames(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options of frames, of one archive or several, and how they are read."""
    add = parser.add_argument_group("frames").add_argument
    what = "a file, or a folder of any depth"
    if several:
        what += ", or several of them, each with its own step and grid"
    count = "+" if several else None
    add("--frames", type=Path, required=True, nargs=count, help=what)
    add("--index", type=Path, help="file of the index of frames (default: in ~/.cache)")
    add("--importer", help="of pysteps, such as fmi_pgm, for all files")
    add(
        "--importer-option",
        type=option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
    )
    add("--variable", help="which one to read, of NetCDF, ODIM and npz")
    add("--layout", type=layout, default="THW", help="axes of arrays, such as NTHW")
    add("--time-pattern", help="of names, such as AQC%%y%%j%%H%%M?_00005")
    add(
        "--begin",
        dest="start",
        type=moment,
        help="time of the first frame, of files without times",
    )
    add("--step", type=above_zero, help="minutes from a frame to the next")
    add("--accumulation", type=above_zero, help="minutes of amounts of rain")
    add("--profile", choices=PROFILES, help="what numbers of a service mean")
    add("--quantity", choices=QUANTITIES, help="what numbers mean without metadata")
    add("--gain", type=real, help="dBZ or mm/h = gain * value + offset")
    add("--offset", type=real)
    add("--missing", type=numbers, default=(), help="values of pixels without data")
    add("--zr", type=zr, metavar="A,B", help="the Z-R relation Z = A R^B")
    add("--cache", type=natural, default=CACHE_BYTES // 2**20, help="MiB of frames")


def reading_of(args: argparse.Namespace, kept: Decoding | None = None) -> Reading:
    """How frames are read: by the options, else by a profile or what was kept."""
    numbers = args.quantity, args.gain, args.offset, args.missing
    given = Decoding(*numbers, args.zr, args.accumulation)
    return Reading(
        given.over(PROFILES[args.profile] if args.profile else kept or Decoding()),
        args.importer,
        tuple(args.importer_option),
        args.variable,
        args.layout,
        args.time_pattern,
        args.start,
        args.step,
    )


def archive_of(args: argparse.Namespace, kept: Decoding | None = None) -> Archive:
    """The archive that the options name.

    Raises:
        ValueError: options say otherwise than the files what their numbers are.

    """
    reading = reading_of(args, kept)
    index = args.index or default_index(args.frames, reading)
    cache = args.cache * 2**20
    archive = Archive(args.frames, reading, index=index, step=args.step, cache=cache)
    said = {one.kind.quantity for one in archive.series}
    profile = PROFILES[args.profile].quantity if args.profile else None
    ignored = [
        f"--{name}"
        for name, value, allowed in (
            ("profile", profile, {None, *said}),
            ("quantity", args.quantity, {None, *said}),
            ("gain", args.gain, {None}),
            ("offset", args.offset, {None}),
        )
        if value not in allowed
    ]
    if ignored and None not in said:
        raise ValueError(
            f"{', '.join(ignored)}: the files of {args.frames} say that their numbers "
            f"are {' and '.join(sorted(filter(None, said)))}"
        )
    return archive


def devices() -> list[str]:
    """The CPU, CUDA, and what else PyTorch has been extended by."""
    found = torch.accelerator.current_accelerator()
    return sorted({"cpu", "cuda"} | ({found.type} if found else set()))


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of pictures and devices."""
    add = parser.add_argument_group("output").add_argument
    add("--credit", default="", help="whose data a picture shows")
    add("--device", choices=devices(), default="cpu")


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add the option of rain rates."""
    parser.add_argument(
        "--thresholds",
        type=rates,
        default=THRESHOLDS,
        help="mm/h from which on it rains (default: "
        f"{','.join(f'{one:g}' for one in THRESHOLDS)})",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors of input are one line and exit status 2."""
    parser = Parser(prog="trajgru-ext nowcast", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name in COMMANDS:
        module = import_module(f"trajgru_ext.nowcasting.{name}")
        [first, *_] = str(module.__doc__).splitlines()
        command = commands.add_parser(name, help=first, description=module.__doc__)
        module.add_options(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    before, warnings.showwarning = warnings.showwarning, tell
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    except RuntimeError as error:
        if not (said := what_to_do(error)):
            raise
        parser.error(said)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.showwarning = before
    return 0
