"""Forecasts of NetCDF files, ours or anybody's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting._axes import grid_of, in_order, times_of
from trajgru_ext.nowcasting._xarray import (
    AMOUNTS,
    ENSEMBLE,
    UNITS,
    open_netcdf,
    unit_of,
)
from trajgru_ext.nowcasting.frames import FramesError
from trajgru_ext.nowcasting.grids import Grid


@dataclass(frozen=True)
class ForecastFile:
    """Rain rates in mm/h of a file."""

    mean: Tensor  # [T, H, W]; of an ensemble, the mean of the members
    members: Tensor | None  # [M, T, H, W]
    times: NDArray[np.datetime64]  # valid times
    grid: Grid | None
    zr: str | None = None  # the Z-R relation, where the file says it

    def on(self, grid: Grid | None, size: tuple[int, ...]) -> "ForecastFile":
        """The same with rows and columns in the order of another grid.

        Raises:
            FramesError: the pixels lie elsewhere, or are of another number.

        """
        if self.mean.shape[1:] != size:
            shapes = [f"{h}x{w}" for h, w in (self.mean.shape[1:], size)]
            raise FramesError(f"is of {shapes[0]} pixels, the frames of {shapes[1]}")
        if grid is None or self.grid is None:
            return self
        turned = [
            axis
            for axis, mine, other in (
                (-2, self.grid.dy, grid.dy),
                (-1, self.grid.dx, grid.dx),
            )
            if mine * other < 0
        ]
        if not self.grid.turned(turned).same_places(grid):
            raise FramesError(f"is of {self.grid}, the frames of {grid}")
        members = None if self.members is None else self.members.flip(turned)
        return replace(self, mean=self.mean.flip(turned), members=members, grid=grid)


def read_forecast(path: Path) -> ForecastFile:
    """Read a forecast of rain rates.

    Args:
        path: NetCDF with one variable of rain rates `[time, y, x]` or, of an ensemble,
            with an axis of members; amounts of rain are of the step between times.

    Raises:
        FramesError: there is no such variable.

    """
    with open_netcdf(path) as dataset:
        array = _rain(dataset)
        members = [name for name in array.dims if str(name).lower() in ENSEMBLE]
        each = [array]
        if members:
            count = array.sizes[members[0]]
            each = [array.isel({members[0]: number}) for number in range(count)]
        each = [in_order(one) for one in each]
        times = times_of(dataset, each[0])
        if times is None or each[0].ndim < 3:
            raise FramesError(f"wanted an axis of times, got {array.dims}")
        values = np.stack([one.to_numpy() for one in each]).astype(np.float32)
        grid = grid_of(dataset, each[0])
        rates = torch.from_numpy(values) * _factor(array, times)
        zr = dataset.attrs.get("z_r_relation")
    return ForecastFile(rates.mean(0), rates if members else None, times, grid, zr)


def _factor(array: Any, times: NDArray[np.datetime64]) -> float:
    """How many mm/h the unit is."""
    unit = unit_of(array)
    if unit in UNITS:
        return UNITS[unit][1]
    steps = np.unique(np.diff(times))
    if len(steps) != 1:
        raise FramesError("amounts of rain at times that say no duration")
    return AMOUNTS[unit] / float(steps[0] / np.timedelta64(1, "h"))


def _rain(dataset: Any) -> Any:
    """The variable that is an ensemble, else the only one of rain with times."""

    def fits(array: Any) -> bool:
        unit = unit_of(array)
        known = UNITS.get(unit, ("rain" if unit in AMOUNTS else "", 1))[0] == "rain"
        return known and array.ndim in (3, 4)

    fitting = [array for array in dataset.values() if fits(array)]
    ensembles = [
        array
        for array in fitting
        if {str(name).lower() for name in array.dims} & set(ENSEMBLE)
    ]
    chosen = ensembles or fitting
    if len(chosen) != 1:
        units = {name: one.attrs.get("units", "") for name, one in dataset.items()}
        raise FramesError(
            f"wanted one variable of rain rates [time, y, x], got units {units}"
        )
    return chosen[0]
