"""HKO-7's balanced loss, in which rare strong rain counts as much as drizzle."""

import torch
from torch import Tensor

from trajgru_ext.nowcasting.radar import pixel_thresholds

# Weights below 2 mm/h, and from 2, 5, 10 and 30 mm/h on; 0.5 mm/h is a threshold of
# scores only.
_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 30.0)


def balancing_weights(observed: Tensor, mask: Tensor | None = None) -> Tensor:
    """Weight of every pixel by the rain that came.

    1 for R < 2 mm/h, 2 for R < 5, 5 for R < 10, 10 for R < 30, else 30.

    Args:
        observed: pixels of the HKO-7 scale, any shape.
        mask: bool, of the same shape; where it is False the weight is 0.

    Source: Shi et al. 2017 (arXiv 1706.03458), section 5.

    """
    bounds = pixel_thresholds()[1:].to(observed)
    level = torch.bucketize(observed.detach().contiguous(), bounds, right=True)
    weights = observed.new_tensor(_WEIGHTS)[level]
    return weights if mask is None else weights * mask


def balanced_loss(
    forecast: Tensor,
    observed: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float = 5e-5,
    balance: float = 1.0,
) -> Tensor:
    """HKO-7's training loss, the sum of balanced squared and absolute errors.

    ::

        loss = scale mean_tb sum_chw mask w^balance (e^2 + |e|)

    with e = forecast - observed and w of `balancing_weights`.

    Args:
        forecast: pixels `[T, B, C, H, W]`.
        observed: what came, of the same shape and dtype; what the mask leaves out may
            be anything but NaN or infinite.
        mask: bool, of the same shape.
        scale: HKO-7's for 480x480 pixels.
        balance: 1 is HKO-7's loss, under which heavy rain that may come had better be
            forecast; 0 counts all pixels alike.

    Returns:
        a scalar.

    Raises:
        ValueError: the shapes differ.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7.

    """
    check_frames("balanced_loss", forecast, observed, mask)
    error = forecast - observed
    weights = balancing_weights(observed) ** balance
    if mask is not None:
        weights = weights * mask
    each = (weights * (error.square() + error.abs())).sum((2, 3, 4))
    return scale * each.mean()


def check_frames(
    name: str, forecast: Tensor, observed: Tensor, mask: Tensor | None
) -> None:
    """Raise a ValueError unless all are `[T, B, C, H, W]` of one size."""
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
