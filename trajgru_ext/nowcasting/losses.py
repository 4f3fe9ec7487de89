"""HKO-7's balanced loss, in which rare strong rain counts as much as drizzle."""

import torch
from torch import Tensor

from trajgru_ext.nowcasting.radar import HKO7, ZR, pixel_thresholds

# Weights below 2 mm/h, and from 2, 5, 10 and 30 mm/h on.
_BOUNDS = (2.0, 5.0, 10.0, 30.0)
_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 30.0)


def balancing_weights(
    observed: Tensor, mask: Tensor | None = None, zr: ZR = HKO7
) -> Tensor:
    """Weight of every pixel by the rain that came.

    1 for R < 2 mm/h, 2 for R < 5, 5 for R < 10, 10 for R < 30, else 30.

    Args:
        observed: pixels of the HKO-7 scale, any shape, NaN where unknown.
        mask: bool, of the same shape; where it is False, and where nothing is known,
            the weight is 0.
        zr: by which pixels are rain.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import balancing_weights
        >>> balancing_weights(torch.tensor([0.1, 0.6, 0.9, torch.nan]))
        tensor([ 1.,  5., 30.,  0.])

    Source: Shi et al. 2017 (arXiv 1706.03458), section 5.

    """
    bounds = pixel_thresholds(_BOUNDS, zr).to(observed)
    level = torch.bucketize(observed.detach().contiguous(), bounds, right=True)
    weights = observed.new_tensor(_WEIGHTS)[level]
    return torch.where(known_pixels(mask, observed), weights, 0)


def balanced_loss(
    forecast: Tensor,
    observed: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float = 5e-5,
    balance: float = 1.0,
    zr: ZR = HKO7,
) -> Tensor:
    """HKO-7's training loss, the sum of balanced squared and absolute errors.

    ::

        loss = scale mean_tb sum_chw known w^balance (e^2 + |e|)

    with e = forecast - observed and w of `balancing_weights`; known are the pixels that
    the mask has and that are NaN in neither. To the others the gradient is 0. Where
    nothing is known of what came, the loss is 0; where something is, but the forecast
    is NaN at all of it, as of a network that has diverged, the loss is NaN.

    Works under `torch.compile(fullgraph=True)` and `torch.export`.

    Args:
        forecast: pixels `[T, B, C, H, W]`, NaN where unknown.
        observed: what came, of the same shape, NaN where unknown.
        mask: bool, of the same shape; what it leaves out may be anything, in both.
        scale: HKO-7's for 480x480 pixels.
        balance: 1 is HKO-7's loss, under which heavy rain that may come had better be
            forecast; 0 counts all pixels alike.
        zr: by which pixels are rain.

    Returns:
        a scalar, in float32 or, of float64, float64.

    Raises:
        TypeError: the mask is not bool.
        ValueError: the shapes differ.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import balanced_loss
        >>> forecast = torch.rand(4, 2, 1, 16, 16, requires_grad=True)
        >>> balanced_loss(forecast, torch.rand(4, 2, 1, 16, 16)).backward()

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7.

    """
    check_frames("balanced_loss", forecast, observed, mask)
    known = known_pixels(mask, forecast, observed)
    error = errors(forecast, observed, known)
    weights = torch.where(
        known, balancing_weights(observed, zr=zr).to(error) ** balance, 0
    )
    each = (weights * (error.square() + error.abs())).sum((2, 3, 4))
    came = known_pixels(mask, observed)
    to_blame = came.any() & ~known.any()
    return torch.where(to_blame, torch.nan, scale * each.mean())


def known_pixels(mask: Tensor | None, *frames: Tensor) -> Tensor:
    """Where the mask, if any, is True and no frame is NaN."""
    known = torch.stack([~frame.isnan() for frame in frames]).all(0)
    return known if mask is None else known & mask


def errors(forecast: Tensor, observed: Tensor, known: Tensor) -> Tensor:
    """Forecast less observation, in at least float32; unknown is 0 without gradient."""
    # Zeros before the difference: the gradient of what is only then left out is NaN.
    pair = [torch.where(known, one, 0) for one in (forecast, observed)]
    both = torch.promote_types(forecast.dtype, observed.dtype)
    wide = torch.promote_types(both, torch.float32)
    return pair[0].to(wide) - pair[1].to(wide)


def check_frames(
    name: str, forecast: Tensor, observed: Tensor, mask: Tensor | None
) -> None:
    """Raise an error unless all are `[T, B, C, H, W]` of one size, the mask of bool."""
    if forecast.dim() != 5:
        got = list(forecast.shape)
        raise ValueError(f"{name}: forecast must be [T, B, C, H, W], got {got}")
    for argument, tensor in (("observed", observed), ("mask", mask)):
        if tensor is not None and tensor.shape != forecast.shape:
            wanted, got = list(forecast.shape), list(tensor.shape)
            raise ValueError(
                f"{name}: {argument} must have the shape of forecast, {wanted}, "
                f"got {got}"
            )
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"{name}: mask must be of bool, got {mask.dtype}")
