"""Forecasts of NetCDF files, ours or anybody's."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting._xarray import AMOUNTS, ENSEMBLE, UNITS
from trajgru_ext.nowcasting.frames import FramesError


def read_forecast(path: Path) -> tuple[Tensor, Tensor | None, NDArray[np.datetime64]]:
    """Read a forecast of rain rates.

    Args:
        path: NetCDF with one variable of rain rates `[time, y, x]` or, of an ensemble,
            with an axis of members; amounts of rain are of the step between times.

    Returns:
        mm/h `[T, H, W]` (of an ensemble, its mean), the members `[M, T, H, W]` or None,
        and the valid times.

    Raises:
        FramesError: there is no such variable.

    """
    xarray = library("xarray", "h5netcdf")
    with path.open("rb") as file:
        classic = file.read(3) == b"CDF"
    with xarray.open_dataset(
        path, engine="scipy" if classic else "h5netcdf"
    ) as dataset:
        array = _rain(dataset)
        times = array["time"].to_numpy().astype("datetime64[s]")
        unit = str(array.attrs.get("units", "")).lower()
        factor = UNITS[unit][1] if unit in UNITS else AMOUNTS[unit]
        if unit not in UNITS:
            if len(times) < 2:
                raise FramesError("amounts of one time say no duration")
            factor /= float((times[1] - times[0]) / np.timedelta64(1, "h"))
        members = [name for name in array.dims if str(name).lower() in ENSEMBLE]
        array = array.transpose(*members, "time", ...)
        values = torch.from_numpy(np.array(array.to_numpy(), np.float32)) * factor
    if members:
        return values.mean(0), values, times
    return values, None, times


def _rain(dataset: Any) -> Any:
    """The variable that is an ensemble, else the one with times."""

    def fits(array: Any) -> bool:
        unit = str(array.attrs.get("units", "")).lower()
        known = UNITS.get(unit, ("rain" if unit in AMOUNTS else "", 1))[0] == "rain"
        return known and "time" in array.dims and array.ndim in (3, 4)

    fitting = sorted(
        (array for array in dataset.values() if fits(array)), key=lambda one: -one.ndim
    )
    if not fitting:
        units = {name: one.attrs.get("units", "") for name, one in dataset.items()}
        raise FramesError(f"wanted rain rates [time, y, x], got units {units}")
    return fitting[0]
