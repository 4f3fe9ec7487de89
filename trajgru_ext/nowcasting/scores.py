"""The scores of HKO-7, summed up over batches and processes."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from trajgru_ext.nowcasting.losses import balancing_weights, check_frames
from trajgru_ext.nowcasting.radar import THRESHOLDS, pixel_thresholds


class Scores(Metric):
    """CSI, HSS, POD, FAR, B-MSE and B-MAE of forecasts, by lead time.

    Of the pixels at or above a threshold in forecast and observation (hits h), in the
    forecast alone (false alarms f), in the observation alone (misses m) and in neither
    (correct negatives n), counted over all sequences::

        CSI = h / (h + m + f)        POD = h / (h + m)        FAR = f / (h + f)
        HSS = 2 (h n - m f) / ((h + m) (m + n) + (h + f) (f + n))

    B-MSE and B-MAE are the means over sequences of `sum_chw w e^2` and `sum_chw w |e|`
    with the errors e and w of `balancing_weights`. Counts and sums are added up over
    calls of `update`, and by `compute` over the processes of torch.distributed.

    Args:
        leads: number of coming frames.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7.

    """

    full_state_update = False

    def __init__(self, leads: int, **options: Any) -> None:
        super().__init__(**options)
        if leads < 1:
            raise ValueError(f"Scores: leads must be positive, got {leads}")
        counts = torch.zeros(leads, len(THRESHOLDS), dtype=torch.int64)
        for name in ("hits", "misses", "false_alarms", "correct_negatives"):
            self.add_state(name, counts.clone(), dist_reduce_fx="sum")
        for name in ("squared", "absolute"):
            errors = torch.zeros(leads, dtype=torch.float64)
            self.add_state(name, errors, dist_reduce_fx="sum")
        self.add_state("sequences", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, forecast: Tensor, observed: Tensor, mask: Tensor | None = None
    ) -> None:
        """Add the forecasts of some sequences.

        Args:
            forecast: pixels `[leads, B, C, H, W]` of the HKO-7 scale.
            observed: what came, of the same shape.
            mask: bool, of the same shape; what it leaves out does not count.

        Raises:
            ValueError: the shapes differ, or there is another number of frames.

        """
        check_frames("Scores", forecast, observed, mask)
        if len(forecast) != len(self.squared):
            wanted, got = len(self.squared), len(forecast)
            raise ValueError(f"Scores: forecast must have {wanted} frames, got {got}")
        if mask is None:
            mask = torch.ones_like(observed, dtype=torch.bool)
        error = (forecast - observed).double()
        weights = balancing_weights(observed, mask)
        self.squared += (weights * error.square()).sum((1, 2, 3, 4))
        self.absolute += (weights * error.abs()).sum((1, 2, 3, 4))
        self.sequences += forecast.shape[1]
        for k, threshold in enumerate(pixel_thresholds().to(observed)):
            predicted, came = forecast >= threshold, observed >= threshold
            for count, pixels in (
                (self.hits, predicted & came),
                (self.misses, ~predicted & came),
                (self.false_alarms, predicted & ~came),
                (self.correct_negatives, ~predicted & ~came),
            ):
                count[:, k] += (pixels & mask).sum((1, 2, 3, 4))

    def compute(self) -> dict[str, Tensor]:
        """The scores, float64, NaN where nothing defines them (0 / 0).

        Returns:
            "csi", "hss", "pod" and "far", `[leads, thresholds]` with the thresholds of
            `radar.THRESHOLDS`; "b_mse" and "b_mae", `[leads]`, or scalars for one lead
            time, as torchmetrics makes of single values.

        """
        h, m, f, n = (
            count.double()
            for count in (
                self.hits,
                self.misses,
                self.false_alarms,
                self.correct_negatives,
            )
        )
        return {
            "csi": h / (h + m + f),
            "hss": 2 * (h * n - m * f) / ((h + m) * (m + n) + (h + f) * (f + n)),
            "pod": h / (h + m),
            "far": f / (h + f),
            "b_mse": self.squared / self.sequences,
            "b_mae": self.absolute / self.sequences,
        }
