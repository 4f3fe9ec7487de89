"""Blocks of papers: squeeze and excitation, selective kernels, a spatial pyramid.

Hu et al. 2018, Li et al. 2019 and He et al. 2014, by the layers of a block that is
given, which have the names of the usual implementations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def scale(x: Tensor, logits: Tensor) -> Tensor:
    """The excitation: x sigmoid(logits), `[B, C, H, W]` and `[B, C]`."""
    return x * torch.sigmoid(logits)[:, :, None, None]


def squeeze_excitation(block: Any, x: Tensor) -> Tensor:
    """The image scaled by what `fc` makes of its channels' means."""
    return scale(x, block.fc(x.mean((2, 3))))


def select(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    """The sum of M branches by the softmax over them of `[B, M, C]`."""
    weights = torch.softmax(logits, 1)[..., None, None]
    return (torch.stack(list(branches), 1) * weights).sum(1)


def selective_kernel(block: Any, x: Tensor) -> Tensor:
    """Branches of other dilation, selected by their sum's channel means."""
    branches = torch.stack([conv(x) for conv in block.convs], 1)
    z = block.fc(branches.sum(1).mean((2, 3), keepdim=True))
    logits = torch.stack([fc(z) for fc in block.fcs], 1)
    return (branches * logits.softmax(1)).sum(1)


def spatial_pyramid(pool: Callable[..., Tensor], x: Tensor, levels: int) -> Tensor:
    """Poolings to n x n bins, n from 1 to `levels`, flat and side by side.

    A RuntimeError of PyTorch where a padding exceeds half its kernel.
    """
    parts = []
    for n in range(1, levels + 1):
        kernel = [math.ceil(size / n) for size in x.shape[2:]]
        padding = [
            (k * n - size + 1) // 2 for k, size in zip(kernel, x.shape[2:], strict=True)
        ]
        parts.append(pool(x, kernel, kernel, padding).flatten(1))
    return torch.cat(parts, 1)
