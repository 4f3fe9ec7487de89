"""Files of every format, by the libraries that read them.

A reader describes what is in a file without reading its frames, and reads some of them.
"""

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting import _arrays, _hdf5, _pysteps, _xarray
from trajgru_ext.nowcasting._contents import Contents
from trajgru_ext.nowcasting._libraries import one_line
from trajgru_ext.nowcasting.frames import FramesError, Reading
from trajgru_ext.nowcasting.times import parse_time, time_of_name

Read = Callable[[Path, Reading], Contents]


@dataclass(frozen=True)
class Reader:
    """How a format is read."""

    open: Read
    # What differs between two files whose `open` would differ in more than values and
    # time, read from a header; None where `open` reads no more than that itself.
    signature: Callable[[Path], str | None] | None = None
    # The valid time that a header says, of files that have a signature.
    time: Callable[[Path], np.datetime64 | None] | None = None


ARRAYS = Reader(_arrays.read_array)
IMAGES = Reader(_arrays.read_image, _arrays.image_signature)
PGM = Reader(_pysteps.read_pgm, _arrays.image_signature)
NETCDF = Reader(_xarray.read_netcdf, _xarray.netcdf_signature, _xarray.netcdf_time)
ZARR = Reader(_xarray.read_zarr)
GEOTIFF = Reader(_xarray.read_geotiff)
HDF5 = Reader(_hdf5.read_hdf5, _hdf5.signature, _hdf5.time_of)
GRIB = Reader(_pysteps.read_grib, _pysteps.grib_signature, _pysteps.grib_time)

READERS = {
    **dict.fromkeys((".npz", ".npy"), ARRAYS),
    ".png": IMAGES,
    ".pgm": PGM,
    **dict.fromkeys((".nc", ".nc4"), NETCDF),
    ".zarr": ZARR,
    **dict.fromkeys((".tif", ".tiff"), GEOTIFF),
    **dict.fromkeys((".h5", ".hdf", ".hdf5"), HDF5),
    **dict.fromkeys((".grib", ".grib2", ".grb", ".grb2"), GRIB),
}


def suffix_of(path: Path) -> str:
    """What a name ends with, but for .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def is_readable(path: Path, reading: Reading) -> bool:
    """Whether a file of this name has frames: any may, for a named importer."""
    return reading.importer is not None or suffix_of(path) in READERS


def reader_of(path: Path, reading: Reading) -> Reader:
    """The reader that is named, or that the name of the file tells."""
    if reading.importer is not None:
        return Reader(_pysteps.read_imported)
    if suffix_of(path) not in READERS:
        raise FramesError(f"{path}: wanted a file or a folder of {', '.join(READERS)}")
    return READERS[suffix_of(path)]


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or what is in a .gz, under its name without that."""
    if path.suffix.lower() != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        with gzip.open(path) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield plain


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Any error names the file: a damaged one can make parsers raise anything."""
    try:
        yield
    except Exception as error:
        if isinstance(error, FramesError) and str(error).startswith(str(path)):
            raise
        reason = one_line(error)
        if not isinstance(error, FramesError):
            reason = f"cannot be read ({reason})"
        raise FramesError(f"{path}: {reason}") from error


def signature_of(path: Path, reading: Reading) -> str | None:
    """The header of a file as text, None where there is no quick one."""
    reader = reader_of(path, reading)
    if reader.signature is None:
        return None
    with _named(path), unpacked(path) as plain:
        found = reader.signature(plain)
    return None if found is None else f"{suffix_of(path)} {found}"


def time_of(
    path: Path, reading: Reading, plain: Path | None = None
) -> np.datetime64 | None:
    """The valid time that a file of one frame says: its header, else its name.

    With a pattern of times, the name alone. `plain` is the file unpacked, if it is.
    """
    reader = reader_of(path, reading)
    if reader.time is not None and reading.time_pattern is None:
        with _named(path), unpacked(plain or path) as header:
            found = reader.time(header)
        if found is not None:
            return found
    pattern = reading.time_pattern
    # A pattern of several parts is of folders too.
    name = str(path) if pattern is not None and "/" in pattern else path.name
    return time_of_name(name, pattern)


@contextmanager
def opened(path: Path, reading: Reading) -> Iterator[Contents]:
    """What is in a file; its frames can be loaded until the context ends.

    Raises:
        FramesError: the file has no frames, or a library that reads it is missing.

    """
    with _named(path), unpacked(path) as plain:
        contents = reader_of(path, reading).open(plain, reading)
        if contents.times is None and contents.shape[:2] == (1, 1):
            time = time_of(path, reading, plain)
            times = None if time is None else np.array([time])
            contents = replace(contents, times=times)
        if contents.times is not None and np.isnat(contents.times).any():
            raise FramesError("has a frame whose time is missing")
        yield contents


def with_start(count: int, reading: Reading, before: int) -> NDArray[np.datetime64]:
    """Times of some frames of which `before` came first, by --begin and --step."""
    assert reading.start is not None and reading.step is not None
    steps = (before + np.arange(count)) * round(60 * reading.step)
    return parse_time(reading.start) + steps.astype("timedelta64[s]")
