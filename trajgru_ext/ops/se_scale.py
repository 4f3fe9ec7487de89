"""The excitation of a squeeze-and-excitation block: each channel times its gate."""

from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    FunctionOfTensors,
    fill_empty,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._branches import check_logits
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
def se_scale(input: Tensor, logits: Tensor) -> Tensor:
    """Scale each channel by the sigma of its logit, in one pass.

    ::

        output[b,c,i,j] = input[b,c,i,j] * sigma(logits[b,c])

    Differentiable any number of times in reverse mode and once in forward mode on top,
    under `torch.func` and `torch.compile`; only the arguments are saved for backward,
    which is one pass, too. The same bit for bit for any number of threads; no atomics
    on CUDA.

    Args:
        input: `[B, C, H, W]` in float32, float64, bfloat16 or float16; any strides.
        logits: `[B, C]` in any of the dtypes; read as float32, as float64 for a float64
            input.

    Returns:
        `[B, C, H, W]` in the dtype and memory format of `input`.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size or device does not fit.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks" (arXiv 1709.01507), eq. 4.

    Examples:
        >>> import torch
        >>> from trajgru_ext import se_scale
        >>> se_scale(torch.ones(1, 2, 1, 1), torch.zeros(1, 2)).flatten()
        tensor([0.5000, 0.5000])

    """
    check_tensors("se_scale", input=input, logits=logits)
    output: Tensor = _SeScale.call(input, logits)
    return output


@fake("se_scale")
def _fake_se_scale(input: Tensor, logits: Tensor) -> Tensor:
    op = "se_scale"
    check_sizes(op, "input", input, [-1] * 4, input)
    batch, channels, _, _ = input.shape
    check_logits(op, logits, "[B, C]", [batch, channels], input)
    return empty_image(input)


@fake("se_scale_backward")
def _fake_se_scale_backward(
    grad: Tensor, input: Tensor, logits: Tensor, input_grad: bool, logits_grad: bool
) -> tuple[Tensor, Tensor]:
    return (
        empty_image(input) if input_grad else input.new_empty(0),
        logits.new_empty(logits.shape if logits_grad else 0),
    )


def _formula(input: Tensor, logits: Tensor) -> tuple[Tensor]:
    """The operator in torch operators that can be differentiated on."""
    weight = _gates.wide(logits, input).sigmoid()[:, :, None, None]
    return ((_gates.wide(input, input) * weight).to(input.dtype),)


@decomposition("se_scale")
def _by_pytorch(input: Tensor, logits: Tensor) -> Tensor:
    (output,) = _formula(input, logits)
    return output


class _SeScale(FunctionOfTensors):
    derivative = "se_scale"

    @staticmethod
    def forward(input: Tensor, logits: Tensor) -> Tensor:
        output: Tensor = operator("se_scale")(input, logits)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad
        found = _SeScaleBackward.call(grad, *ctx.saved_tensors, *wanted)
        return tuple(wanted_or_none(found, wanted))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        (output,) = _gates.tangents_of(_formula, ctx.saved_tensors, tangents)
        return output

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_SeScale, info, in_dims, args)


class _SeScaleBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor, input: Tensor, logits: Tensor, input_grad: bool, logits_grad: bool
    ) -> tuple[Tensor, Tensor]:
        backward = operator("se_scale_backward")
        found: tuple[Tensor, Tensor]
        found = backward(grad, input, logits, input_grad, logits_grad)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        args = _SeScaleBackward.Arguments(*inputs)
        ctx.wanted = (args.input_grad, args.logits_grad)
        ctx.save_for_backward(args.grad, args.input, args.logits)
        ctx.save_for_forward(args.grad, args.input, args.logits)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _gates.gradient_of(_formula, ctx.wanted)
        grads = wanted_only(cotangents, ctx.wanted)
        grad, input, logits = _gates.pull_back(gradient, ctx.saved_tensors, grads)
        return _SeScaleBackward.gradients(grad=grad, input=input, logits=logits)

    @staticmethod
    def tangent(
        ctx: Any, grad: Any, input: Any, logits: Any, *_: None
    ) -> tuple[Tensor, ...]:
        gradient = _gates.gradient_of(_formula, ctx.wanted)
        tensors = ctx.saved_tensors
        found = _gates.tangents_of(gradient, tensors, (grad, input, logits))
        return fill_empty(found, ctx.wanted, like=tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_SeScaleBackward, info, in_dims, args)
