"""What convolutional blocks are made of."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from trajgru_ext.reference.gates import required


def channel_mean(*branches: Tensor) -> Tensor:
    """Average each channel of the sum of images."""
    return torch.stack([branch.double() for branch in branches]).sum(0).mean((2, 3))


def se_scale(input: Tensor, logits: Tensor) -> Tensor:
    """Scale each channel by the sigma of its logit."""
    return input.double() * logits.double().sigmoid()[:, :, None, None]


def sk_select(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Mix branches by the softmax of their logits."""
    weights = logits.double().softmax(1)[..., None, None]
    return (weights * torch.stack([b.double() for b in branches], 1)).sum(1)


def hff_concat(
    branches: Sequence[Tensor],
    skipped: int = 0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    """Add each branch to those before it, concatenate, normalise, and apply PReLU."""
    sums = torch.stack([branch.double() for branch in branches]).cumsum(0)
    z = torch.cat(list(sums[skipped:]), 1)
    if scale is not None:
        z = scale.double()[:, None, None] * z
        z = z + required(shift).double()[:, None, None]
    return z if slope is None else torch.where(z > 0, z, slope[:, None, None] * z)


def spatial_pyramid_pool(input: Tensor, levels: int, mode: str = "max") -> Tensor:
    """Pool to n x n bins for n = 1 to `levels`, bin by bin."""
    x = input.double()
    pooled = []
    for n in range(1, levels + 1):
        rows, cols = (_bins(size, n) for size in x.shape[2:])
        bins = [_pool(x[:, :, i, j].flatten(2), mode) for i in rows for j in cols]
        area = math.prod(-(-size // n) for size in x.shape[2:])
        level = torch.stack(bins, 2).flatten(1)
        pooled.append(level / area if mode == "mean" else level)
    return torch.cat(pooled, 1)


def _bins(size: int, n: int) -> list[slice]:
    """The n bins of an axis, without what is padding."""
    kernel = -(-size // n)
    padding = (kernel * n - size + 1) // 2
    ends = [max(k * kernel - padding, 0) for k in range(n + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _pool(inside: Tensor, mode: str) -> Tensor:
    """The sum of a bin's pixels, or the first of their maxima."""
    if mode == "mean" or inside.shape[2] == 0:
        return inside.sum(2)
    return inside.gather(2, inside.argmax(2, keepdim=True)).squeeze(2)
