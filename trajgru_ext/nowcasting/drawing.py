"""Pictures of a forecast: what came, what was forecast, and along which flows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import HKO7, ZR, pixels_to_rain

matplotlib.use("Agg")

# Rain rate in mm/h, in steps of about a factor of two, in the order of colours that
# weather services use: blue light, green moderate, yellow to red heavy, violet hail.
RAIN_LEVELS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
RAIN_COLOURS = (
    "#c6e2f5",
    "#8cc4ea",
    "#4a9bd9",
    "#1f6fb5",
    "#2e9e5b",
    "#f5e14b",
    "#f59b2d",
    "#e23b30",
    "#8e2a8b",
)
DRY = "#f7f7f5"
MISSING = "#cfcfcf"
INK = "#222222"
COLUMNS = 5  # lead times shown
ARROWS = 12  # along the longer side


@dataclass(frozen=True)
class Picture:
    """What is drawn, as pixels `[T, H, W]` of the HKO-7 scale, NaN where missing."""

    past: Tensor
    rows: dict[str, Tensor]  # what came and each forecast, by name
    flows: Tensor | None  # [T, links, 2, h, w], pixels a frame along x and y
    minutes: float  # a frame
    rain: bool  # draw rain rates, else brightness
    title: str
    credit: str
    zr: ZR = HKO7
    grid: Grid | None = None  # where the pixels lie

    def shown(self, frame: Tensor) -> NDArray[Any]:
        """A frame in the unit that is drawn."""
        return (pixels_to_rain(frame, self.zr) if self.rain else frame).numpy()

    def colours(self) -> tuple[Colormap, Normalize]:
        """The colours of that unit."""
        if not self.rain:
            colours = matplotlib.colormaps["magma"].with_extremes(bad=MISSING)
            return colours, Normalize(0, 1)
        colours = ListedColormap(RAIN_COLOURS).with_extremes(under=DRY, bad=MISSING)
        return colours, BoundaryNorm(RAIN_LEVELS, len(RAIN_COLOURS))


def draw(picture: Picture, path: Path) -> None:
    """Write a PNG: a row for what came, one a forecast, and one of flows."""
    ahead = len(next(iter(picture.rows.values())))
    columns = min(COLUMNS, ahead)
    leads = [round(ahead * (k + 1) / columns) for k in range(columns)]
    count = len(picture.rows) + (picture.flows is not None)
    size = (1 + 2.4 * columns, 1.2 + 2.45 * count)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(picture.title, fontsize=15, color=INK)
    panels = figure.subplots(count, columns, squeeze=False)
    for (name, frames), axes in zip(picture.rows.items(), panels, strict=False):
        for lead, panel in zip(leads, axes, strict=True):
            image = _show(panel, picture, frames[lead - 1])
        axes[0].set_ylabel(name, fontsize=12, color=INK)
    for lead, panel in zip(leads, panels[0], strict=True):
        panel.set_title(f"+{lead * picture.minutes:g} min", fontsize=12, color=INK)
    if picture.flows is not None:
        _draw_flows(panels[-1], picture, picture.flows, leads[0])
    bar = figure.colorbar(image, ax=panels, location="bottom", aspect=50, shrink=0.6)
    bar.set_label("rain rate [mm/h]" if picture.rain else "brightness", fontsize=11)
    if picture.rain:
        bar.set_ticks(RAIN_LEVELS, labels=[f"{level:g}" for level in RAIN_LEVELS])
    if picture.credit:
        figure.supxlabel(f"Data: {picture.credit}", fontsize=9, color=INK)
    figure.savefig(path, dpi=100)


def animate(picture: Picture, path: Path) -> None:
    """Write a GIF of the past and then of what came beside each forecast."""
    columns = len(picture.rows)
    size = (0.4 + 2.6 * columns, 3.2)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    images = []
    for name, panel in zip(picture.rows, panels, strict=True):
        images.append(_show(panel, picture, picture.past[0]))
        panel.set_title(name, fontsize=11, color=INK)
    before, ahead = len(picture.past), len(next(iter(picture.rows.values())))

    def show(moment: int) -> list[AxesImage]:
        lead = moment - before + 1
        figure.suptitle(f"{lead * picture.minutes:+g} min", fontsize=12, color=INK)
        for image, frames in zip(images, picture.rows.values(), strict=True):
            frame = picture.past[moment] if lead <= 0 else frames[lead - 1]
            image.set_data(picture.shown(frame))
        return images

    movie = FuncAnimation(figure, show, frames=before + ahead)
    movie.save(path, writer=PillowWriter(fps=4), dpi=70)


def _show(axes: Axes, picture: Picture, frame: Tensor) -> AxesImage:
    colours, norm = picture.colours()
    shown = picture.shown(frame)
    grid = picture.grid
    image = axes.imshow(
        shown,
        cmap=colours,
        norm=norm,
        interpolation="nearest",
        aspect=1.0 if grid is None else grid.aspect,
        # North is up.
        origin="lower" if grid is not None and grid.dy > 0 else "upper",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#999999")
    return image


def _draw_flows(
    panels: NDArray[Any], picture: Picture, all_flows: Tensor, lead: int
) -> None:
    """The flows of the links at one lead time, over the last frame that was seen."""
    flows = all_flows[lead - 1].numpy()
    scale = (
        picture.past.shape[1] / flows.shape[2]
    )  # pixels of the frame to one of the flow
    every = max(1, round(max(flows.shape[2:]) / ARROWS))
    y, x = (np.arange(every // 2, n, every) for n in flows.shape[2:])
    fastest = np.hypot(*flows.swapaxes(0, 1)).max()
    for link, panel in enumerate(panels):
        if link >= len(flows):
            panel.set_axis_off()
            continue
        _show(panel, picture, picture.past[-1])
        u, v = flows[link][:, y[:, None], x]
        panel.quiver(
            *((x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5, u, v),
            angles="xy",
            scale_units="xy",
            scale=fastest / (1.5 * every * scale) or 1,  # the longest passes the next
            width=0.008,
            color=INK if picture.rain else "white",
        )
        panel.set_xlabel(f"link {link + 1}", fontsize=10, color=INK)
    longest = f"longest arrow: {fastest:.2g} pixels"
    panels[0].set_ylabel(f"Learned flows\n{longest}", fontsize=11, color=INK)
