"""A forecast by the chances of rain at or above some rates, which a network tells.

The network sees each pixel where its rain is at the time of the last frame: means over
surroundings of several sizes, growth, and what the spectral prognosis makes of it. It
tells the chances there for each lead time, which are carried on along the motion.
Nothing that it sees has a direction; times are minutes, lengths kilometres and rain
mm/h: so it can know no wind and no service's step or grid by heart.

How much it will rain differs between events by more than frames tell, while areas last:
so what is forecast at or above a rate are the likeliest pixels, as many as now or some
more, which is `AREA`: the network decides where, not how much. The network is not
trusted alone: its logits are averaged with those of the prognosis (a logarithmic pool
of opinions), which events unlike those of training disturb less.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.nowcasting.archive import Series
from trajgru_ext.nowcasting.baselines import LEAST_RAIN
from trajgru_ext.nowcasting.extrapolation import carried_along, first_known, moved_past
from trajgru_ext.nowcasting.motion import (
    displacements,
    estimate_motion,
    outside_of_graphs,
)
from trajgru_ext.nowcasting.prognosis import decayed, means
from trajgru_ext.nowcasting.radar import (
    HKO7,
    ZR,
    pixel_thresholds,
    pixels_to_rain,
)
from trajgru_ext.nowcasting.training import read_checkpoint

SHIPPED = Path(__file__).with_name("exceedance.pt")
MODEL = "exceedance"  # of the settings of a checkpoint
RATES = (0.5, 2.0, 5.0)  # mm/h, of the chances
PAST = 5  # frames, from which the motion is found; more where steps are short
BEFORE = (10, 20)  # minutes before the last frame, from which growth is told
FURTHEST = 60.0  # minutes ahead that the network was trained on
KILOMETRES = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # widths of the surroundings
FIRST, SEEN = 2, 8  # features of the pixel alone, and of every surrounding
STILL = FIRST + SEEN * len(KILOMETRES)  # features that lead times have in common
MOVING = 2  # features of a lead time
HIDDEN = 32
LARGEST = 4.0  # of a feature, in standard deviations: what is beyond was rarely seen
KILOMETRE = 1000.0  # metres of a pixel where nothing says otherwise
# Of the logits, the share that the network has; the others are those of rain that the
# spectral prognosis makes, by the decades that it is above the rate.
TRUST, STEEPNESS = 0.6, 8.0
# Area that is forecast over that which has such rain now. CSI asks for more than will
# come where little is certain, the fractions skill score for as much as will come.
AREA = 1.1
# Of a pixel in [0, 1], far below any measurement: a rate that is to be at or above a
# threshold is this much above, and one below this much below, whatever the rounding.
MARGIN = 1e-5


class Exceedance(nn.Module):
    """Logits of the chances at `RATES`, of a pixel by its features alone.

    Linear in the features, with weights that change evenly with the lead time, and a
    small network that is added.

    Args:
        hidden: features of its inner layer.

    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        features = STILL + MOVING
        # Of the features of training, so that all are of one size.
        self.center = nn.Buffer(torch.zeros(features))
        self.spread = nn.Buffer(torch.ones(features))
        self.linear = nn.Linear(2 * features, len(RATES))
        last = nn.Linear(hidden, len(RATES))
        self.rest = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), last)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(last.weight)

    def forward(self, still: Tensor, moving: Tensor) -> Tensor:
        """Logits `[..., 3]` of features `[..., STILL]` and `[..., MOVING]`."""
        seen = (torch.cat([still, moving], -1) - self.center) / self.spread
        seen = seen.clamp(-LARGEST, LARGEST)
        hours = moving[..., 1:]
        linear: Tensor = self.linear(torch.cat([seen, seen * hours], -1))
        logits: Tensor = linear + self.rest(seen)
        return logits


@dataclass(frozen=True)
class Scene:
    """What frames say, where the rain is at the time of the last of them."""

    still: Tensor  # [STILL, H, W]
    fields: list[Tensor]  # the spectral prognosis of each lead time, [1, 1, H, W]
    known: Tensor  # [H, W]
    motion: Tensor  # [1, 2, H, W]
    minutes: float
    zr: ZR

    @classmethod
    def of(
        cls,
        past: Tensor,
        motion: Tensor,
        ahead: int,
        zr: ZR,
        minutes: float,
        metres: float,
    ) -> "Scene":
        """Of pixels `[T, H, W]`, NaN where unknown."""
        moved = moved_past(past[:, None, None], motion)
        last = first_known(moved)
        chosen = [last] + [moved[round(back / minutes)] for back in BEFORE]
        levels = torch.cat([level(one, zr)[0] for one in chosen])
        known = ~last[0, 0].isnan()
        least = pixel_thresholds((LEAST_RAIN,), zr).item()
        return cls(
            still_features(levels, 1000 / metres),
            list(decayed(moved, ahead, least)),
            known,
            motion,
            minutes,
            zr,
        )

    def around(self, feature: int, kilometres: float) -> Tensor:
        """One of the features of surroundings `[H, W]`, in the order they are seen."""
        return self.still[FIRST + SEEN * KILOMETRES.index(kilometres) + feature]

    def moving(self, lead: int) -> Tensor:
        """Features `[MOVING, H, W]` of a lead time, 0 being the first."""
        field = level(self.fields[lead], self.zr)[0, 0].nan_to_num(0.0)
        hours = torch.full_like(field, (lead + 1) * self.minutes / 60)
        return torch.stack([field, hours])


def level(pixels: Tensor, zr: ZR) -> Tensor:
    """Rain on a scale where 0 is 0.1 mm/h or less, and 1 more is ten times as much."""
    return (pixels_to_rain(pixels, zr) / LEAST_RAIN).log10().clamp(min=0)


def still_features(levels: Tensor, pixels_per_km: float) -> Tensor:
    """What surroundings are like, `[STILL, H, W]`.

    Args:
        levels: of now, 10 and 20 minutes ago `[3, H, W]`, NaN where unknown.
        pixels_per_km: of lengths.

    """
    known = ~levels[0].isnan()
    weights = known.to(levels)
    now = levels[0].nan_to_num(0.0)
    # What is not known of before is as now: neither grown nor decayed.
    before = [torch.where(one.isnan(), now, one) for one in levels[1:]]
    rates = torch.tensor(RATES) / LEAST_RAIN
    above = [(now >= bound).to(now) for bound in rates.log10().tolist()]
    grown = now - before[0]
    steady = (now + before[0] + before[1]) / 3
    seen = [now, *above, grown, before[0] - before[1], grown.abs(), steady]
    held = torch.stack(seen) * weights
    widths = [one * pixels_per_km for one in KILOMETRES]
    return torch.cat([held[[0, -1]], *means(held, weights, widths)])


def pixel_metres(series: Series) -> float:
    """A pixel of an event's frames: a kilometre if they do not say."""
    return series.kind.grid.pixel_metres if series.kind.grid else KILOMETRE


def frames_read(minutes: float) -> int:
    """How many past frames a forecast reads."""
    return max(PAST, round(BEFORE[-1] / minutes) + 1)


def check_times(past: int, ahead: int, minutes: float) -> None:
    """Raise a ValueError unless the chances are made for such frames."""
    if minutes <= 0 or BEFORE[0] % minutes:
        raise ValueError(
            f"exceedance: wanted frames every 1, 2, 2.5, 5 or {BEFORE[0]} minutes, got "
            f"{minutes:g}"
        )
    if (past - 1) * minutes < BEFORE[-1]:
        raise ValueError(
            f"exceedance: wanted past frames of {BEFORE[-1]} minutes, got {past} every "
            f"{minutes:g} minutes"
        )
    if ahead * minutes > FURTHEST:
        raise ValueError(
            f"exceedance: wanted up to {FURTHEST:g} minutes ahead, got {ahead} frames "
            f"every {minutes:g} minutes"
        )


@outside_of_graphs
@torch.no_grad()
def exceedance(
    net: Exceedance,
    past: Tensor,
    ahead: int,
    zr: ZR = HKO7,
    minutes: float = 5.0,
    metres: float = KILOMETRE,
) -> tuple[Tensor, Tensor]:
    """Forecast by chances.

    Args:
        net: of `load`, or one's own.
        past: pixels `[T, H, W]` in [0, 1], NaN where unknown.
        ahead: number of coming frames.
        zr: by which pixels are rain.
        minutes: from a frame to the next.
        metres: of a pixel.

    Returns:
        The forecast `[ahead, H, W]`, the spectral prognosis as far as the chances let
        it, and the chances `[ahead, 3, H, W]` of 0.5, 2 and 5 mm/h; 0 where the content
        was outside, NaN where it is unknown.

    Raises:
        TypeError, ValueError: as `estimate_motion`; or the frames do not reach back 20
            minutes, are of another step, or are to reach more than 60 minutes ahead.

    """
    (ahead,) = check_positive("exceedance", ahead=ahead)
    check_times(len(past), ahead, minutes)
    motion = estimate_motion(past[:, None, None])
    scene = Scene.of(past.float(), motion.float(), ahead, zr, minutes, metres)
    bounds = pixel_thresholds(RATES, zr).tolist()
    forecast, chances = [], []
    for field, chance, area in carried_chances(net, scene):
        made = field
        inside = torch.ones_like(field, dtype=torch.bool)
        for bound, one, now in zip(bounds, chance, area, strict=True):
            inside &= likeliest(one, now)
            made = torch.where(
                inside, made.clamp(min=bound + MARGIN), made.clamp(max=bound - MARGIN)
            )
        forecast.append(made)
        chances.append(chance)
    return torch.stack(forecast).to(past.dtype), torch.stack(chances).to(past.dtype)


def carried_chances(
    net: Exceedance, scene: Scene
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What is carried on along the motion, for one lead time after the other.

    Yields:
        the spectral prognosis `[H, W]`, the chances `[3, H, W]`, and how many pixels
        have these rates now and will be inside `[3]`.

    """
    still = scene.still.flatten(1).T
    shape = scene.known.shape
    bounds = pixel_thresholds(RATES, scene.zr).to(still)[:, None, None]
    rates = (torch.tensor(RATES) / LEAST_RAIN).log10()
    for lead, displacement in zip(
        range(len(scene.fields)), displacements(scene.motion), strict=False
    ):
        moving = scene.moving(lead).flatten(1).T
        logits = TRUST * net(still, moving)
        logits = logits + (1 - TRUST) * STEEPNESS * (moving[:, :1] - rates)
        # What exceeds a rate exceeds the lower ones.
        chance = logits.sigmoid().T.unflatten(1, shape).cummin(0).values
        field = scene.fields[lead][0]
        parts = [field, chance, (field >= bounds).to(chance)]
        both = torch.cat([torch.where(scene.known, x, torch.nan) for x in parts])
        along = displacement.expand(len(both), -1, -1, -1)
        carried = carried_along(both[:, None], along)[0][:, 0]
        chance, now = carried[1:].chunk(2)
        yield carried[0], chance, now.nansum((1, 2))


def likeliest(chance: Tensor, area: Tensor) -> Tensor:
    """The pixels of the highest chances, `AREA` times as many as an area has.

    Args:
        chance: `[H, W]`, NaN where unknown, which is left out.
        area: pixels.

    Returns:
        bool `[H, W]`.

    """
    ordered = chance[~chance.isnan()].sort(descending=True).values
    count = min(round(AREA * area.item()), len(ordered))
    if count == 0:
        return torch.zeros_like(chance, dtype=torch.bool)
    return chance >= ordered[count - 1]


def save(net: Exceedance, settings: dict[str, Any], path: Path) -> None:
    """Write a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"settings": settings | {"model": MODEL}, "net": net.state_dict()}, path)


def load(path: str | Path | None = None) -> Exceedance:
    """Read a checkpoint of `trajgru-ext nowcast fit`.

    Args:
        path: None for that of the package, `SHIPPED`.

    Raises:
        ValueError: it is damaged, or of something else.
        OSError: there is none.

    """
    path = Path(path or SHIPPED)
    state = read_checkpoint(path)
    if state["settings"].get("model") != MODEL:
        raise ValueError(f"{path}: is no checkpoint of trajgru-ext nowcast fit")
    net = Exceedance()
    net.load_state_dict(state["net"])
    return net.eval()
