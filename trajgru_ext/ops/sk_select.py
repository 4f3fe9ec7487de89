"""The selection of a selective-kernel convolution: branches, weighted by channel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    FunctionOfTensors,
    fill_empty,
    fold,
    unfold,
    unfold_stack,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._branches import check_branches, check_list, check_logits
from trajgru_ext.ops._layout import empty_image, empty_stack
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
def sk_select(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    """Mix M branches, channel by channel, by the softmax of their logits.

    ::

        a[b,:,c] = softmax(logits[b,:,c])
        output[b,c,i,j] = sum_m a[b,m,c] * branches[m][b,c,i,j]

    Each branch is read once, in the backward pass, too. Differentiable any number of
    times in reverse mode and once in forward mode on top, under `torch.func` and
    `torch.compile`; only the arguments are saved for backward. The same bit for bit for
    any number of threads; no atomics on CUDA.

    Args:
        branches: 2 to 16 images `[B, C, H, W]` of one size, in float32, float64,
            bfloat16 or float16; any strides, those in the memory format of the first
            being the fastest.
        logits: `[B, M, C]` in any of the dtypes; read as float32, as float64 for
            float64 branches.

    Returns:
        `[B, C, H, W]` in the dtype of the branches and the memory format of the first.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: the number of branches, a rank, size or device does not fit.

    Source: Li et al. 2019, "Selective Kernel Networks" (arXiv 1903.06586), eq. 5-6.

    Examples:
        >>> import torch
        >>> from trajgru_ext import sk_select
        >>> branches = [torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)]
        >>> sk_select(branches, torch.zeros(1, 2, 1))
        tensor([[[[0.5000]]]])

    """
    op = "sk_select"
    branches = check_list(op, branches, 2)
    check_tensors(op, logits=logits)
    output: Tensor = _SkSelect.call(logits, *branches)
    return output


@fake("sk_select")
def _fake_sk_select(branches: list[Tensor], logits: Tensor) -> Tensor:
    op = "sk_select"
    check_branches(op, branches)
    first = branches[0]
    batch, channels, _, _ = first.shape
    wanted = [batch, len(branches), channels]
    check_logits(op, logits, "[B, M, C]", wanted, first)
    return empty_image(first)


@fake("sk_select_backward")
def _fake_sk_select_backward(
    grad: Tensor,
    branches: list[Tensor],
    logits: Tensor,
    branches_grad: bool,
    logits_grad: bool,
) -> tuple[Tensor, Tensor]:
    first = branches[0]
    return (
        empty_stack(len(branches), first, first.shape[1])
        if branches_grad
        else first.new_empty(0),
        logits.new_empty(logits.shape if logits_grad else 0),
    )


def _formula(logits: Tensor, *branches: Tensor) -> tuple[Tensor]:
    """The operator in torch operators that can be differentiated on."""
    first, *others = (_gates.wide(branch, branch) for branch in branches)
    weights = logits.to(first.dtype).softmax(1)[..., None, None]
    weight, *more = weights.unbind(1)
    output = weight * first
    for weight, branch in zip(more, others, strict=True):
        output = output + weight * branch
    return (output.to(branches[0].dtype),)


@decomposition("sk_select")
def _by_pytorch(branches: Sequence[Tensor], logits: Tensor) -> Tensor:
    (output,) = _formula(logits, *branches)
    return output


class _SkSelect(FunctionOfTensors):
    derivative = "sk_select"

    @staticmethod
    def forward(logits: Tensor, *branches: Tensor) -> Tensor:
        output: Tensor = operator("sk_select")(list(branches), logits)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs_logits, *needs_branches = ctx.needs_input_grad
        wanted = (any(needs_branches), needs_logits)
        call = _SkSelectBackward.call_in_backward
        to_branches, to_logits = call(*wanted, grad, *ctx.saved_tensors)
        each = to_branches.unbind() if any(needs_branches) else needs_branches
        return tuple(wanted_or_none((to_logits, *each), ctx.needs_input_grad))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        (output,) = _gates.tangents_of(_formula, ctx.saved_tensors, tangents)
        return output

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_SkSelect, info, in_dims, args)


class _SkSelectBackward(Function):
    """The gradients to the branches, all of them and stacked, and to the logits."""

    @staticmethod
    def forward(
        branches_grad: bool,
        logits_grad: bool,
        grad: Tensor,
        logits: Tensor,
        *branches: Tensor,
    ) -> tuple[Tensor, Tensor]:
        backward = operator("sk_select_backward")
        found: tuple[Tensor, Tensor]
        found = backward(grad, list(branches), logits, branches_grad, logits_grad)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        branches_grad, logits_grad, *tensors = inputs
        ctx.wanted = (branches_grad, logits_grad)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def _of_wanted(ctx: Any) -> _gates.Formula:
        def gradient(*tensors: Tensor) -> tuple[Tensor, ...]:
            every = [True] * (len(tensors) - 1)
            to_logits, *each = _gates.gradient_of(_formula, every)(*tensors)
            return wanted_only((torch.stack(each), to_logits), ctx.wanted)

        return gradient

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _SkSelectBackward._of_wanted(ctx)
        grads = wanted_only(cotangents, ctx.wanted)
        return None, None, *_gates.pull_back(gradient, ctx.saved_tensors, grads)

    @staticmethod
    def tangent(ctx: Any, _: None, __: None, *tangents: Any) -> tuple[Tensor, ...]:
        gradient = _SkSelectBackward._of_wanted(ctx)
        found = _gates.tangents_of(gradient, ctx.saved_tensors, tangents)
        return fill_empty(found, ctx.wanted, like=ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        branches_grad, logits_grad, *tensors = args
        _, _, *dims = in_dims
        tensors = fold(info, tuple(dims), *tensors)
        found = _SkSelectBackward.call(branches_grad, logits_grad, *tensors)
        to_branches, to_logits = found
        if branches_grad:
            to_branches = unfold_stack(info, to_branches)
        if logits_grad:
            to_logits = unfold(info, to_logits)
        mapped = (1 if branches_grad else None, 0 if logits_grad else None)
        return (to_branches, to_logits), mapped
