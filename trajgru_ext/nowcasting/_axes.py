"""What the axes of xarray's data are: times, rows and columns, and where they lie."""

from ast import literal_eval
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting.frames import NO_DURATION, FramesError
from trajgru_ext.nowcasting.grids import Grid, grid_of_coordinates

_NAMES = {
    **dict.fromkeys(("x", "lon", "longitude", "easting"), "x"),
    **dict.fromkeys(("y", "lat", "latitude", "northing"), "y"),
    **dict.fromkeys(("time", "valid_time"), "time"),
    **dict.fromkeys(("z", "level", "height", "altitude", "elevation"), "z"),
}
_STANDARD_NAMES = {
    **dict.fromkeys(("projection_x_coordinate", "longitude", "grid_longitude"), "x"),
    **dict.fromkeys(("projection_y_coordinate", "latitude", "grid_latitude"), "y"),
    **dict.fromkeys(("height", "altitude", "air_pressure"), "z"),
    "time": "time",
}
_BOUNDS = ("time_bnds", "time_bounds", "valid_time_bounds")


def kind_of(array: Any, name: str) -> str:
    """Which axis a dimension is: x, y, z or time; "" where nothing says it."""
    if name in array.coords:
        coordinate = array.coords[name]
        if coordinate.dtype.kind == "M":
            return "time"
        said = {"X": "x", "Y": "y", "Z": "z", "T": "time"}.get(
            str(coordinate.attrs.get("axis", "")).upper()
        )
        standard = _STANDARD_NAMES.get(coordinate.attrs.get("standard_name", ""))
        if said or standard:
            return said or standard or ""
    return _NAMES.get(str(name).lower(), "")


def in_order(array: Any) -> Any:
    """The array as `[time, y, x]` or `[y, x]`, without other axes.

    Axes of which nothing says what they are come in this order already.

    Raises:
        FramesError: there are other axes, of more than one place.

    """
    kinds = {name: kind_of(array, name) for name in array.dims}

    def only(kind: str) -> list[Any]:
        found = [name for name, one in kinds.items() if one == kind]
        return found if len(found) == 1 else []

    time = only("time")
    rest = [name for name in array.dims if name not in time]
    image = [*only("y"), *only("x")]
    if len(image) < 2:
        image = rest[-2:]
    others = [name for name in rest if name not in image]
    alone = [name for name in others if array.sizes[name] == 1]
    more = [name for name in others if name not in alone]
    if not time and len(more) == 1 and kinds[more[0]] != "z":
        time, more = more, []
    if more or len(image) < 2:
        sizes = ", ".join(f"{name} of {n}" for name, n in array.sizes.items())
        raise FramesError(f"wanted frames [time, y, x], got {array.name} [{sizes}]")
    return array.squeeze(alone).transpose(*time, *image)


def times_of(dataset: Any, array: Any) -> NDArray[np.datetime64] | None:
    """Valid times: of the first axis, else a scalar whose standard name is time."""
    names = [array.dims[0]] if array.ndim > 2 else []
    names += ["valid_time", "time"]
    names += [
        n
        for n, v in dataset.variables.items()
        if v.attrs.get("standard_name") == "time"
    ]
    count = array.shape[0] if array.ndim > 2 else 1
    for name in names:
        if name in dataset.variables and dataset[name].dtype.kind == "M":
            times = np.ravel(dataset[name].to_numpy()).astype("datetime64[s]")
            if times.shape == (count,):
                return times
    return None


def minutes_of(dataset: Any, times: NDArray[np.datetime64] | None) -> float:
    """How long the amounts of rain fell.

    Raises:
        FramesError: nothing says it, or each fell another time.

    """
    bounds = [variable.attrs.get("bounds") for variable in dataset.variables.values()]
    pairs = None
    for name in (*_BOUNDS, *(one for one in bounds if one)):
        if name in dataset.variables and dataset[name].dtype.kind == "M":
            pairs = dataset[name].to_numpy().reshape(-1, 2).astype("datetime64[s]")
            break
    else:
        if "start_time" in dataset.variables and times is not None:
            starts = np.ravel(dataset["start_time"].to_numpy()).astype("datetime64[s]")
            pairs = np.stack(np.broadcast_arrays(starts, times), 1)
    if pairs is None:
        raise FramesError(NO_DURATION)
    minutes = np.unique((pairs[:, 1] - pairs[:, 0]) / np.timedelta64(1, "m"))
    if len(minutes) > 1 or minutes[0] <= 0:
        raise FramesError(
            "wanted amounts of rain of one duration, got "
            f"{', '.join(f'{one:g}' for one in minutes[:4])} minutes"
        )
    return float(minutes[0])


def grid_of(dataset: Any, array: Any) -> Grid | None:
    """Where the pixels lie, None where coordinates or their unit do not say it."""
    y, x = (array.coords.get(name) for name in array.dims[-2:])
    if x is None or y is None:
        return None
    degrees = str(array.dims[-1]).lower() in ("lon", "longitude")
    unit = str(x.attrs.get("units", "degrees" if degrees else "m"))
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
