"""Forecasts without training, by name."""

from collections.abc import Callable

from torch import Tensor

from trajgru_ext.nowcasting.extrapolation import (
    RAIN_SMOOTHING,
    extrapolation,
    persistence,
)
from trajgru_ext.nowcasting.prognosis import spectral_prognosis
from trajgru_ext.nowcasting.radar import ZR, pixel_thresholds

LEAST_RAIN = 0.1  # mm/h; what is below is as much noise as rain
LEAST_BRIGHTNESS = 0.1  # of pixels that are no rain

Baseline = Callable[[Tensor, int, ZR | None], Tensor]


def _prognosis(past: Tensor, ahead: int, zr: ZR | None) -> Tensor:
    least = LEAST_BRIGHTNESS
    if zr is not None:
        least = pixel_thresholds((LEAST_RAIN,), zr).item()
    return spectral_prognosis(past[:, None, None], ahead, least)[:, 0, 0]


def _extrapolation(past: Tensor, ahead: int, zr: ZR | None) -> Tensor:
    smoothing = 0.0 if zr is None else RAIN_SMOOTHING
    return extrapolation(past[:, None, None], ahead, smoothing)[:, 0, 0]


def _persistence(past: Tensor, ahead: int, _: ZR | None) -> Tensor:
    return persistence(past, ahead)


# Each makes, of pixels [T, H, W], the number of frames that follow, and the relation by
# which they are rain (None of brightness), the forecast [ahead, H, W].
BASELINES: dict[str, Baseline] = {
    "spectral_prognosis": _prognosis,
    "extrapolation": _extrapolation,
    "persistence": _persistence,
}
