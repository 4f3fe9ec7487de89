"""Hierarchical feature fusion: running sums of branches, side by side."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_optional, check_sizes
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
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
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

    Examples:
        >>> import torch
        >>> from trajgru_ext import hff_concat
        >>> branches = [torch.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 3.0)]
        >>> hff_concat(branches).flatten()
        tensor([1., 3., 6.])

    """
    op = "hff_concat"
    branches = check_list(op, branches, 1)
    if not isinstance(skipped, int) or not 0 <= skipped < len(branches):
        raise ValueError(
            f"{op}: skipped must be 0 to {len(branches) - 1}, below the number of "
            f"branches, got {skipped!r}"
        )
    check_optional(op, scale=scale, shift=shift, slope=slope)
    if (scale is None) != (shift is None):
        raise ValueError(f"{op}: scale and shift must be given together")
    output: Tensor = _HffConcat.call(skipped, scale, shift, slope, *branches)
    return output


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


def _formula(skipped: int) -> Callable[..., tuple[Tensor]]:
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
        if scale is not None and shift is not None:
            z = z * of_channels(scale) + of_channels(shift)
        if slope is not None:
            z = torch.where(z > 0, z, of_channels(slope) * z)
        return (z.to(first.dtype),)

    return fused


@decomposition("hff_concat")
def _by_pytorch(
    branches: Sequence[Tensor],
    skipped: int = 0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    (output,) = _formula(skipped)(scale, shift, slope, *branches)
    return output


class _HffConcat(Function):
    derivative = "hff_concat"

    @classmethod
    def tensors_of(cls, args: Sequence[Any]) -> Sequence[Any]:
        """All but `skipped`."""
        return args[1:]

    @classmethod
    def numbers_of(cls, args: Sequence[Any]) -> Sequence[float]:
        """`skipped`."""
        return args[:1]

    @classmethod
    def arguments_of(
        cls, tensors: Sequence[Any], numbers: list[float]
    ) -> tuple[Any, ...]:
        """Undo the two."""
        return int(*numbers), *tensors

    @staticmethod
    def forward(
        skipped: int,
        scale: Tensor | None,
        shift: Tensor | None,
        slope: Tensor | None,
        *branches: Tensor,
    ) -> Tensor:
        concat = operator("hff_concat")
        output: Tensor = concat(list(branches), skipped, scale, shift, slope)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.skipped, scale, shift, slope, *branches = inputs
        ctx.count = len(branches)
        ctx.plain = scale is None and slope is None
        # The sums alone are linear: their derivatives need nothing.
        if ctx.plain:
            branches = [None] * ctx.count
        ctx.save_for_backward(scale, shift, slope, *branches)
        ctx.save_for_forward(scale, shift, slope, *branches)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.plain:
            found = _HffConcatBackward.call(grad, ctx.count, ctx.skipped)
            return None, None, None, None, *found.unbind()
        scale, shift, slope, *branches = ctx.saved_tensors
        call = _HffConcatAffineBackward.call_in_backward
        stack, *numbers = call(grad, ctx.skipped, scale, shift, slope, *branches)
        given = [one is not None for one in (scale, shift, slope)]
        first, *others = stack.unbind()
        shared = [first] * ctx.skipped
        return None, *wanted_or_none(numbers, given), *shared, first, *others

    @staticmethod
    def tangent(
        ctx: Any, _: None, scale: Any, shift: Any, slope: Any, *branches: Any
    ) -> Tensor:
        output: Tensor
        if ctx.plain:
            zero = torch.zeros_like(next(t for t in branches if t is not None))
            along = [zero if one is None else one for one in branches]
            output = _HffConcat.call(ctx.skipped, None, None, None, *along)
            return output
        along = [scale, shift, slope, *branches]
        (output,) = _gates.tangents_of(_formula(ctx.skipped), ctx.saved_tensors, along)
        return output

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        _, scale_dim, shift_dim, slope_dim, *dims = in_dims
        if any(dim is not None for dim in (scale_dim, shift_dim, slope_dim)):
            return one_by_one(_HffConcat, info, in_dims, args)
        skipped, scale, shift, slope, *branches = args
        folded = fold(info, tuple(dims), *branches)
        output = _HffConcat.call(skipped, scale, shift, slope, *folded)
        return unfold(info, output), 0


class _HffConcatBackward(Function):
    """The branches' gradients, stacked; they are linear in that to the result."""

    @staticmethod
    def forward(grad: Tensor, count: int, skipped: int) -> Tensor:
        stack: Tensor = operator("hff_concat_backward")(grad, count, skipped)
        return stack

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.count, ctx.skipped = inputs

    @staticmethod
    def backward(ctx: Any, stack: Tensor) -> tuple[Tensor | None, ...]:
        found = _HffConcat.call(ctx.skipped, None, None, None, *stack.unbind())
        return _HffConcatBackward.gradients(grad=found)

    @staticmethod
    def tangent(ctx: Any, grad: Tensor, *_: None) -> Tensor:
        stack: Tensor = _HffConcatBackward.call(grad, ctx.count, ctx.skipped)
        return stack

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, count: int, skipped: int
    ) -> Any:
        (folded,) = fold(info, in_dims, grad)
        return unfold_stack(info, _HffConcatBackward.call(folded, count, skipped)), 1


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
        found: tuple[Tensor, ...]
        found = backward(grad, list(branches), skipped, scale, shift, slope)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, ctx.skipped, scale, shift, slope, *branches = inputs
        given = [one is not None for one in (scale, shift, slope)]
        ctx.wanted = (True, *given)
        ctx.save_for_backward(grad, scale, shift, slope, *branches)
        ctx.save_for_forward(grad, scale, shift, slope, *branches)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _stacked_gradient(ctx.skipped)
        grads = wanted_only(cotangents, ctx.wanted)
        to_grad, *rest = _gates.pull_back(gradient, ctx.saved_tensors, grads)
        return to_grad, None, *rest

    @staticmethod
    def tangent(ctx: Any, grad: Tensor, _: None, *tangents: Any) -> tuple[Tensor, ...]:
        gradient = _stacked_gradient(ctx.skipped)
        found = _gates.tangents_of(gradient, ctx.saved_tensors, (grad, *tangents))
        saved_grad, *_others = ctx.saved_tensors
        return fill_empty(found, ctx.wanted, like=saved_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return one_by_one(_HffConcatAffineBackward, info, in_dims, args)


def _stacked_gradient(skipped: int) -> _gates.Formula:
    """What `_HffConcatAffineBackward` returns, without what is empty."""

    def gradient(grad: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        found = _gates.pull_back(_formula(skipped), tensors, (grad,))
        scale, shift, slope, *branches = found
        stack = torch.stack([one for one in branches[skipped:] if one is not None])
        return stack, *(one for one in (scale, shift, slope) if one is not None)

    return gradient
