"""Frames, and their values as pixels of the HKO-7 scale."""

import warnings
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import HKO7, ZR, dbz_to_pixels, rain_to_dbz

QUANTITIES = ("reflectivity", "rain", "brightness")

# Hail reaches 60 dBZ, cloudbursts 300 mm/h, in a few pixels: where more than this share
# of all is beyond, the numbers have been misread.
EXTREME = {"reflectivity": (60.0, "dBZ"), "rain": (300.0, "mm/h")}
EXTREME_SHARE = 1e-3


class FramesError(ValueError):
    """Frames that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Frames:
    """Frames as a file has them, and all that it says of them."""

    values: NDArray[Any]  # [T, H, W]; NaN is missing
    # "reflectivity" in dBZ, where minus infinity is no echo, or "rain" in mm/h; None
    # where the file does not say what its numbers are.
    quantity: str | None = None
    times: NDArray[np.datetime64] | None = None  # valid times [T], seconds, UTC
    grid: Grid | None = None
    zr: ZR | None = None  # by which the service makes rain of reflectivity


@dataclass(frozen=True)
class Decoding:
    """What numbers mean in files that do not say it: gain * value + offset.

    `quantity` is "reflectivity" in dBZ, of which the integer 0 is no echo, "rain" in
    mm/h, or "brightness", pixels already, of integers the largest being 1. Floats are
    taken as they are where gain and offset are None; integers need both, but for
    brightness. `missing` are values of pixels that are missing, besides NaN.
    """

    quantity: str | None = None
    gain: float | None = None
    offset: float | None = None
    missing: tuple[float, ...] = ()
    zr: ZR | None = None  # None for the file's, else HKO-7's

    def __post_init__(self) -> None:
        if self.quantity not in (None, *QUANTITIES):
            wanted = ", ".join(QUANTITIES)
            raise ValueError(
                f"Decoding: quantity must be one of {wanted}, got {self.quantity}"
            )

    def over(self, other: "Decoding") -> "Decoding":
        """These options where they are given, else the other's."""
        given = {
            name: getattr(self, name)
            for name in asdict(self)
            if getattr(self, name) not in (None, ())
        }
        return replace(other, **given)


# How services write numbers into files without metadata.
PROFILES = {
    "fmi": Decoding("reflectivity", 0.5, -32.0, (255,), ZR(223.0, 1.53)),
    "knmi": Decoding("reflectivity", 0.5, -32.0, (255,), ZR(200.0, 1.6)),
    # HKO-7's images: value / 255 is (dBZ + 10) / 70.
    "hko7": Decoding("reflectivity", 70 / 255, -10.0, (), HKO7),
    "brightness": Decoding("brightness"),
}


@dataclass(frozen=True)
class Reading:
    """How files are read: which reader, what of them, and what their numbers mean."""

    decoding: Decoding = field(default_factory=Decoding)
    importer: str | None = None  # of pysteps, by name
    importer_options: tuple[tuple[str, Any], ...] = ()
    variable: str | None = None
    # The axes of arrays; N are sequences apart from each other.
    layout: str = "THW"
    time_pattern: str | None = None
    # Of frames whose files have no times: the first time, and the minutes to the next.
    start: str | None = None
    step: float | None = None
    accumulation: float | None = None  # minutes, where a file does not say it


def to_pixels(
    frames: Frames, decoding: Decoding | None = None, *, where: str = "frames"
) -> Tensor:
    """Make pixels in [0, 1] of frames.

    Where the file says what its numbers are, only that counts, but for `missing`; else
    the decoding does. Rain becomes dBZ by `zr_of`.

    Args:
        frames: of `read_frames`.
        decoding: as above.
        where: what errors and warnings name.

    Returns:
        float32 `[T, H, W]`, NaN where missing.

    Warns:
        UserWarning: more than 0.1% of the known pixels are beyond 60 dBZ or 300 mm/h.

    Raises:
        FramesError: nothing says what the numbers are, or there are values that cannot
            be of this quantity.

    """
    decoding = decoding or Decoding()
    values, quantity = physical(frames, decoding, where)
    share = share_beyond(values, quantity)
    if share > EXTREME_SHARE:
        limit, unit = EXTREME[quantity]
        warnings.warn(
            f"{where}: {share:.1%} of the known pixels are beyond {limit:g} {unit}, "
            "more than rain is: check --gain, --offset, --missing and --quantity",
            stacklevel=2,
        )
    if quantity == "brightness":
        return values.float()
    if quantity == "rain":
        values = rain_to_dbz(values, zr_of(frames, decoding))
    return dbz_to_pixels(values).float()


def zr_of(frames: Frames, decoding: Decoding) -> ZR:
    """The Z-R relation of the decoding, else the file's, else HKO-7's."""
    return decoding.zr or frames.zr or HKO7


def physical(frames: Frames, decoding: Decoding, where: str) -> tuple[Tensor, str]:
    """The values in dBZ, mm/h or as brightness, float64, and which of these.

    Raises:
        FramesError: as `to_pixels`.

    """
    raw = frames.values
    values = torch.from_numpy(raw.astype(np.float64))
    absent = values.isnan()
    for value in decoding.missing:
        absent |= values == value
    quantity = frames.quantity
    if quantity is None:
        quantity = decoding.quantity
        if quantity is None:
            raise FramesError(
                f"{where}: nothing says whether the numbers are reflectivity or rain: "
                f"give --profile ({', '.join(PROFILES)}) or --quantity"
            )
        values = _decoded(raw, values, decoding, quantity, where)
    values = values.where(~absent, torch.nan)
    present = values[~absent]
    low = {"reflectivity": -torch.inf, "rain": 0.0, "brightness": 0.0}[quantity]
    high = 1.0 if quantity == "brightness" else torch.finfo(torch.float64).max
    if not ((present >= low) & (present <= high)).all():
        span = f"{present.min():g} to {present.max():g}"
        raise FramesError(
            f"{where}: {quantity} must be {low:g} to {high:g}, got {span}"
        )
    return values, quantity


def _decoded(
    raw: NDArray[Any], values: Tensor, decoding: Decoding, quantity: str, where: str
) -> Tensor:
    whole = raw.dtype.kind in "uib"
    gain, offset = decoding.gain, decoding.offset
    if quantity == "brightness":
        return values / np.iinfo(raw.dtype).max if whole else values
    if whole and (gain is None or offset is None):
        raise FramesError(
            f"{where}: integers say nothing of their unit: give --gain and --offset, "
            f"or --profile ({', '.join(PROFILES)})"
        )
    scaled = (1.0 if gain is None else gain) * values + (offset or 0.0)
    if whole and quantity == "reflectivity":
        scaled = torch.where(values == 0, -torch.inf, scaled)
    return scaled


def share_beyond(values: Tensor, quantity: str) -> float:
    """How much of what is known lies beyond what rain is; 0 of brightness."""
    if quantity not in EXTREME:
        return 0.0
    known = (~values.isnan()).sum().item()
    return (values > EXTREME[quantity][0]).sum().item() / max(known, 1)
