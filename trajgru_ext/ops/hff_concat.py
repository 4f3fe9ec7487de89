"""Hierarchical feature fusion: running sums of branches, side by side."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    fold,
    one_by_one,
    unfold,
    unfold_stack,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._branches import check_branches, check_list
from trajgru_ext.ops._layout import empty_image, empty_stack
from trajgru_ext.ops._registry import fake, operator


def hff_concat(
    branches: Sequence[Tensor],
    skipped: int = 0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    """Add each branch to those before it, and concatenate the sums.

    ::

        s_i = branches[0] + ... + branches[i]
        z = cat([s_i for i >= skipped], channels)
        z = scale[c] * z + shift[c]                (where given)
        output = z > 0 ? z : slope[c] * z          (where given)

    The sums are written straight into the result. `scale` and `shift` are the batch
    norm of inference, weight / sqrt(variance + eps) and bias - mean * scale; `slope` is
    that of PReLU.

    Differentiable any number of times in reverse mode and once in forward mode on top,
    under `torch.func` and `torch.compile`. The gradients are one pass too. The same bit
    for bit for any number of threads; no atomics on CUDA.

    Args:
        branches: 1 to 16 images `[B, C, H, W]` of one size, in float32, float64,
            bfloat16 or float16; any strides, those in the memory format of the first
            being the fastest.
        skipped: how many of the first sums are left out.
        scale: one number for each channel of the result, in any of the dtypes.
        shift: likewise; given with `scale`, or neither.
        slope: likewise.

    Returns:
        `[B, (k - skipped) * C, H, W]` for k branches, in their dtype and the memory
        format of the first; sums are formed in float32 (float64 for float64).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: the number of branches, a rank, size or device does not fit.

    Source: Mehta et al. 2018, "ESPNet" (arXiv 1803.06815); Mehta et al. 2019,
    "ESPNetv2" (arXiv 1811.11431).

    """
    op = "hff_concat"
    branches = check_list(op, branches, 1)
    if not isinstance(skipped, int) or not 0 <= skipped < len(branches):
        raise ValueError(
            f"{op}: skipped must be 0 to {len(branches) - 1}, below the number of "
            f"branches, got {skipped!r}"
        )
    given = {"scale": scale, "shift": shift, "slope": slope}
    check_tensors(op, **{k: v for k, v in given.items() if v is not None})
    if (scale is None) != (shift is None):
        raise ValueError(f"{op}: scale and shift must be given together")
    return _HffConcat.call(skipped, scale, shift, slope, *branches)


@fake("hff_concat")
def _fake_hff_concat(
    branches: list[Tensor],
    skipped: int = 0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    op = "hff_concat"
    check_branches(op, branches)
    first = branches[0]
    channels = (len(branches) - skipped) * first.shape[1]
    for name, one in (("scale", scale), ("shift", shift), ("slope", slope)):
        if one is None:
            continue
        check_sizes(op, name, one, [-1] * one.dim(), first)
        if list(one.shape) != [channels]:
            raise ValueError(
                f"{op}: {name} must be [channels of the result] = {[channels]} for "
                f"images of {list(first.shape)}, got {list(one.shape)}"
            )
    return empty_image(first, channels)


@fake("hff_concat_backward")
def _fake_hff_concat_backward(grad: Tensor, branches: int, skipped: int) -> Tensor:
    return empty_stack(branches, grad, grad.shape[1] // (branches - skipped))


@fake("hff_concat_affine_backward")
def _fake_hff_concat_affine_backward(
    grad: Tensor,
    branches: list[Tensor],
    skipped: int,
    *numbers: Tensor | None,
) -> tuple[Tensor, ...]:
    first = branches[0]
    found = (
        first.new_empty(0) if one is None else torch.empty_like(one) for one in numbers
    )
    return empty_stack(len(branches) - skipped, first, first.shape[1]), *found


def hff_formula(skipped: int) -> Callable[..., tuple[Tensor]]:
    """The operator as a function of its tensors, in torch operators."""

    def fused(
        scale: Tensor | None,
        shift: Tensor | None,
        slope: Tensor | None,
        *branches: Tensor,
    ) -> tuple[Tensor]:
        first = branches[0]

        def of_channels(numbers: Tensor) -> Tensor:
            return _gates.wide(numbers, first)[:, None, None]

        sums = list(accumulate(_gates.wide(one, first) for one in branches))
        z = torch.cat(sums[skipped:], 1)
        if scale is not None:
            z = z * of_channels(scale) + of_channels(shift)
        if slope is not None:
            z = torch.where(z > 0, z, of_channels(slope) * z)
        return (z.to(first.dtype),)

    return fused


class _HffConcat(Function):
    @staticmethod
    def forward(
        skipped: int,
        scale: Tensor | None,
        shift: Tensor | None,
        slope: Tensor | None,
        *branches: Tensor,
    ) -> Tensor:
        return operator("hff_concat")(list(branches), skipped, scale, shift, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.skipped, *tensors = inputs
        ctx.count = len(tensors) - 3
        ctx.plain = all(one is None for one in tensors[:3])
        # The sums alone are linear: their derivatives need nothing.
        kept = [None] * len(tensors) if ctx.plain else tensors
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.plain:
            found = _HffConcatBackward.call(grad, ctx.count, ctx.skipped)
            return None, None, None, None, *found.unbind()
        tensors = ctx.saved_tensors
        call = _HffConcatAffineBackward.call_in_backward
        stack, *numbers = call(grad, ctx.skipped, *tensors)
        given = [tensor is not None for tensor in tensors[:3]]
        slices = stack.unbind()
        shared = [slices[0]] * ctx.skipped
        return None, *wanted_or_none(numbers, given), *shared, *slices

    @staticmethod
    def tangent(ctx: Any, _: None, *tangents: Any) -> Tensor:
        if ctx.plain:
            zero = torch.zeros_like(next(t for t in tangents if t is not None))
            along = [zero if one is None else one for one in tangents[3:]]
            return _HffConcat.call(ctx.skipped, None, None, None, *along)
        formula = hff_formula(ctx.skipped)
        return _gates.tangents_of(formula, ctx.saved_tensors, tangents)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        if any(dim is not None for dim in in_dims[1:4]):
            return one_by_one(_HffConcat, info, in_dims, args)
        branches = fold(info, in_dims[4:], *args[4:])
        return unfold(info, _HffConcat.call(*args[:4], *branches)), 0


class _HffConcatBackward(Function):
    """The branches' gradients, stacked; they are linear in that to the result."""

    @staticmethod
    def forward(grad: Tensor, count: int, skipped: int) -> Tensor:
        return operator("hff_concat_backward")(grad, count, skipped)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, *ctx.options = inputs

    @staticmethod
    def backward(ctx: Any, stack: Tensor) -> tuple[Tensor | None, ...]:
        skipped = ctx.options[1]
        found = _HffConcat.call(skipped, None, None, None, *stack.unbind())
        return found, None, None

    @staticmethod
    def tangent(ctx: Any, grad: Tensor, *_: None) -> Tensor:
        return _HffConcatBackward.call(grad, *ctx.options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        (grad,) = fold(info, in_dims, args[0])
        return unfold_stack(info, _HffConcatBackward.call(grad, *args[1:])), 1


class _HffConcatAffineBackward(Function):
    """The gradients to the branches from `skipped` on, stacked, scale, shift and slope.

    Branches before have the gradient of the first.
    """

    @staticmethod
    def forward(
        grad: Tensor,
        skipped: int,
        scale: Tensor | None,
        shift: Tensor | None,
        slope: Tensor | None,
        *branches: Tensor,
    ) -> tuple[Tensor, ...]:
        backward = operator("hff_concat_affine_backward")
        return backward(grad, list(branches), skipped, scale, shift, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        grad, ctx.skipped, *tensors = inputs
        ctx.wanted = (True, *(one is not None for one in tensors[:3]))
        ctx.save_for_backward(grad, *tensors)
        ctx.save_for_forward(grad, *tensors)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _stacked_gradient(ctx.skipped)
        seeds = wanted_only(cotangents, ctx.wanted)
        to_grad, *rest = _gates.pull_back(gradient, ctx.saved_tensors, seeds)
        return to_grad, None, *rest

    @staticmethod
    def tangent(ctx: Any, grad: Tensor, _: None, *tangents: Any) -> tuple[Tensor, ...]:
        gradient = _stacked_gradient(ctx.skipped)
        found = _gates.tangents_of(gradient, ctx.saved_tensors, (grad, *tangents))
        return fill_empty(found, ctx.wanted, ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        return one_by_one(_HffConcatAffineBackward, info, in_dims, args)


def _stacked_gradient(skipped: int) -> Callable[..., tuple[Tensor, ...]]:
    """What `_HffConcatAffineBackward` returns, without what is empty."""

    def gradient(grad: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        found = _gates.pull_back(hff_formula(skipped), tensors, (grad,))
        numbers = (one for one in found[:3] if one is not None)
        return torch.stack(found[3 + skipped :]), *numbers

    return gradient
