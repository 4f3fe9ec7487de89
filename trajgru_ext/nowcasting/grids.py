"""Where the pixels of frames lie: a regular grid of a map projection."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# How far a corner may be off, in pixels, for two files to have one grid: services round
# corners to metres, and coordinates are often float32.
SAME_GRID = 0.05
_METRES = {"m": 1.0, "metre": 1.0, "metres": 1.0, "meter": 1.0, "meters": 1.0}
_METRES |= {"km": 1000.0, "kilometre": 1000.0, "kilometers": 1000.0}


@dataclass(frozen=True)
class Grid:
    """A grid of `[height, width]` pixels.

    The centre of pixel (i, j) lies at (x + j dx, y + i dy), in metres of the projection
    or, of latitudes and longitudes, in degrees; dy is negative where the first row is
    the northernmost.

    Examples:
        >>> from trajgru_ext.nowcasting import Grid
        >>> Grid(2, 3, "EPSG:3067", x=500.0, y=1500.0, dx=1000.0, dy=-1000.0).xs
        array([ 500., 1500., 2500.])

    """

    height: int
    width: int
    projection: str  # PROJ or WKT text; "" where a file does not say it
    x: float
    y: float
    dx: float
    dy: float
    degrees: bool = False

    @property
    def xs(self) -> NDArray[np.float64]:
        """The centres of columns."""
        return self.x + self.dx * np.arange(self.width, dtype=np.float64)

    @property
    def ys(self) -> NDArray[np.float64]:
        """The centres of rows."""
        return self.y + self.dy * np.arange(self.height, dtype=np.float64)

    @property
    def pixel_metres(self) -> float:
        """Height of a pixel in metres; 111 km are a degree of latitude."""
        return abs(self.dy) * (111_195.0 if self.degrees else 1.0)

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width, on the ground."""
        ratio = abs(self.dy / self.dx)
        if not self.degrees:
            return ratio
        middle = self.y + self.dy * (self.height - 1) / 2
        return ratio / max(math.cos(math.radians(middle)), 0.1)

    def same(self, other: "Grid") -> bool:
        """Whether it is the other but for rounding."""
        return self.projection == other.projection and self.same_places(other)

    def turned(self, axes: Sequence[int]) -> "Grid":
        """The grid of frames whose rows (-2) or columns (-1) are in reverse."""
        grid = self
        if -2 in axes:
            grid = replace(grid, y=float(grid.ys[-1]), dy=-grid.dy)
        if -1 in axes:
            grid = replace(grid, x=float(grid.xs[-1]), dx=-grid.dx)
        return grid

    def same_places(self, other: "Grid") -> bool:
        """Whether pixels have the same coordinates, but for rounding."""
        shapes = (self.height, self.width) == (other.height, other.width)
        if not shapes or self.degrees != other.degrees:
            return False
        pixel = min(abs(self.dx), abs(self.dy))
        mine, others = (
            np.array([g.xs[0], g.xs[-1], g.ys[0], g.ys[-1]]) for g in (self, other)
        )
        return bool(np.abs(mine - others).max() < SAME_GRID * pixel)

    def __str__(self) -> str:
        unit = "degrees" if self.degrees else "m"
        return (
            f"{self.height}x{self.width} pixels of {abs(self.dx):g} {unit} from "
            f"({self.x:.7g}, {self.y:.7g})"
        )


def grid_of_corners(
    shape: tuple[int, int],
    projection: str,
    corners: tuple[float, float, float, float],
    unit: str,
    first_row_north: bool = True,
) -> Grid:
    """Make the grid between outer corners of the outermost pixels: x1, y1, x2, y2."""
    x1, y1, x2, y2 = corners
    degrees = unit.startswith("deg")
    scale = 1.0 if degrees else _METRES[unit]
    height, width = shape
    dx, dy = scale * (x2 - x1) / width, scale * (y2 - y1) / height
    x, y = scale * x1 + dx / 2, scale * y1 + dy / 2
    if first_row_north:
        y, dy = scale * y2 - dy / 2, -dy
    return Grid(height, width, in_metres(projection), x, y, dx, dy, degrees)


def in_metres(projection: str) -> str:
    """A PROJ text in metres, also where its ellipsoid is not, as KNMI's."""

    def scaled(found: re.Match[str]) -> str:
        value = float(found[2])
        return f"+{found[1]}={1000 * value if value < 1e5 else value:.10g}"

    text = re.sub(r"\+(a|b)=([0-9.]+)", scaled, " ".join(projection.split()))
    return re.sub(r"\+units=\S+", "+units=m", text)


def grid_of_pysteps(metadata: Mapping[str, Any], shape: tuple[int, int]) -> Grid | None:
    """Read the grid of a pysteps importer's metadata, if they have one."""
    if not {"x1", "y1", "x2", "y2", "projection"} <= metadata.keys():
        return None
    x1, y1, x2, y2 = (float(metadata[name]) for name in ("x1", "y1", "x2", "y2"))
    return grid_of_corners(
        shape,
        str(metadata["projection"]),
        (x1, y1, x2, y2),
        str(metadata.get("cartesian_unit", "m")),
        metadata.get("yorigin", "upper") == "upper",
    )


def grid_of_coordinates(
    x: NDArray[Any], y: NDArray[Any], unit: str, projection: str
) -> Grid | None:
    """Make the grid of evenly spaced coordinates in metres or degrees, else None."""
    degrees = unit.lower().startswith("deg")
    scale = 1.0 if degrees else _METRES.get(unit.lower())
    if min(len(x), len(y)) < 2 or scale is None:
        return None
    x, y = scale * x.astype(float), scale * y.astype(float)
    dx, dy = (x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)
    if 0 in (dx, dy):
        return None
    for values, step in ((x, dx), (y, dy)):
        if np.abs(np.diff(values) - step).max() > SAME_GRID * abs(step):
            return None
    places = float(x[0]), float(y[0]), float(dx), float(dy)
    return Grid(len(y), len(x), in_metres(projection), *places, degrees)
