"""Scores of several forecasts and their differences, with intervals by a bootstrap."""

import numpy as np
import torch
from torch import Tensor

from trajgru_ext.nowcasting.exceedance import MODEL
from trajgru_ext.nowcasting.verification import DRAWN, LEVEL, Verification

ENDS = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)


def figures(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """CSI `[..., leads, thresholds]` and FSS `[..., leads, thresholds, scales]`."""
    hits = sums["hits"]
    return {
        "csi": hits / (hits + sums["misses"] + sums["false_alarms"]),
        "fss": 1 - sums["fss_numerator"] / sums["fss_denominator"],
    }


def resampled(
    sides: dict[str, Verification],
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """Each side's scores, and those of drawn starts along a first axis."""
    random = torch.Generator().manual_seed(0)
    count = len(next(iter(sides.values())).events)
    drawn = torch.randint(count, (DRAWN, count), generator=random)
    weights = torch.nn.functional.one_hot(drawn, count).sum(1).double()
    whole, several = {}, {}
    for name, side in sides.items():
        events = list(side.events.values())
        stacked = {key: torch.stack([one[key] for one in events]) for key in events[0]}
        whole[name] = figures({key: one.sum(0) for key, one in stacked.items()})
        several[name] = figures(
            {
                key: torch.einsum("re,e...->r...", weights, one)
                for key, one in stacked.items()
            }
        )
    return whole, several


def compared(sides: dict[str, Verification], best: str) -> dict[str, object]:
    """Each side's scores, and by how much ours is ahead of it, with intervals."""
    whole, several = resampled(sides)
    report: dict[str, object] = {}
    for name in sides:
        of: dict[str, object] = {}
        for score in ("csi", "fss"):
            interval = several[name][score].nanquantile(ENDS, dim=0)
            of[score] = rounded(whole[name][score])
            of[f"{score}_interval"] = rounded(interval)
            if name != best:
                ahead = several[best][score] - several[name][score]
                of[f"{score}_of_{best}_ahead_interval"] = rounded(
                    ahead.nanquantile(ENDS, dim=0)
                )
        report[name] = of
    return report


def lead(scores: dict[str, dict[str, Tensor]], score: str) -> Tensor:
    """By how much the network is ahead of the best of the others."""
    names = [name for name in scores if not name.startswith(MODEL)]
    others = torch.stack([scores[name][score].nan_to_num(0.0) for name in names])
    return scores[MODEL][score] - others.amax(0)


def over_all(events: list[dict[str, Verification]]) -> dict[str, object]:
    """`lead` in the mean over events, the least of them, and intervals."""
    random = torch.Generator().manual_seed(1)
    drawn = torch.randint(len(events), (len(events), DRAWN), generator=random)
    report: dict[str, object] = {}
    both = [resampled(sides) for sides in events]
    for score in ("csi", "fss"):
        ahead = [[lead(scores, score) for scores in pair] for pair in both]
        whole, several = (torch.stack(one) for one in zip(*ahead, strict=True))
        means = several[drawn, torch.arange(DRAWN)].nanmean(0)
        report[f"{score}_ahead"] = rounded(whole.nanmean(0))
        report[f"{score}_ahead_least"] = rounded(whole.nan_to_num(1.0).amin(0))
        report[f"{score}_ahead_interval"] = rounded(means.nanquantile(ENDS, dim=0))
    return report


def rounded(values: Tensor) -> object:
    return np.round(values.numpy(), 4).tolist()
