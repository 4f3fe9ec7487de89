"""Scores of forecasts by event, with intervals from which events there happened to be.

All that is counted adds up: an event has sums, several have the sums of theirs, of
which scores are made at the end. A bootstrap draws events with repetition, so that
its intervals say what other events of the same climate might have given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from trajgru_ext.nowcasting.radar import (
    HKO7,
    THRESHOLDS,
    ZR,
    pixel_thresholds,
    pixels_to_rain,
)
from trajgru_ext.nowcasting.scores import Scores, scores_of

SCALES = (1, 4, 16, 64)  # pixels a side, of the fractions skill score
BINS = 10  # of the probabilities in a reliability diagram
DRAWN = 1000  # resamplings of a bootstrap
LEVEL = 0.9  # of its intervals


def fractions_sums(
    forecast: Tensor,
    observed: Tensor,
    known: Tensor,
    bounds: Tensor,
    scales: Sequence[int] = SCALES,
) -> tuple[Tensor, Tensor]:
    """Sums of the fractions skill score, FSS = 1 - numerator / denominator.

    With the shares F and O of pixels at or above a bound in the square around each::

        numerator = sum (F - O)^2,  denominator = sum F^2 + O^2

    Args:
        forecast: `[L, H, W]`.
        observed: `[L, H, W]`.
        known: bool `[L, H, W]`; other pixels count as below, and not as centres.
        bounds: `[K]`.
        scales: pixels a side of the squares.

    Returns:
        numerator and denominator, float64 `[L, K, len(scales)]`.

    Source: Roberts and Lean 2008, "Scale-selective verification of rainfall
    accumulations from high-resolution forecasts of convective events".

    """
    sums = torch.zeros(2, len(forecast), len(bounds), len(scales), dtype=torch.float64)
    for k, bound in enumerate(bounds.to(forecast)):
        above = [((one >= bound) & known).double() for one in (forecast, observed)]
        for s, scale in enumerate(scales):
            f, o = (
                torch.from_numpy(
                    uniform_filter(one.numpy(), (0, scale, scale), mode="constant")
                )
                for one in above
            )
            sums[0, :, k, s] = ((f - o).square() * known).sum((1, 2))
            sums[1, :, k, s] = ((f.square() + o.square()) * known).sum((1, 2))
    return sums[0], sums[1]


def crps(members: Tensor, observed: Tensor) -> Tensor:
    """The continuous ranked probability score of every pixel.

    ::

        CRPS = mean_i |x_i - y| - 1/2 mean_ij |x_i - x_j|

    Args:
        members: x, `[M, ...]`.
        observed: y, `[...]`.

    """
    count = len(members)
    ordered = members.sort(dim=0).values
    # sum_ij |x_i - x_j| by ranks: x_(i) is added i - 1 and subtracted M - i times.
    ranks = 2 * torch.arange(1, count + 1, dtype=members.dtype) - count - 1
    spread = (ranks.view(-1, *[1] * observed.dim()) * ordered).sum(0) / count**2
    return (members - observed).abs().mean(0) - spread


@dataclass
class Verification:
    """Sums of scores, by event."""

    thresholds: Sequence[float] = THRESHOLDS
    zr: ZR = HKO7
    scales: Sequence[int] = SCALES  # pixels a side, of the fractions skill score
    events: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels = pixel_thresholds(self.thresholds, self.zr).tolist()
        for threshold, pixel in zip(self.thresholds, pixels, strict=True):
            if not 0 < pixel < 1:
                raise ValueError(
                    f"thresholds: {threshold:g} mm/h are not between -10 and 60 dBZ by "
                    f"{self.zr}, as pixels are"
                )

    def add(
        self,
        event: str,
        forecast: Tensor,
        observed: Tensor,
        members: Tensor | None = None,
    ) -> None:
        """Add a forecast.

        Args:
            event: which it belongs to.
            forecast: pixels `[L, H, W]`, NaN where unknown.
            observed: as `forecast`.
            members: pixels `[M, L, H, W]` of an ensemble.

        """
        leads = len(forecast)
        metric = Scores(leads, self.thresholds, self.zr)
        metric.update(forecast[:, None, None], observed[:, None, None])
        sums = {name: one.double() for name, one in metric.sums().items()}
        known = ~(forecast.isnan() | observed.isnan())
        bounds = pixel_thresholds(self.thresholds, self.zr)
        pair = fractions_sums(forecast, observed, known, bounds, self.scales)
        sums["fss_numerator"], sums["fss_denominator"] = pair
        if members is not None:
            sums |= self._ensemble(members, observed, known, bounds)
        mine = self.events.setdefault(event, {})
        for name, one in sums.items():
            mine[name] = mine[name] + one if name in mine else one

    def _ensemble(
        self, members: Tensor, observed: Tensor, known: Tensor, bounds: Tensor
    ) -> dict[str, Tensor]:
        rain, came = (pixels_to_rain(one, self.zr) for one in (members, observed))
        each = torch.where(known, crps(rain, came), 0)
        sums = {
            "crps": each.double().sum((1, 2)),
            "crps_pixels": known.double().sum((1, 2)),
        }
        for name in ("forecasts", "probability", "events"):
            sums[f"reliability_{name}"] = torch.zeros(
                len(bounds), BINS, dtype=torch.float64
            )
        for k, bound in enumerate(bounds.to(members)):
            share = (members >= bound).double().mean(0)[known]
            happened = (observed >= bound)[known].double()
            places = (share * BINS).long().clamp(max=BINS - 1)
            for name, what in (
                ("forecasts", torch.ones_like(share)),
                ("probability", share),
                ("events", happened),
            ):
                sums[f"reliability_{name}"][k].index_add_(0, places, what)
        return sums

    def compute(self) -> dict[str, Tensor]:
        """The scores of all events together, by lead time and threshold."""
        return _made(self._total(torch.ones(1, len(self.events), dtype=torch.float64)))

    def intervals(self, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
        """The lower and upper ends of intervals of 90% by a bootstrap over events.

        Empty of fewer than two events, which say nothing of others.
        """
        count = len(self.events)
        if count < 2:
            return {}
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randint(count, (DRAWN, count), generator=random)
        weights = torch.nn.functional.one_hot(drawn, count).sum(1).double()
        scores = _made(self._total(weights), squeeze=False)
        ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
        found = {}
        for name, one in scores.items():
            low, high = torch.nanquantile(one, ends, dim=0)
            found[name] = low, high
        return found

    def _total(self, weights: Tensor) -> dict[str, Tensor]:
        """Sums over events, each as often as its weight, for every row of weights."""
        events = list(self.events.values())
        names = set.intersection(*(set(one) for one in events))
        return {
            name: torch.einsum(
                "re,e...->r...", weights, torch.stack([one[name] for one in events])
            )
            for name in sorted(names)
        }


def _made(sums: Mapping[str, Tensor], squeeze: bool = True) -> dict[str, Tensor]:
    scores = scores_of(sums)
    scores["fss"] = 1 - sums["fss_numerator"] / sums["fss_denominator"]
    if "crps" in sums:
        scores["crps"] = sums["crps"] / sums["crps_pixels"]
        forecasts = sums["reliability_forecasts"]
        scores["reliability_forecasts"] = forecasts
        scores["reliability_probability"] = sums["reliability_probability"] / forecasts
        scores["reliability_frequency"] = sums["reliability_events"] / forecasts
    return {name: one[0] if squeeze else one for name, one in scores.items()}
