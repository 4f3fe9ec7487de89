"""The scales of rain: reflectivity in dBZ, rain rate in mm/h, pixels in [0, 1].

As the HKO-7 benchmark has them (Shi et al. 2017, arXiv 1706.03458)::

    dBZ = 10 b log10 R + 10 log10 a,  a = 58.53, b = 1.56
    pixel = (dBZ + 10) / 70, clipped to [0, 1]

Where it rains otherwise than in Hong Kong, a and b are others: `ZR`. All functions take
and return float tensors of any shape and keep their dtype. No rain is minus infinity in
dBZ and 0 in the others; NaN, which stands for missing, stays NaN.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DBZ_FLOOR, DBZ_RANGE = -10.0, 70.0
THRESHOLDS = (0.5, 2.0, 5.0, 10.0, 30.0)  # mm/h, of the scores and the balanced loss


@dataclass(frozen=True)
class ZR:
    """A relation of reflectivity Z (mm^6 m^-3) and rain rate R (mm/h), Z = a R^b.

    Examples:
        >>> from trajgru_ext.nowcasting import ZR
        >>> print(ZR(200, 1.6))
        Z = 200 R^1.6

    """

    a: float = 58.53
    b: float = 1.56

    def __post_init__(self) -> None:
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            raise ValueError(
                f"ZR: a and b must be positive and finite, got {self.a} and {self.b}"
            )

    def __str__(self) -> str:
        return f"Z = {self.a:g} R^{self.b:g}"


HKO7 = ZR()


def rain_to_dbz(rate: Tensor, zr: ZR = HKO7) -> Tensor:
    """Reflectivity of a rain rate in mm/h."""
    return 10 * zr.b * torch.log10(rate) + 10 * math.log10(zr.a)


def dbz_to_rain(dbz: Tensor, zr: ZR = HKO7) -> Tensor:
    """Rain rate in mm/h of a reflectivity."""
    return 10 ** ((dbz - 10 * math.log10(zr.a)) / (10 * zr.b))


def dbz_to_pixels(dbz: Tensor) -> Tensor:
    """Pixels of a reflectivity; what is below -10 dBZ or above 60 is clipped."""
    return ((dbz - DBZ_FLOOR) / DBZ_RANGE).clamp(0, 1)


def pixels_to_rain(pixels: Tensor, zr: ZR = HKO7) -> Tensor:
    """Rain rate of pixels.

    ::

        Z dBZ = 70 * pixel - 10,    R = (10^(Z / 10) / a)^(1 / b)

    Args:
        pixels: of any shape, in a floating-point dtype; NaN stays NaN.
        zr: the relation Z = a R^b; HKO-7's by default.

    Returns:
        Rain rates in mm/h in the dtype of the pixels; 0 where these are at or below 0.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import pixels_to_rain
        >>> pixels_to_rain(torch.tensor([0.0, 0.25, 0.5])).round(decimals=2)
        tensor([0.0000, 0.2200, 2.9500])

    """
    rate = dbz_to_rain(DBZ_RANGE * pixels + DBZ_FLOOR, zr)
    return torch.where(pixels <= 0, 0, rate)


def rain_to_pixels(rate: Tensor, zr: ZR = HKO7) -> Tensor:
    """Pixels of a rain rate, as HKO-7 stores them (`pixels_to_rain` goes back).

    Args:
        rate: in mm/h, of any shape, in a floating-point dtype; NaN stays NaN.
        zr: the relation Z = a R^b; HKO-7's by default.

    Returns:
        (dBZ + 10) / 70 within 0 and 1, in the dtype of the rates: what is below -10 dBZ
        or above 60 is clipped.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import pixels_to_rain, rain_to_pixels
        >>> pixels = rain_to_pixels(torch.tensor([0.0, 1.0, 10.0]))
        >>> pixels_to_rain(pixels).round(decimals=2)
        tensor([ 0.,  1., 10.])

    """
    return dbz_to_pixels(rain_to_dbz(rate, zr))


def pixel_thresholds(thresholds: Sequence[float] = THRESHOLDS, zr: ZR = HKO7) -> Tensor:
    """Rain rates as pixels, float64: rain is at or above one where the pixel is."""
    return rain_to_pixels(torch.tensor(thresholds, dtype=torch.float64), zr)
