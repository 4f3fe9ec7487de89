"""Frames, and their values as pixels of the HKO-7 scale."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting._doubts import Doubts
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import HKO7, ZR, dbz_to_pixels, rain_to_dbz

QUANTITIES = ("reflectivity", "rain", "brightness")


class FramesError(ValueError):
    """Frames that cannot be used; the message says which and why.

    Examples:
        >>> from trajgru_ext.nowcasting import FramesError, read_frames
        >>> try:
        ...     read_frames("nowhere")
        ... except FramesError as error:
        ...     print(error)
        nowhere: no such file or folder

    """


NO_DURATION = "an amount of rain that says no duration: give --accumulation"


@dataclass(frozen=True)
class Frames:
    """Frames as a file has them, and all that it says of them.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import Frames, to_pixels
        >>> frames = Frames(np.full((2, 8, 8), 25.0), "reflectivity")
        >>> to_pixels(frames)[0, 0, 0]
        tensor(0.5000)

    """

    values: NDArray[Any]  # [T, H, W]; NaN is missing
    # "reflectivity" in dBZ, where minus infinity is no echo, or "rain" in mm/h; None
    # where the file does not say what its numbers are.
    quantity: str | None = None
    times: NDArray[np.datetime64] | None = None  # valid times [T], seconds, UTC
    grid: Grid | None = None
    zr: ZR | None = None  # by which the service makes rain of reflectivity
    missing: tuple[float, ...] = ()  # values that are missing, besides NaN


@dataclass(frozen=True)
class Decoding:
    """What numbers mean in files that do not say it: gain * value + offset.

    `quantity` is "reflectivity" in dBZ, of which the integer 0 is no echo, "rain" in
    mm/h, or "brightness", pixels already, of integers the largest being 1. Floats are
    taken as they are where gain and offset are None; integers need both, but for
    brightness. `missing` are values of pixels that are missing, besides NaN. Amounts of
    rain in mm are made rates by `accumulation`, the minutes in which they fell.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import Decoding, Frames, to_pixels
        >>> bytes_of_file = Frames(np.array([[[0, 114, 255]]], np.uint8))
        >>> decoding = Decoding("reflectivity", 0.5, -32.0, missing=(255,))
        >>> to_pixels(bytes_of_file, decoding)
        tensor([[[0.0000, 0.5000,    nan]]])

    """

    quantity: str | None = None
    gain: float | None = None
    offset: float | None = None
    missing: tuple[float, ...] = ()
    zr: ZR | None = None  # None for the file's, else HKO-7's
    accumulation: float | None = None

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
    """How files are read: which reader, what of them, and what their numbers mean.

    Examples:
        >>> from trajgru_ext.nowcasting import PROFILES, Reading
        >>> Reading(PROFILES["knmi"], layout="NTHW", step=5).decoding.gain
        0.5

    """

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
        UserWarning: as `Doubts.warn`.

    Raises:
        FramesError: nothing says what the numbers are, or there are values that cannot
            be of this quantity.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import Frames, to_pixels
        >>> to_pixels(Frames(np.array([[[25.0, np.nan]]]), "reflectivity"))
        tensor([[[0.5000,    nan]]])

    """
    decoding = decoding or Decoding()
    doubts, made = Doubts(), torch.empty(frames.values.shape)
    # Frame by frame, as one in float64 may be large.
    for k, pixels in enumerate(made):
        frame = replace(frames, values=frames.values[k])
        values, quantity = physical(frame, decoding, where)
        doubts.add(values, quantity)
        if quantity == "rain":
            values = rain_to_dbz(values, zr_of(frames, decoding))
        pixels.copy_(values if quantity == "brightness" else dbz_to_pixels(values))
    doubts.warn(where)
    return made


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
    for value in (*decoding.missing, *frames.missing):
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
    if quantity == "rain" and decoding.accumulation is not None:
        scaled = scaled * (60 / decoding.accumulation)
    return scaled
