"""Frames of NetCDF, Zarr and GeoTIFF, by xarray."""

from ast import literal_eval
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting._contents import Contents, contents_of
from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting.frames import Frames, FramesError, Reading
from trajgru_ext.nowcasting.grids import Grid, grid_of_coordinates

# By unit, its quantity and how many mm/h or dBZ it is.
UNITS = {
    "dbz": ("reflectivity", 1.0),
    **dict.fromkeys(
        ("mm/h", "mm/hr", "mm h-1", "mm hr-1", "mm h**-1", "kg m-2 h-1"), ("rain", 1.0)
    ),
    **dict.fromkeys(
        ("kg m-2 s-1", "kg m**-2 s**-1", "mm/s", "mm s-1"), ("rain", 3600.0)
    ),
    **dict.fromkeys(("m s-1", "m/s"), ("rain", 3.6e6)),
}
# Of accumulations, mm of rain.
AMOUNTS = {"mm": 1.0, "kg m-2": 1.0, "kg m**-2": 1.0, "kg/m2": 1.0, "m": 1000.0}
_RAIN_NAMES = ("precip", "rain", "acrr", "tp")  # a length is rain only under these
ENSEMBLE = ("member", "realization", "realisation", "number", "ensemble", "ens_number")
# Of HDF5: attributes that point into the file.
_REFERENCES = ("DIMENSION_LIST", "REFERENCE_LIST")
POLAR = ("azimuth", "range", "sweep", "sweep_number", "ray")


def read_netcdf(path: Path, reading: Reading) -> Contents:
    """Frames of a NetCDF file, which are read when they are looked at."""
    xarray = library("xarray", "h5netcdf")
    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    # Not netCDF4, whose HDF5 beside h5py's has crashed a process.
    dataset = xarray.open_dataset(path, engine="scipy" if classic else "h5netcdf")
    return contents_of_xarray(dataset, reading)


def read_zarr(path: Path, reading: Reading) -> Contents:
    """Frames of a Zarr store."""
    library("zarr")
    dataset = library("xarray").open_zarr(path, chunks=None)
    return contents_of_xarray(dataset, reading)


def read_geotiff(path: Path, reading: Reading) -> Contents:
    """One frame of a GeoTIFF, or one a band where it has several."""
    image = library("rioxarray").open_rasterio(path, mask_and_scale=False)
    crs = image.rio.crs
    unit = "degrees" if crs is not None and crs.is_geographic else "m"
    wkt = "" if crs is None else crs.to_wkt()
    grid = grid_of_coordinates(image.x.values, image.y.values, unit, wkt)
    values = image.to_numpy()
    nodata = image.rio.nodata
    scale, offset = (image.attrs.get(k) for k in ("scale_factor", "add_offset"))
    if nodata is not None or (scale, offset) not in ((None, None), (1.0, 0.0)):
        missing = np.isnan(values) if nodata is None else values == nodata
        values = np.where(missing, np.nan, values * (scale or 1.0) + (offset or 0.0))
    text = str(image.attrs.get("units", "")).lower()
    quantity, factor = UNITS.get(text, (None, 1.0))
    image.close()
    values = values * factor if factor != 1 else values
    return contents_of(Frames(values, quantity, None, grid))


def frames_of_xarray(source: Any, reading: Reading | None = None) -> Frames:
    """Frames of an xarray object with times.

    Args:
        source: a DataArray `[time, y, x]` whose attribute `units` is of dBZ, a rain
            rate or an amount of rain, or a Dataset with one such variable.
        reading: names the variable and, where the data do not, the duration.

    Raises:
        FramesError: there is no such variable, or it is polar or an ensemble.

    """
    return contents_of_xarray(source, reading or Reading()).frames()


def contents_of_xarray(source: Any, reading: Reading) -> Contents:
    """What is in an xarray object; frames are read when they are loaded."""
    dataset = (
        source if hasattr(source, "data_vars") else source.to_dataset(name="frames")
    )
    polar = [
        name for name in POLAR if name in dataset.variables or name in dataset.dims
    ]
    if len(polar) > 1:
        raise FramesError(
            f"wanted frames on a map, got polar data ({', '.join(polar)})"
        )
    array = _variable(dataset, reading.variable)
    for name in array.dims[:-2]:
        members = array.sizes[name]
        if str(name).lower() in ENSEMBLE and members > 1:
            raise FramesError(
                f"{array.name} is an ensemble ({name} of {members}): choose one member"
            )
    times = _times(dataset, array)
    array = array.squeeze([d for d in array.dims[:-2] if array.sizes[d] == 1])
    if array.ndim not in (2, 3):
        raise FramesError(
            f"wanted frames [time, y, x], got {array.dims} of {array.name}"
        )
    unit = _unit(array)
    if unit in UNITS:
        quantity, factor = UNITS[unit]
    else:
        minutes = reading.accumulation or _minutes(dataset, times)
        quantity, factor = "rain", AMOUNTS[unit] * 60 / minutes
    height, width = array.shape[-2:]
    count = array.shape[0] if array.ndim == 3 else 1

    def load(_: int, part: slice) -> NDArray[Any]:
        values: NDArray[Any] = (
            array[part].to_numpy() if array.ndim == 3 else (array.to_numpy()[None])
        )
        return values * factor if factor != 1 else values

    shape = (1, count, height, width)
    return Contents(shape, quantity, times, _grid(dataset, array), None, load)


def _unit(array: Any) -> str:
    return " ".join(str(array.attrs.get("units", "")).lower().split())


def _variable(dataset: Any, wanted: str | None) -> Any:
    """The variable that is named, or the only one that is of rain or reflectivity."""

    def fits(name: str, array: Any) -> bool:
        unit = _unit(array)
        if array.ndim < 2 or (unit not in UNITS and unit not in AMOUNTS):
            return False
        text = f"{name} {array.attrs.get('standard_name', '')}".lower()
        return unit in UNITS or wanted == name or any(t in text for t in _RAIN_NAMES)

    units = {name: array.attrs.get("units", "") for name, array in dataset.items()}
    fitting = [name for name, array in dataset.items() if fits(str(name), array)]
    if wanted is not None:
        fitting = [name for name in fitting if name == wanted]
    if len(fitting) != 1:
        what = "one variable" if wanted is None else f"a variable {wanted!r}"
        raise FramesError(f"wanted {what} in dBZ, mm/h or mm, got units {units}")
    return dataset[fitting[0]]


def _times(dataset: Any, array: Any) -> NDArray[np.datetime64] | None:
    """Valid times: of the first axis, else a scalar whose standard name is time."""
    names = [array.dims[0]] if array.ndim > 2 else []
    names += ["valid_time", "time"]
    names += [
        n
        for n, v in dataset.variables.items()
        if v.attrs.get("standard_name") == "time"
    ]
    count = array.sizes[array.dims[0]] if array.ndim > 2 else 1
    for name in names:
        if name in dataset.variables and dataset[name].dtype.kind == "M":
            times = np.atleast_1d(dataset[name].to_numpy()).astype("datetime64[s]")
            if times.shape == (count,):
                return times
    return None


def _minutes(dataset: Any, times: NDArray[np.datetime64] | None) -> float:
    """How long an amount of rain fell."""
    for name in ("time_bnds", "time_bounds", "valid_time_bounds"):
        if name in dataset.variables:
            ends = dataset[name].to_numpy().reshape(-1, 2)[0].astype("datetime64[s]")
            return float((ends[1] - ends[0]) / np.timedelta64(1, "m"))
    if "start_time" in dataset.variables and times is not None:
        start = np.ravel(dataset["start_time"].to_numpy())[0].astype("datetime64[s]")
        return float((times[0] - start) / np.timedelta64(1, "m"))
    raise FramesError("an amount of rain that says no duration: give --accumulation")


def _grid(dataset: Any, array: Any) -> Grid | None:
    y, x = (array.coords.get(name) for name in array.dims[-2:])
    if x is None or y is None:
        return None
    unit = str(x.attrs.get("units", "m"))
    return grid_of_coordinates(
        x.to_numpy(), y.to_numpy(), unit, _projection(dataset, array)
    )


def _projection(dataset: Any, array: Any) -> str:
    """The projection of CF's grid mapping, or PROJ text that stands there; "" else."""
    name = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping")
    attributes = dict(dataset[name].attrs) if name in dataset.variables else {}
    for key in ("crs_wkt", "spatial_ref", "proj4", "proj4_params"):
        if attributes.get(key):
            return str(attributes[key])
    if "grid_mapping_name" not in attributes:
        return str(dataset.attrs.get("proj4", ""))
    values = {key: np.asarray(value).tolist() for key, value in attributes.items()}
    return _wkt(repr(values))


@lru_cache
def _wkt(attributes: str) -> str:
    """The projection of attributes of CF; takes a second, so not once a file."""
    text: str = library("pyproj").CRS.from_cf(literal_eval(attributes)).to_wkt()
    return text


def netcdf_signature(path: Path) -> str | None:
    """All names, shapes and attributes of a file of one frame, by h5py, in a moment."""
    with path.open("rb") as file:
        if file.read(3) == b"CDF":
            return None
    found = []
    with library("h5py").File(path) as file:
        time = _time_variable(file)
        if time is None or time.size != 1:
            return None
        for name, variable in file.items():
            attributes = {
                key: np.asarray(variable.attrs[key]).tolist()
                for key in variable.attrs
                # Of times, units may begin with each file's own.
                if key not in _REFERENCES and "time" not in name
            }
            shape = getattr(variable, "shape", "group")
            found.append(f"{name} {shape} {sorted(attributes.items())}")
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
