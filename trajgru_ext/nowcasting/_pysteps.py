"""Frames by the importers of pysteps, and as their triples."""

import contextlib
import io
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting import _arrays
from trajgru_ext.nowcasting._contents import Contents, contents_of
from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting.frames import Frames, FramesError, Reading
from trajgru_ext.nowcasting.grids import grid_of_pysteps
from trajgru_ext.nowcasting.radar import ZR


def frames_of_triple(
    triple: tuple[NDArray[Any], Any, Mapping[str, Any]],
    times: NDArray[np.datetime64] | None = None,
) -> Frames:
    """Frames of what a pysteps importer returns: array, quality and metadata.

    Args:
        triple: the array `[H, W]` or `[T, H, W]` in dBZ, mm/h, or mm in the metadata's
            `accutime` minutes; without a transform other than dB of reflectivity.
        times: valid times `[T]`; None for the metadata's `timestamps`, if any.

    Raises:
        FramesError: the unit or the transform is another.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import frames_of_triple
        >>> metadata = {"unit": "mm/h", "transform": None}
        >>> frames_of_triple((np.zeros((3, 64, 64)), None, metadata)).quantity
        'rain'

    """
    array, _, metadata = triple
    values: NDArray[Any] = np.ma.filled(np.ma.asarray(array, float), np.nan)
    values = values[None] if values.ndim == 2 else values
    unit, transform = metadata.get("unit"), metadata.get("transform")
    if unit == "dBZ" and transform in (None, "dB"):
        quantity = "reflectivity"
        zero = metadata.get("zerovalue")
        # The importers have a value of their own for no echo.
        if zero is not None and np.isfinite(zero):
            values = np.where(values <= zero, -np.inf, values)
    elif unit in ("mm/h", "mm") and transform is None:
        quantity = "rain"
        if unit == "mm":
            values = values * (60 / float(metadata["accutime"]))
        # Negative rates stand for kinds of missing data.
        values = np.where(values < 0, np.nan, values)
    else:
        raise FramesError(
            f"wanted dBZ, mm/h or mm of pysteps, got {unit} under transform {transform}"
        )
    if times is None and "timestamps" in metadata:
        times = np.array([str(t) for t in metadata["timestamps"]], "datetime64[s]")
    zr = None
    if {"zr_a", "zr_b"} <= metadata.keys():
        zr = ZR(float(metadata["zr_a"]), float(metadata["zr_b"]))
    grid = grid_of_pysteps(metadata, (values.shape[1], values.shape[2]))
    return Frames(values, quantity, times, grid, zr)


def read_imported(path: Path, reading: Reading) -> Contents:
    """One frame by the importer that is named."""
    assert reading.importer is not None
    options = dict(reading.importer_options)
    return imported(path, reading.importer, reading.decoding.accumulation, **options)


def imported(
    path: Path, importer: str, minutes: float | None = None, **options: Any
) -> Contents:
    """One frame by an importer of pysteps, such as `fmi_pgm`.

    Some importers want to be told the minutes of amounts, others read them.
    """
    # It prints where it found its configuration.
    with contextlib.redirect_stdout(io.StringIO()):
        importers = library("pysteps.io.importers")
    name = f"import_{importer}"
    if not hasattr(importers, name):
        known = [
            n.removeprefix("import_") for n in dir(importers) if n[:7] == "import_"
        ]
        raise FramesError(
            f"pysteps has no importer {importer!r}, but {', '.join(known)}"
        )
    if minutes is not None:
        options.setdefault("accutime", minutes)
    values, quality, metadata = getattr(importers, name)(str(path), **options)
    if minutes is not None:
        metadata = {**metadata, "accutime": minutes}
    return contents_of(frames_of_triple((values, quality, metadata)))


def read_pgm(path: Path, reading: Reading) -> Contents:
    """One frame of a PGM: FMI's, by pysteps, say in comments what they are."""
    with path.open("rb") as file:
        head = file.read(4096)
    # Their numbers are dBZ and their grid is known; without pysteps, an image.
    if b"# projection radar" in head and reading.decoding.quantity is None:
        return imported(path, "fmi_pgm")
    return _arrays.read_image(path, reading)


def read_grib(path: Path, reading: Reading) -> Contents:
    """One frame of a precipitation rate of MRMS, at full resolution."""
    options = {"window_size": 1} | dict(reading.importer_options)
    library("pygrib")
    return imported(path, "mrms_grib", **options)


def grib_time(path: Path) -> np.datetime64:
    """The valid time that the header says."""
    with library("pygrib").open(str(path)) as file:
        time: datetime = file.message(1).validDate
    return np.datetime64(time, "s")


def grib_signature(path: Path) -> str:
    """What the header says of parameter and grid."""
    keys = "discipline", "parameterCategory", "parameterNumber", "Ni", "Nj"
    corners = "latitudeOf{}GridPointInDegrees", "longitudeOf{}GridPointInDegrees"
    more = [corner.format(which) for corner in corners for which in ("First", "Last")]
    with library("pygrib").open(str(path)) as file:
        message = file.message(1)
        return " ".join(str(message[key]) for key in (*keys, *more))
