"""Frames of NetCDF, Zarr and GeoTIFF, by xarray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting._axes import grid_of, in_order, minutes_of, times_of
from trajgru_ext.nowcasting._contents import Contents
from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting.frames import NO_DURATION, Frames, FramesError, Reading
from trajgru_ext.nowcasting.grids import grid_of_coordinates

# A length or a speed, which may be of a height or of wind, is rain only under these.
_RAIN_NAMES = ("precip", "rain", "acrr", "tp")
_SPEEDS = ("m s-1", "m/s")
# By unit, its quantity and how many mm/h or dBZ it is.
UNITS = {
    "dbz": ("reflectivity", 1.0),
    **dict.fromkeys(
        ("mm/h", "mm/hr", "mm h-1", "mm hr-1", "mm h**-1", "mm h^-1", "kg m-2 h-1"),
        ("rain", 1.0),
    ),
    **dict.fromkeys(
        ("kg m-2 s-1", "kg m**-2 s**-1", "mm/s", "mm s-1"), ("rain", 3600.0)
    ),
    **dict.fromkeys(_SPEEDS, ("rain", 3.6e6)),
}
# Of accumulations, mm of rain.
AMOUNTS = {"mm": 1.0, "kg m-2": 1.0, "kg m**-2": 1.0, "kg/m2": 1.0, "m": 1000.0}
ENSEMBLE = ("member", "realization", "realisation", "number", "ensemble", "ens_number")
# Of HDF5: attributes that point into the file.
_REFERENCES = ("DIMENSION_LIST", "REFERENCE_LIST")
POLAR = (
    *("azimuth", "range", "ray", "sweep", "sweep_number"),
    *("sweep_group_name", "sweep_fixed_angle", "sweep_start_ray_index"),
)


def open_netcdf(path: Path) -> Any:
    """The dataset of a file, whose variables are read when they are looked at."""
    xarray = library("xarray", "h5netcdf")
    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    # Not netCDF4, whose HDF5 beside h5py's has crashed a process.
    return xarray.open_dataset(path, engine="scipy" if classic else "h5netcdf")


def read_netcdf(path: Path, reading: Reading) -> Contents:
    """Frames of a NetCDF file, which are read when they are looked at."""
    dataset = open_netcdf(path)
    return contents_of_xarray(dataset, reading)


def read_zarr(path: Path, reading: Reading) -> Contents:
    """Frames of a Zarr store."""
    library("zarr")
    dataset = library("xarray").open_zarr(path, chunks=None)
    return contents_of_xarray(dataset, reading)


def read_geotiff(path: Path, reading: Reading) -> Contents:
    """One frame of a GeoTIFF, or one a band where it has several."""
    image = library("rioxarray").open_rasterio(path, mask_and_scale=False)
    with library("rasterio").open(path) as file:
        colours = {one.name for one in file.colorinterp} & {"red", "palette"}
    if colours:
        raise FramesError("wanted one channel of measured values, got colours")
    crs = image.rio.crs
    unit = "degrees" if crs is not None and crs.is_geographic else "m"
    wkt = "" if crs is None else crs.to_wkt()
    grid = grid_of_coordinates(image.x.values, image.y.values, unit, wkt)
    nodata = image.rio.nodata
    scale = float(image.attrs.get("scale_factor", 1))
    offset = float(image.attrs.get("add_offset", 0))
    quantity, factor = UNITS.get(unit_of(image), (None, 1.0))
    if unit_of(image) in AMOUNTS:
        minutes = reading.decoding.accumulation
        if minutes is None:
            raise FramesError(NO_DURATION)
        quantity, factor = "rain", AMOUNTS[unit_of(image)] * 60 / minutes
    # Integers that say nothing of their unit stay integers, which nobody takes for dBZ.
    plain = quantity is None and (scale, offset) == (1, 0)

    def load(_: int, part: slice) -> NDArray[Any]:
        raw: NDArray[Any] = image[part].to_numpy()
        if plain:
            return raw
        values: NDArray[Any] = factor * (scale * raw.astype(np.float64) + offset)
        return values if nodata is None else np.where(raw == nodata, np.nan, values)

    count, height, width = image.shape
    missing = (float(nodata),) if plain and nodata is not None else ()
    shape = (1, count, height, width)
    return Contents(shape, quantity, None, grid, None, load, missing)


def frames_of_xarray(source: Any, reading: Reading | None = None) -> Frames:
    """Frames of an xarray object with times.

    Args:
        source: a DataArray `[time, y, x]` whose attribute `units` is of dBZ, a rain
            rate or an amount of rain, or a Dataset with one such variable.
        reading: names the variable and, where the data do not, the duration.

    Raises:
        FramesError: there is no such variable, or it is polar or an ensemble.

    Examples:
        >>> import numpy as np, xarray
        >>> from trajgru_ext.nowcasting import frames_of_xarray
        >>> times = np.arange("2020-01-01T00", "2020-01-01T03", dtype="M8[h]")
        >>> rain = xarray.DataArray(
        ...     np.zeros((3, 64, 64)),
        ...     coords={"time": times.astype("M8[ns]")},
        ...     dims=("time", "y", "x"),
        ...     attrs={"units": "mm h-1"},
        ... )
        >>> frames_of_xarray(rain).quantity
        'rain'

    """
    return contents_of_xarray(source, reading or Reading()).frames()


def contents_of_xarray(source: Any, reading: Reading) -> Contents:
    """What is in an xarray object; frames are read when they are loaded."""
    dataset = source
    if not hasattr(source, "data_vars"):
        name = str(source.name or "frames")
        dataset = source.to_dataset(name=name)
        reading = replace(reading, variable=name)
    names = {*dataset.variables, *dataset.dims}
    polar = [name for name in POLAR if name in names]
    if len(polar) > 1:
        raise FramesError(
            f"wanted frames on a map, got polar data ({', '.join(polar)})"
        )
    array = _variable(dataset, reading.variable)
    for name in array.dims:
        members = array.sizes[name]
        if str(name).lower() in ENSEMBLE and members > 1:
            raise FramesError(
                f"{array.name} is an ensemble ({name} of {members}): choose one member"
            )
    array = in_order(array)
    times = times_of(dataset, array)
    unit = unit_of(array)
    if unit in UNITS:
        quantity, factor = UNITS[unit]
    else:
        minutes = reading.decoding.accumulation or minutes_of(dataset, times)
        quantity, factor = "rain", AMOUNTS[unit] * 60 / minutes
    height, width = array.shape[-2:]
    count = array.shape[0] if array.ndim == 3 else 1

    def load(_: int, part: slice) -> NDArray[Any]:
        values: NDArray[Any] = (
            array[part].to_numpy() if array.ndim == 3 else (array.to_numpy()[None])
        )
        return values * factor if factor != 1 else values

    shape = (1, count, height, width)
    return Contents(shape, quantity, times, grid_of(dataset, array), None, load)


def unit_of(array: Any) -> str:
    """The unit as it stands in the tables above."""
    return " ".join(str(array.attrs.get("units", "")).lower().split())


def _variable(dataset: Any, wanted: str | None) -> Any:
    """The variable that is named, or the only one that is of rain or reflectivity."""

    def fits(name: str, array: Any) -> bool:
        unit = unit_of(array)
        if array.ndim < 2 or (unit not in UNITS and unit not in AMOUNTS):
            return False
        text = f"{name} {array.attrs.get('standard_name', '')}".lower()
        sure = unit in UNITS and unit not in _SPEEDS
        return sure or wanted == name or any(t in text for t in _RAIN_NAMES)

    units = {name: array.attrs.get("units", "") for name, array in dataset.items()}
    fitting = [name for name, array in dataset.items() if fits(str(name), array)]
    if wanted is not None:
        fitting = [name for name in fitting if name == wanted]
    if len(fitting) != 1:
        what = "one variable" if wanted is None else f"a variable {wanted!r}"
        raise FramesError(f"wanted {what} in dBZ, mm/h or mm, got units {units}")
    return dataset[fitting[0]]


def netcdf_signature(path: Path) -> str | None:
    """All names, shapes and attributes of a file of one frame, by h5py, in a moment."""
    with path.open("rb") as file:
        if file.read(3) == b"CDF":
            return None
    with library("h5py").File(path) as file:
        time = _time_variable(file)
        if time is None or time.size != 1:
            return None
        found = [str(file.attrs.get("proj4", ""))]
        for name, variable in file.items():
            attributes = {
                key: np.asarray(variable.attrs[key]).tolist()
                for key in variable.attrs
                # Of times, units may begin with each file's own.
                if key not in _REFERENCES and "time" not in name
            }
            shape = getattr(variable, "shape", "group")
            # Files of one size may lie in several places.
            along = shape != "group" and len(shape) == 1 and "time" not in name
            ends = [variable[0], variable[-1]] if along and variable.size else []
            found.append(f"{name} {shape} {ends} {sorted(attributes.items())}")
    return " ".join(found)


def netcdf_time(path: Path) -> np.datetime64 | None:
    """The valid time of a file of one frame; only of those that have a signature."""
    with library("h5py").File(path) as file:
        variable = _time_variable(file)
        if variable is None:
            return None
        unit = variable.attrs["units"]
        unit = unit.decode() if isinstance(unit, bytes) else unit
        coding = library("xarray.coding.times")
        values = np.ravel(variable[()])
        time = coding.decode_cf_datetime(values, unit, "proleptic_gregorian")
    found: np.datetime64 = np.asarray(time).astype("datetime64[s]")[0]
    return found


def _time_variable(file: Any) -> Any:
    for name in ("valid_time", "time"):
        if name in file and "units" in file[name].attrs:
            return file[name]
    return None
