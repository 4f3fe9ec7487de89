"""Frames in: files to arrays, and their values to pixels of the HKO-7 scale."""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trajgru_ext.nowcasting.radar import dbz_to_pixels, rain_to_dbz

# One channel, whose numbers are the file's own: palettes and colours are no measure.
GREYSCALE_MODES = ("L", "I", "I;16", "I;16B", "I;16L")

# ODIM's kinds of files that hold images, and its names of quantities.
ODIM_OBJECTS = ("COMP", "IMAGE")
ODIM_QUANTITIES = {
    **dict.fromkeys(("TH", "TV", "DBZ", "DBZH", "DBZV"), "reflectivity"),
    "RATE": "rain",
}
NETCDF_UNITS = {
    "dbz": "reflectivity",
    **dict.fromkeys(("mm/h", "mm/hr", "mm h-1", "mm hr-1", "kg m-2 h-1"), "rain"),
}
QUANTITIES = ("reflectivity", "rain", "brightness")


class FramesError(ValueError):
    """Frames that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Frames:
    """Frames as a file has them."""

    values: NDArray[Any]  # [T, H, W]; NaN is missing
    # "reflectivity" in dBZ, where minus infinity is no echo, or "rain" in mm/h; None
    # where the file does not say what its numbers are.
    quantity: str | None = None


def read_frames(path: str | Path, variable: str | None = None) -> Frames:
    """Read frames from a file, or from all that a folder holds.

    Args:
        path: one of these, or a folder of them, taken in natural order of names:
            `.npz` (its array `frames`, else its only array) or `.npy`, of
            `[T, H, W]` or one frame `[H, W]`; a greyscale `.png` or `.pgm`; NetCDF
            (`.nc`, by xarray); an ODIM composite or image (`.h5`, by h5py), of which
            the first reflectivity or rain rate is taken.
        variable: of NetCDF, which to take; needed where several are in dBZ or mm/h.

    Raises:
        FramesError: the path does not lead to real frames of one size, or a library
            that reads them is not installed.

    """
    path = Path(path)
    if not path.exists():
        raise FramesError(f"{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        files = [f for f in path.iterdir() if f.suffix.lower() in _READERS]
        files.sort(key=_natural_order)
    if not files or files[0].suffix.lower() not in _READERS:
        wanted = ", ".join(_READERS)
        raise FramesError(f"{path}: wanted a file or a folder of {wanted}")
    parts: list[Frames] = []
    for file in files:
        part = _read(file, variable)
        first = parts[0] if parts else part
        size, before = part.values.shape[1:], first.values.shape[1:]
        if size != before:
            raise FramesError(f"{file}: size {size}, but those before it {before}")
        if part.quantity != first.quantity:
            raise FramesError(
                f"{file}: {part.quantity}, but those before it {first.quantity}"
            )
        parts.append(part)
    return Frames(np.concatenate([part.values for part in parts]), parts[0].quantity)


def _read(path: Path, variable: str | None) -> Frames:
    try:
        frames = _READERS[path.suffix.lower()](path, variable)
    except FramesError:
        raise
    except Exception as error:  # a damaged file can make the parsers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FramesError(f"{path}: cannot be read ({reason})") from error
    values = frames.values
    if values.dtype.kind not in "uif":
        raise FramesError(f"{path}: wanted real numbers, got {values.dtype}")
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or 0 in values.shape:
        got = list(values.shape)
        raise FramesError(f"{path}: wanted frames [T, H, W], got shape {got}")
    return Frames(values, frames.quantity)


def _read_array(path: Path, variable: str | None) -> Frames:
    # Never unpickle: a file of frames must not be able to run code.
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return Frames(loaded)
        names = loaded.files
        if "frames" not in names and len(names) != 1:
            raise FramesError(
                f"{path}: wanted an array named 'frames' or one array only, got {names}"
            )
        return Frames(loaded["frames" if "frames" in names else names[0]])


def _read_image(path: Path, variable: str | None) -> Frames:
    with Image.open(path) as image:
        mode, values = image.mode, np.asarray(image)
    if mode not in GREYSCALE_MODES:
        raise FramesError(f"{path}: wanted a greyscale image, got mode {mode}")
    return Frames(values)


def _read_netcdf(path: Path, variable: str | None) -> Frames:
    xarray = _library(path, "xarray", "h5netcdf")
    with xarray.open_dataset(path, decode_times=False) as file:
        units = {
            name: str(array.attrs.get("units", "")) for name, array in file.items()
        }
        fitting = [name for name, unit in units.items() if unit.lower() in NETCDF_UNITS]
        if variable is not None:
            fitting = [name for name in fitting if name == variable]
        if len(fitting) != 1:
            what = "one variable" if variable is None else f"a variable {variable!r}"
            raise FramesError(
                f"{path}: wanted {what} in dBZ or mm/h, got units {units}"
            )
        array = file[fitting[0]]
        values = array.squeeze([d for d in array.dims[:-2] if array.sizes[d] == 1])
        return Frames(values.to_numpy(), NETCDF_UNITS[units[fitting[0]].lower()])


def _read_odim(path: Path, variable: str | None) -> Frames:
    h5py = _library(path, "h5py")
    with h5py.File(path) as file:
        kind = _what(file).get("object")
        if kind not in ODIM_OBJECTS:
            wanted = " or ".join(ODIM_OBJECTS)
            raise FramesError(f"{path}: wanted the object {wanted} of ODIM, got {kind}")
        found = []
        for dataset in _numbered(file, "dataset"):
            for data in _numbered(dataset, "data"):
                # What holds for a whole file or dataset need not be said again.
                what = {**_what(file), **_what(dataset), **_what(data)}
                found.append(what.get("quantity"))
                if found[-1] in ODIM_QUANTITIES:
                    quantity = ODIM_QUANTITIES[found[-1]]
                    return Frames(_decode(data["data"][()], what, quantity), quantity)
    wanted = ", ".join(ODIM_QUANTITIES)
    raise FramesError(f"{path}: wanted one of the quantities {wanted}, got {found}")


def _numbered(group: Any, name: str) -> list[Any]:
    """The groups name1, name2, ... in this order."""
    names = [key for key in group if re.fullmatch(rf"{name}[0-9]+", key)]
    return [group[key] for key in sorted(names, key=lambda key: int(key[len(name) :]))]


def _what(group: Any) -> dict[str, Any]:
    attributes = group["what"].attrs if "what" in group else {}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }


def _decode(raw: NDArray[Any], what: Mapping[str, Any], quantity: str) -> NDArray[Any]:
    values: NDArray[Any] = what["gain"] * raw.astype(np.float64) + what["offset"]
    values[raw == what["undetect"]] = -np.inf if quantity == "reflectivity" else 0
    values[raw == what["nodata"]] = np.nan
    return values


def _library(path: Path, *names: str) -> ModuleType:
    """The first of the libraries that reading the path needs."""
    try:
        first, *_ = [importlib.import_module(name) for name in names]
        return first
    except ImportError as error:
        raise FramesError(
            f"{path}: reading it needs {' and '.join(names)}: "
            "pip install 'trajgru_ext[radar]'"
        ) from error


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key under which frame 2 comes before frame 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


_READERS = {
    **dict.fromkeys((".npz", ".npy"), _read_array),
    **dict.fromkeys((".png", ".pgm"), _read_image),
    **dict.fromkeys((".nc", ".nc4"), _read_netcdf),
    **dict.fromkeys((".h5", ".hdf", ".hdf5"), _read_odim),
}


def to_pixels(
    frames: Frames,
    quantity: str = "reflectivity",
    *,
    gain: float = 0.5,
    offset: float = -32.0,
    missing: int | None = None,
) -> Tensor:
    """Make pixels in [0, 1] of frames.

    Where the file says what its numbers are, only that counts. Else they are, by
    `quantity`:

    - "reflectivity": dBZ is `gain * value + offset`, and value 0 no echo;
    - "rain": mm/h is `gain * value + offset`;
    - "brightness": pixels already, of integers the largest being 1.

    Args:
        frames: of `read_frames`.
        quantity: as above.
        gain: as above.
        offset: as above.
        missing: the value that says that a pixel is missing, in files that have no way
            of their own to say it; NaN always does.

    Returns:
        float32 `[T, H, W]`, NaN where missing.

    Raises:
        FramesError: there are values that cannot be of this quantity.
        ValueError: quantity is none of these.

    """
    if quantity not in QUANTITIES:
        wanted = ", ".join(QUANTITIES)
        raise ValueError(f"to_pixels: quantity must be one of {wanted}, got {quantity}")
    values = torch.from_numpy(frames.values.astype(np.float64))
    absent = values.isnan() if missing is None else values.isnan() | (values == missing)
    if frames.quantity is not None:
        quantity = frames.quantity
    elif quantity == "brightness":
        if frames.values.dtype.kind != "f":
            values = values / np.iinfo(frames.values.dtype).max
    else:
        no_echo = (values == 0) & (quantity == "reflectivity")
        values = torch.where(no_echo, -torch.inf, gain * values + offset)
    present = values[~absent]
    low = {"reflectivity": -torch.inf, "rain": 0.0, "brightness": 0.0}[quantity]
    high = 1.0 if quantity == "brightness" else torch.finfo(torch.float64).max
    if not ((present >= low) & (present <= high)).all():
        span = f"{present.min():g} to {present.max():g}"
        raise FramesError(f"{quantity} must be {low:g} to {high:g}, got {span}")
    if quantity == "rain":
        values = rain_to_dbz(values)
    pixels = values if quantity == "brightness" else dbz_to_pixels(values)
    return pixels.where(~absent, torch.nan).float()
