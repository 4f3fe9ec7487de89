"""sacmehta/ESPNetv2: the EESP block, and the simpler pyramid that it resembles."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


def fused(branches: Iterable[Tensor]) -> Tensor:
    """Hierarchical feature fusion: running sums of the branches, side by side."""
    return torch.cat(list(accumulate(branches)), 1)


def eesp(block: Any, x: Tensor) -> Tensor:
    """EESP by the layers of `block`, which have the names of the original's.

    A projection, dilated depthwise convolutions of it whose results are fused, batch
    norm and PReLU, an expansion; then the image is added where the shapes agree.
    """
    projected = block.proj_1x1(x)
    sums = fused(branch(projected) for branch in block.spp_dw)
    expanded = block.conv_1x1_exp(block.br_after_cat(sums))
    if block.stride == 2 and block.downAvg:
        return expanded
    if expanded.shape == x.shape:
        expanded = expanded + x
    return block.module_act(expanded)


def dilated_pyramid(block: Any, x: Tensor) -> Tensor:
    """Four branches fused, of which the first has no output of its own."""
    reduced = block.reduce(x)
    sums = fused(branch(reduced) for branch in block.branches)
    return block.expand(sums[:, reduced.shape[1] :])
