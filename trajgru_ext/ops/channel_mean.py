"""The mean of each channel, of one image or of the sum of several."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._autograd import FunctionOfTensors, fold, unfold
from trajgru_ext.ops._branches import check_branches, check_list
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
def channel_mean(*branches: Tensor) -> Tensor:
    """Average each channel of the sum of images, which itself is never formed.

    ::

        mean[b,c] = sum_m sum_ij branches[m][b,c,i,j] / (H W)

    Differentiable any number of times in reverse mode and once in forward mode on top,
    under `torch.func` and `torch.compile`. The same bit for bit for any number of
    threads; no atomics on CUDA.

    Args:
        branches: 1 to 16 images `[B, C, H, W]` of one size, in float32, float64,
            bfloat16 or float16; any strides, those in the memory format of the first
            being the fastest.

    Returns:
        `[B, C]` in the dtype of the images; sums are formed in float32 (float64 for
        float64). Images without pixels have the mean NaN.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: the number of images, a rank, size or device does not fit.

    Source: the squeeze of Hu et al. 2018 (arXiv 1709.01507), and of Li et al. 2019
    (arXiv 1903.06586).

    Examples:
        >>> import torch
        >>> from trajgru_ext import channel_mean
        >>> channel_mean(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4))
        tensor([[2., 2.]])

    """
    mean: Tensor = _ChannelMean.call(*check_list("channel_mean", branches, 1))
    return mean


@fake("channel_mean")
def _fake_channel_mean(branches: list[Tensor]) -> Tensor:
    check_branches("channel_mean", branches)
    first = branches[0]
    batch, channels, _, _ = first.shape
    return first.new_empty(batch, channels)


@decomposition("channel_mean")
def _by_pytorch(branches: Sequence[Tensor]) -> Tensor:
    first, *others = branches
    total = first.to(torch.promote_types(first.dtype, torch.float32))
    for one in others:
        total = total + one.to(total.dtype)
    return total.mean((2, 3)).to(first.dtype)


class _ChannelMean(FunctionOfTensors):
    derivative = "channel_mean"

    @classmethod
    def numbers_of(cls, args: Sequence[Any]) -> Sequence[float]:
        """The height and width, from which the gradient is made."""
        sizes: Sequence[float] = args[0].shape[2:]
        return sizes

    @staticmethod
    def forward(*branches: Tensor) -> Tensor:
        mean: Tensor = operator("channel_mean")(list(branches))
        return mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first, *_ = inputs
        ctx.sizes = first.shape

    # The same number for all pixels, which no kernel needs to write.
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, height, width = ctx.sizes
        pixels = max(height * width, 1)
        each = (grad / pixels)[:, :, None, None].expand(ctx.sizes)
        return tuple(each if needed else None for needed in ctx.needs_input_grad)

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        total, *others = (tangent for tangent in tangents if tangent is not None)
        for one in others:
            total = total + one
        mean: Tensor = total.mean((2, 3))
        return mean

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        return unfold(info, _ChannelMean.call(*fold(info, in_dims, *args))), 0
