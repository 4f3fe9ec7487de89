"""The scales of rain: reflectivity in dBZ, rain rate in mm/h, pixels in [0, 1].

As the HKO-7 benchmark has them (Shi et al. 2017, arXiv 1706.03458)::

    dBZ = 10 b log10 R + 10 log10 a,  a = 58.53, b = 1.56
    pixel = (dBZ + 10) / 70, clipped to [0, 1]

All functions take and return float tensors of any shape and keep their dtype. No rain
is minus infinity in dBZ and 0 in the others; NaN, which stands for missing, stays NaN.
"""

import math

import torch
from torch import Tensor

A, B = 58.53, 1.56
DBZ_FLOOR, DBZ_RANGE = -10.0, 70.0
THRESHOLDS = (0.5, 2.0, 5.0, 10.0, 30.0)  # mm/h, of the scores and the balanced loss


def rain_to_dbz(rate: Tensor) -> Tensor:
    """Reflectivity of a rain rate in mm/h."""
    return 10 * B * torch.log10(rate) + 10 * math.log10(A)


def dbz_to_rain(dbz: Tensor) -> Tensor:
    """Rain rate in mm/h of a reflectivity."""
    return 10 ** ((dbz - 10 * math.log10(A)) / (10 * B))


def dbz_to_pixels(dbz: Tensor) -> Tensor:
    """Pixels of a reflectivity; what is below -10 dBZ or above 60 is clipped."""
    return ((dbz - DBZ_FLOOR) / DBZ_RANGE).clamp(0, 1)


def pixels_to_rain(pixels: Tensor) -> Tensor:
    """Rain rate in mm/h of pixels; at or below 0 it is 0."""
    rate = dbz_to_rain(DBZ_RANGE * pixels + DBZ_FLOOR)
    return torch.where(pixels <= 0, 0, rate)


def pixel_thresholds() -> Tensor:
    """`THRESHOLDS` as pixels, float64: rain is at or above one where the pixel is."""
    return dbz_to_pixels(rain_to_dbz(torch.tensor(THRESHOLDS, dtype=torch.float64)))
