"""The picture of a forecast: what came, what was forecast, and how good it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
UNKNOWN = "#cfcfcf"  # what lay outside the last frame
INK = "#222222"
LINE_COLOURS = ("#1f6fb5", "#2e9e5b", "#d9662b")
COLUMNS = 4  # lead times shown
ARROWS = 12  # along the longer side


class Score(Protocol):
    """What the drawing reads of a score."""

    lead_minutes: float
    threshold: float | None
    forecast: float | None
    persistence: float | None


@dataclass(frozen=True)
class Picture:
    """What is drawn: rain in mm/h, or brightness in [0, 1]."""

    last: NDArray  # [H, W]
    observed: NDArray  # [ahead, H, W]
    forecast: NDArray  # [ahead, H, W], NaN where unknown
    motion: NDArray  # [2, H, W], pixels a frame
    scores: Sequence[Score]
    minutes: float  # a frame
    rain: bool
    title: str
    credit: str


def draw(picture: Picture, path: Path) -> None:
    """Write the picture as PNG."""
    leads = _leads(len(picture.observed))
    width = 4.6 + 2.75 * len(leads)
    figure = Figure(figsize=(width, 9.6), layout="constrained", facecolor="white")
    header, body, footer = figure.subfigures(3, 1, height_ratios=(0.5, 8.9, 0.25))
    header.text(
        0.5, 0.45, picture.title, fontsize=16, color=INK, ha="center", va="center"
    )
    if picture.credit:
        credit = f"Data: {picture.credit}"
        footer.text(
            0.99, 0.6, credit, fontsize=10, color="#555555", ha="right", va="center"
        )
    left, right = body.subfigures(1, 2, width_ratios=(4.6, width - 4.6))

    above, below = left.subplots(2, 1, height_ratios=(1.35, 1))
    _draw_motion(above, picture)
    _draw_scores(below, picture)

    rows = (
        ("Observed", picture.observed),
        ("Forecast", picture.forecast),
        ("Persistence", np.broadcast_to(picture.last, picture.observed.shape)),
    )
    panels = right.subplots(len(rows), len(leads), squeeze=False)
    for (name, frames), axes in zip(rows, panels, strict=True):
        for lead, panel in zip(leads, axes, strict=True):
            image = _show(panel, frames[lead - 1], picture.rain)
        axes[0].set_ylabel(name, fontsize=13, color=INK)
    for lead, panel in zip(leads, panels[0], strict=True):
        panel.set_title(f"+{lead * picture.minutes:g} min", fontsize=13, color=INK)
    _draw_legend(right, panels, image, picture)
    figure.savefig(path, dpi=110)


def _leads(ahead: int) -> list[int]:
    """The lead times shown, evenly spaced and ending with the last."""
    columns = min(COLUMNS, ahead)
    return [round(ahead * (k + 1) / columns) for k in range(columns)]


def _show(axes: Axes, frame: NDArray, rain: bool) -> AxesImage:
    if rain:
        colours = ListedColormap(RAIN_COLOURS).with_extremes(under=DRY, bad=UNKNOWN)
        norm = BoundaryNorm(RAIN_LEVELS, len(RAIN_COLOURS))
    else:
        colours = matplotlib.colormaps["magma"].with_extremes(bad=UNKNOWN)
        norm = Normalize(0, 1)
    image = axes.imshow(frame, cmap=colours, norm=norm, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#999999")
    return image


def _draw_legend(
    figure: SubFigure, panels: NDArray, image: AxesImage, picture: Picture
) -> None:
    bar = figure.colorbar(
        image, ax=panels, location="bottom", aspect=50, shrink=0.75, pad=0.02
    )
    bar.set_label("rain rate [mm/h]" if picture.rain else "brightness", fontsize=11)
    if picture.rain:
        bar.set_ticks(RAIN_LEVELS, labels=[f"{level:g}" for level in RAIN_LEVELS])
    bar.outline.set_edgecolor("#999999")
    if np.isnan(picture.forecast).any():
        unknown = Patch(facecolor=UNKNOWN, label="came from outside")
        bar.ax.legend(
            handles=[unknown],
            loc="center left",
            bbox_to_anchor=(1.01, 0.5),
            frameon=False,
        )


def _draw_motion(axes: Axes, picture: Picture) -> None:
    """The last frame, with arrows as long as the way of some frames."""
    _show(axes, picture.last, picture.rain)
    axes.set_title("Last frame and its motion", fontsize=13, color=INK)
    height, width = picture.last.shape
    spacing = max(height, width) / ARROWS
    x = np.arange(spacing / 2, width, spacing)
    y = np.arange(spacing / 2, height, spacing)
    u, v = picture.motion[:, y.astype(int)[:, None], x.astype(int)]
    fastest = float(np.hypot(u, v).max())
    if fastest == 0:
        return
    arrows = axes.quiver(
        *(x, y, u, v),
        angles="xy",
        scale_units="xy",
        scale=fastest / (1.2 * spacing),  # the longest reaches just past the next
        width=0.006,
        color=INK if picture.rain else "white",
        edgecolor="white" if picture.rain else INK,
        linewidth=0.5,
    )
    speed = float(f"{fastest:.1g}")
    label = f"{speed:g} pixels in {picture.minutes:g} min"
    axes.quiverkey(arrows, 0.8, -0.05, speed, label, labelpos="W", color=INK)


def _draw_scores(axes: Axes, picture: Picture) -> None:
    """Scores by lead time: forecast drawn through, persistence dashed."""
    thresholds = list(dict.fromkeys(s.threshold for s in picture.scores))
    colours = LINE_COLOURS if picture.rain else LINE_COLOURS[:1]
    for threshold, colour in zip(thresholds, colours, strict=True):
        scores = [s for s in picture.scores if s.threshold == threshold]
        minutes = [s.lead_minutes for s in scores]
        forecast = [np.nan if s.forecast is None else s.forecast for s in scores]
        persistence = [
            np.nan if s.persistence is None else s.persistence for s in scores
        ]
        name = f"\u2265 {threshold:g} mm/h" if picture.rain else "all pixels"
        axes.plot(minutes, forecast, "o-", color=colour, ms=4, lw=2, label=name)
        axes.plot(minutes, persistence, "o--", color=colour, ms=3, lw=1.2, alpha=0.8)
    if picture.rain:
        title, label = "Critical success index (1 is perfect)", "CSI"
        axes.set_ylim(0, 1)
    else:
        title, label = "Mean squared error (0 is perfect)", "MSE"
        axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=13, color=INK)
    axes.set(xlabel="lead time [min]", ylabel=label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 1.5, 2, 3, 5, 10]))
    axes.grid(color="#e3e3e3")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    styles = [
        Line2D([], [], color=INK, lw=2, marker="o", ms=4, label="forecast"),
        Line2D(
            [], [], color=INK, lw=1.2, ls="--", marker="o", ms=3, label="persistence"
        ),
    ]
    if picture.rain:
        styles += [
            Line2D([], [], color=c, lw=4, label=f"\u2265 {t:g} mm/h")
            for t, c in zip(thresholds, colours, strict=True)
        ]
    axes.legend(
        handles=styles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.16),
        ncols=3,
        frameon=False,
    )
