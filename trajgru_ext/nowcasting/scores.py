"""The scores of HKO-7, summed up over batches and processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from trajgru_ext.nowcasting.losses import (
    balancing_weights,
    check_frames,
    errors,
    known_pixels,
)
from trajgru_ext.nowcasting.radar import HKO7, THRESHOLDS, ZR, pixel_thresholds

_COUNTS = ("hits", "misses", "false_alarms", "correct_negatives")


class Scores(Metric):
    """CSI, HSS, POD, FAR, B-MSE and B-MAE of forecasts, by lead time.

    Of the pixels at or above a threshold in forecast and observation (hits h), in the
    forecast alone (false alarms f), in the observation alone (misses m) and in neither
    (correct negatives n), counted over all sequences::

        CSI = h / (h + m + f)        POD = h / (h + m)        FAR = f / (h + f)
        HSS = 2 (h n - m f) / ((h + m) (m + n) + (h + f) (f + n))

    B-MSE and B-MAE are the means over sequences of `sum_chw w e^2` and `sum_chw w |e|`
    with the errors e and w of `balancing_weights`. Pixels that a mask leaves out, or
    that are NaN in forecast or observation, do not count, nor does a sequence for a
    lead time at which it has no others. Counts and sums are added up over calls of
    `update`, and by `compute` over the processes of torch.distributed.

    Args:
        leads: number of coming frames.
        thresholds: rain rates in mm/h.
        zr: by which pixels are rain.
        options: those of `torchmetrics.Metric`: `dist_sync_on_step` (whether `forward`
            sums over processes, too; False by default), `sync_on_compute` (whether
            `compute` does, True), `process_group` (over which; all), `dist_sync_fn` and
            `distributed_available_fn` (what gathers, and says whether to),
            `compute_with_cache` (True); `compute_on_cpu` has no effect, as the states
            are no lists.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import Scores
        >>> scores, rain = Scores(leads=4), torch.rand(4, 2, 1, 16, 16)
        >>> scores.update(rain, rain)
        >>> scores.compute()["csi"].shape  # of each lead time, at each threshold
        torch.Size([4, 5])

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7.

    """

    full_state_update = False
    squared: Tensor
    absolute: Tensor
    sequences: Tensor

    def __init__(
        self,
        leads: int,
        thresholds: Sequence[float] = THRESHOLDS,
        zr: ZR = HKO7,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if leads < 1:
            raise ValueError(f"Scores: leads must be positive, got {leads}")
        self.thresholds, self.zr = tuple(thresholds), zr
        counts = torch.zeros(leads, len(self.thresholds), dtype=torch.int64)
        for name in _COUNTS:
            self.add_state(name, counts.clone(), dist_reduce_fx="sum")
        for name in ("squared", "absolute"):
            errors = torch.zeros(leads, dtype=torch.float64)
            self.add_state(name, errors, dist_reduce_fx="sum")
        sequences = torch.zeros(leads, dtype=torch.int64)
        self.add_state("sequences", sequences, dist_reduce_fx="sum")

    def update(
        self, forecast: Tensor, observed: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add the forecasts of some sequences.

        Args:
            forecast: pixels `[leads, B, C, H, W]` of the HKO-7 scale, NaN where
                unknown.
            observed: what came, of the same shape, NaN where unknown.
            mask: bool, of the same shape; what it leaves out does not count, whatever
                it is.

        Raises:
            TypeError: the mask is not bool.
            ValueError: the shapes differ, or there is another number of frames.

        """
        check_frames("Scores", forecast, observed, mask)
        if len(forecast) != len(self.squared):
            wanted, got = len(self.squared), len(forecast)
            raise ValueError(f"Scores: forecast must have {wanted} frames, got {got}")
        known = known_pixels(mask, forecast, observed)
        error = errors(forecast, observed, known).double()
        weights = balancing_weights(observed, known, self.zr)
        axes = (1, 2, 3, 4)
        # Not in place: states that were reset in inference mode allow that only there.
        self.squared = self.squared + (weights * error.square()).sum(axes)
        self.absolute = self.absolute + (weights * error.abs()).sum(axes)
        self.sequences = self.sequences + known.flatten(2).any(2).sum(1)
        tables = []
        for threshold in pixel_thresholds(self.thresholds, self.zr).to(observed):
            predicted, came = forecast >= threshold, observed >= threshold
            kinds = predicted & came, ~predicted & came, predicted & ~came
            every = [*kinds, ~(predicted | came)]
            tables.append(torch.stack([(one & known).sum(axes) for one in every]))
        for name, counts in zip(_COUNTS, torch.stack(tables, 2), strict=True):
            setattr(self, name, getattr(self, name) + counts)

    def compute(self) -> dict[str, Tensor]:
        """The scores, float64, NaN where nothing defines them (0 / 0).

        Returns:
            "csi", "hss", "pod" and "far", `[leads, thresholds]`; "b_mse" and "b_mae",
            `[leads]`, or scalars for one lead time, as torchmetrics makes of single
            values.

        """
        return scores_of(self.sums())

    def sums(self) -> dict[str, Tensor]:
        """What the scores are made of; sums of sums are those of both."""
        names = *_COUNTS, "squared", "absolute", "sequences"
        return {name: getattr(self, name) for name in names}


def scores_of(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores of sums of any leading axes; as `Scores.compute`."""
    h, m, f, n = (sums[name].double() for name in _COUNTS)
    return {
        "csi": h / (h + m + f),
        "hss": 2 * (h * n - m * f) / ((h + m) * (m + n) + (h + f) * (f + n)),
        "pod": h / (h + m),
        "far": f / (h + f),
        "b_mse": sums["squared"] / sums["sequences"],
        "b_mae": sums["absolute"] / sums["sequences"],
    }
