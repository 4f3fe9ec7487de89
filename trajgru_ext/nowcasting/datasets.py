"""Forecasts as datasets by the conventions of CF, and as files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import ZR
from trajgru_ext.nowcasting.times import written

# The name under which pysteps looks for it.
RAIN = "precip_intensity"


@dataclass(frozen=True)
class Forecast:
    """Frames that were forecast, as `Nowcaster.forecast` makes them.

    Attributes:
        values: `[T, H, W]` in mm/h, or brightness; NaN where unknown.
        members: of an ensemble, `[M, T, H, W]`, or None.
        brightness: whether values are brightness and not rain.
        reference: the time of the last frame that was known, or None.
        minutes: between two frames.
        grid: where the pixels lie, or None.
        zr: the relation of reflectivity and rain.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import ZR, Forecast
        >>> members = np.array([0.2, 1.0, 3.0]).reshape(3, 1, 1, 1)
        >>> forecast = Forecast(
        ...     members.mean(0), members, False, None, 5.0, None, ZR()
        ... )
        >>> forecast.probabilities([0.5]).round(2).tolist()
        [[[[0.67]]]]

    """

    values: NDArray[Any]
    members: NDArray[Any] | None
    brightness: bool
    reference: np.datetime64 | None
    minutes: float
    grid: Grid | None
    zr: ZR

    @property
    def times(self) -> NDArray[np.datetime64]:
        """Valid times; from 1970 on where the frames had none."""
        start = self.reference
        if start is None:
            start = np.datetime64(0, "s")
        leads = np.round(60 * self.leads).astype("timedelta64[s]")
        times: NDArray[np.datetime64] = start.astype("datetime64[s]") + leads
        return times

    @property
    def leads(self) -> NDArray[np.float64]:
        """Minutes from the reference."""
        return self.minutes * np.arange(1, len(self.values) + 1, dtype=np.float64)

    def probabilities(self, thresholds: Sequence[float]) -> NDArray[Any]:
        """The share of members at or above thresholds, `[K, T, H, W]`.

        Raises:
            ValueError: there are no members.

        """
        if self.members is None:
            raise ValueError("probabilities: wanted a forecast with members")
        unknown = np.isnan(self.values)
        shares = [(self.members >= one).mean(0) for one in thresholds]
        return np.stack([np.where(unknown, np.nan, s) for s in shares])

    def to_xarray(self, thresholds: Sequence[float] = (), history: str = "") -> Any:
        """Make an xarray.Dataset by CF 1.10.

        Args:
            thresholds: rain rates in mm/h, of which an ensemble has probabilities.
            history: what made it, besides this package.

        """
        xarray = library("xarray")
        name = "brightness" if self.brightness else RAIN
        unit = "1" if self.brightness else "mm h-1"
        about = {"units": unit, "long_name": "forecast of the rain rate"}
        if not self.brightness:
            about["standard_name"] = "lwe_precipitation_rate"
        axes = ("time", "y", "x")
        coordinates, mapping = self._coordinates()
        if mapping:
            about["grid_mapping"] = mapping[0]
        variables: dict[str, Any] = {}
        if self.members is None:
            variables[name] = (axes, self.values.astype(np.float32, copy=False), about)
        else:
            members = self.members.astype(np.float32, copy=False)
            mean = {**about, "long_name": "forecast without noise"}
            variables[name] = ("member", *axes), members, about
            variables[f"{name}_undisturbed"] = (
                axes,
                self.values.astype(np.float32, copy=False),
                mean,
            )
            coordinates["member"] = (
                "member",
                np.arange(len(self.members)),
                {"standard_name": "realization"},
            )
            if thresholds:
                shares = self.probabilities(thresholds).astype(np.float32)
                meant = {**about, "units": "1", "long_name": "share of members above"}
                meant.pop("standard_name", None)
                variables["probability"] = ("threshold", *axes), shares, meant
                coordinates["threshold"] = (
                    "threshold",
                    list(thresholds),
                    {"units": unit},
                )
        if mapping:
            variables[mapping[0]] = (), np.int32(0), mapping[1]
        try:
            made_by = f"trajgru_ext {version('trajgru_ext')}"
        except PackageNotFoundError:
            made_by = "trajgru_ext"
        now = written(np.datetime64("now"))
        attributes = {
            "Conventions": "CF-1.10",
            "title": "Nowcast of rain",
            "source": made_by,
            "history": f"{now} {history or made_by}",
        }
        if not self.brightness:
            attributes["z_r_relation"] = str(self.zr)
        return xarray.Dataset(variables, coordinates, attributes)

    def _coordinates(self) -> tuple[dict[str, Any], tuple[str, dict[str, Any]] | None]:
        """Coordinates, and name and attributes of the projection, if it is known."""
        coordinates: dict[str, Any] = {
            "time": ("time", self.times.astype("datetime64[ns]"), {}),
            "lead_time": ("time", self.leads, {"units": "minutes"}),
        }
        coordinates["time"][2]["standard_name"] = "time"
        coordinates["lead_time"][2]["standard_name"] = "forecast_period"
        if self.reference is not None:
            coordinates["forecast_reference_time"] = (
                (),
                self.reference.astype("datetime64[ns]"),
                {"standard_name": "forecast_reference_time"},
            )
        grid = self.grid
        if grid is None:
            return coordinates, None
        kinds = ("projection_x_coordinate", "projection_y_coordinate")
        units = ("m", "m")
        if grid.degrees:
            kinds, units = ("longitude", "latitude"), ("degrees_east", "degrees_north")
        for axis, values, kind, unit in zip(
            "xy", (grid.xs, grid.ys), kinds, units, strict=True
        ):
            about = {"standard_name": kind, "units": unit, "axis": axis.upper()}
            coordinates[axis] = (axis, values, about)
        if not grid.projection:
            return coordinates, None
        pyproj = library("pyproj")
        try:
            crs = pyproj.CRS.from_user_input(grid.projection)
        except pyproj.exceptions.CRSError as error:
            raise ValueError(
                f"the projection of the frames cannot be written: {grid.projection}"
            ) from error
        attributes = crs.to_cf()
        if attributes.get("grid_mapping_name") == "polar_stereographic":
            # CF and pysteps want the pole, which pyproj leaves out beside a parallel.
            south = attributes.get("standard_parallel", 90.0) < 0
            pole = -90.0 if south else 90.0
            attributes.setdefault("latitude_of_projection_origin", pole)
        # GDAL, and so QGIS, reads the text where it is.
        attributes["spatial_ref"] = attributes.get("crs_wkt", "")
        return coordinates, (attributes.get("grid_mapping_name", "crs"), attributes)


def write_netcdf(dataset: Any, path: Path, reference: np.datetime64 | None) -> None:
    """Write a NetCDF file, compressed; times are seconds from the reference."""
    library("h5netcdf")
    start = "1970-01-01T00:00:00" if reference is None else str(reference)
    packed = {"zlib": True, "complevel": 4, "_FillValue": np.float32(np.nan)}
    encoding: dict[str, Any] = {
        name: packed for name, one in dataset.data_vars.items() if one.ndim > 2
    }
    units = f"seconds since {start.replace('T', ' ')}"
    for name in ("time", "forecast_reference_time"):
        if name in dataset.coords:
            encoding[name] = {"units": units, "dtype": "int64"}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)
    temporary.replace(path)


def write_geotiffs(forecast: Forecast, folder: Path) -> list[Path]:
    """Write a GeoTIFF a lead time, NaN where unknown."""
    library("rioxarray")
    folder.mkdir(parents=True, exist_ok=True)
    dataset = forecast.to_xarray()
    name = "brightness" if forecast.brightness else RAIN
    array = (
        dataset[name] if forecast.members is None else dataset[f"{name}_undisturbed"]
    )
    array.attrs.pop("grid_mapping", None)
    if forecast.grid is not None and forecast.grid.projection:
        array = array.rio.write_crs(forecast.grid.projection)
    paths = []
    whole = (forecast.times.astype("datetime64[m]") == forecast.times).all()
    for number, time in enumerate(forecast.times):
        stamp = re.sub("[-:T]", "", str(time))[: 12 if whole else 14]
        path = folder / f"{stamp}.tif"
        one = array.isel(time=number).drop_vars(["time", "lead_time"], errors="ignore")
        one.rio.write_nodata(np.nan).rio.to_raster(path)
        paths.append(path)
    return paths
