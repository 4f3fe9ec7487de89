"""The flow convolution: warp along L flows, concatenate, multiply by a matrix."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import (
    autocast,
    check_number,
    check_same_dtype,
    check_sizes,
    check_tensors,
)
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    push_forward,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._corners import Corners
from trajgru_ext.ops._grid_sample import flow_conv_by_grid_sample
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._options import FlowConvOptions, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
def flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """Warp an image along L flows and mix all its copies by a 1x1 convolution.

    With `flow_warp` as M and links l = 0 .. L-1::

        out[b,o,i,j] = bias[o]
            + sum_l sum_c weight[o, l*C + c] * M(input, flows[:, 2l:2l+2])[b,c,i,j]

    which equals warping, concatenating and `conv2d` with a 1x1 kernel; the L*C
    channels are never held. At whole coordinates, outside the image and at NaN each
    warp is as `flow_warp` says.

    Differentiable in all tensors any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`; what `torch.export`
    makes is for inference. On the CPU all results are the same bit for
    bit for any number of threads; on CUDA the gradient to `input` is added up in no
    fixed order, unless `torch.use_deterministic_algorithms(True)` asks for one.

    Args:
        input: image `[B, C, H, W]` in float32, float64, bfloat16 or float16; any
            strides, channels last being the fastest.
        flows: displacements `[B, 2L, H, W]` in pixels; channels 2l and 2l+1 are U
            (along the width) and V (along the height) of link l. Any of the dtypes; it
            is read as float32, as float64 for a float64 input, also under autocast.
        weight: `[O, L*C]`, or `[O, L*C, 1, 1]` as of a `Conv2d`, in the dtype of
            `input`; column l*C + c belongs to channel c of link l.
        bias: `[O]`, or None.
        flow_scale: factor on the flows; TrajGRU reads at -1.

    Returns:
        `[B, O, H, W]` in the dtype and memory format of `input`. Under autocast
        `input`, `weight` and `bias` are cast as those of a convolution are.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size or device does not fit.

    Source: Shi et al. 2017 (arXiv 1706.03458), equation 2; HKO-7.

    Examples:
        >>> import torch
        >>> from trajgru_ext import flow_conv
        >>> image, flows = torch.randn(2, 8, 16, 16), torch.randn(2, 2 * 5, 16, 16)
        >>> flow_conv(image, flows, torch.randn(24, 5 * 8)).shape
        torch.Size([2, 24, 16, 16])

    """
    check_tensors("flow_conv", input=input, flows=flows, weight=weight)
    if bias is not None:
        check_tensors("flow_conv", bias=bias)
    check_number("flow_conv", "flow_scale", flow_scale)
    if weight.dim() == 4 and weight.size(2) == weight.size(3) == 1:
        weight = weight.flatten(1)
    input, weight, bias = autocast(input, weight, bias)
    options = FlowConvOptions(float(flow_scale))
    output: Tensor = _FlowConv.call(input, flows, weight, bias, options)
    return output


@fake("flow_conv")
def _fake_flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    check_sizes("flow_conv", "input", input, [-1] * 4, input)
    batch, channels, height, width = input.shape
    check_sizes("flow_conv", "flows", flows, [batch, -1, height, width], input)
    if flows.shape[1] % 2:
        raise ValueError(
            f"flow_conv: flows must be [B, 2 * links, H, W], got {list(flows.shape)}"
        )
    columns = flows.shape[1] // 2 * channels
    check_sizes("flow_conv", "weight", weight, [-1, columns], input)
    check_same_dtype("flow_conv", "weight", weight, input)
    if bias is not None:
        check_sizes("flow_conv", "bias", bias, [weight.shape[0]], input)
        check_same_dtype("flow_conv", "bias", bias, input)
    return empty_image(input, weight.shape[0])


@fake("flow_conv_backward")
def _fake_flow_conv_backward(
    grad: Tensor,
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    flow_scale: float,
    input_grad: bool,
    flows_grad: bool,
    weight_grad: bool,
    bias_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        empty_image(input) if input_grad else input.new_empty(0),
        empty_image(flows) if flows_grad else flows.new_empty(0),
        weight.new_empty(weight.shape) if weight_grad else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if bias_grad else 0),
    )


def _links(input: Tensor, flows: Tensor, flow_scale: float) -> tuple[Tensor, Corners]:
    """The input once a link, [B*L, C, H, W], and the corners that the links read."""
    links = flows.shape[1] // 2
    spread = input[:, None].expand(-1, links, -1, -1, -1).flatten(0, 1)
    each = torch.unflatten(flows, 1, (links, 2)).flatten(0, 1)
    return spread, Corners(spread, each, flow_scale)


def warps(input: Tensor, flows: Tensor, flow_scale: float) -> Tensor:
    """All warped copies, [B, L*C, H, W]."""
    spread, corners = _links(input, flows, flow_scale)
    warped = corners.blend(spread, corners.weights()).to(input.dtype)
    return _per_sample(warped, input, flows).flatten(1, 2)


def _per_sample(per_link: Tensor, input: Tensor, flows: Tensor) -> Tensor:
    """[B*L, ...] to [B, L, ...]."""
    return torch.unflatten(per_link, 0, (input.shape[0], flows.shape[1] // 2))


def flow_conv_formula(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    flow_scale: float,
) -> Tensor:
    """The operator in torch operators that can be differentiated on."""
    warped = warps(input, flows, flow_scale)
    output = torch.einsum("ok,bkhw->bohw", weight, warped)
    return output if bias is None else output + bias[:, None, None]


decomposition("flow_conv")(flow_conv_by_grid_sample)


class _FlowConv(Function):
    derivative = "flow_conv"

    @staticmethod
    def options_of(numbers: list[float]) -> FlowConvOptions:
        return read(FlowConvOptions, numbers)

    @staticmethod
    def forward(
        input: Tensor,
        flows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        options: FlowConvOptions,
    ) -> Tensor:
        output: Tensor = operator("flow_conv")(input, flows, weight, bias, *options)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, flows, weight, _, (ctx.flow_scale,) = inputs
        ctx.save_for_backward(input, flows, weight)
        ctx.save_for_forward(input, flows, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, flows, weight = ctx.saved_tensors
        *wanted, _ = ctx.needs_input_grad
        found = _FlowConvBackward.call(
            grad, input, flows, weight, ctx.flow_scale, *wanted
        )
        return *wanted_or_none(found, wanted), None

    @staticmethod
    def tangent(
        ctx: Any, input: Any, flows: Any, weight: Any, bias: Any, _: None
    ) -> Tensor:
        def formula(input: Tensor, flows: Tensor, weight: Tensor) -> tuple[Tensor]:
            return (flow_conv_formula(input, flows, weight, None, ctx.flow_scale),)

        along = (input, flows, weight)
        (output,) = push_forward(formula, ctx.saved_tensors, along)
        return output if bias is None else output + bias[:, None, None]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        dims = _FlowConv.Arguments(*in_dims)
        if dims.weight is None and dims.bias is None:
            shared = ("weight", "bias")
            return _gates.in_one_batch(_FlowConv, info, in_dims, args, shared)
        return one_by_one(_FlowConv, info, in_dims, args)


class _FlowConvBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        input: Tensor,
        flows: Tensor,
        weight: Tensor,
        flow_scale: float,
        input_grad: bool,
        flows_grad: bool,
        weight_grad: bool,
        bias_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wanted = (input_grad, flows_grad, weight_grad, bias_grad)
        backward = operator("flow_conv_backward")
        found: tuple[Tensor, Tensor, Tensor, Tensor]
        found = backward(grad, input, flows, weight, flow_scale, *wanted)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, input, flows, weight, ctx.flow_scale, *ctx.wanted = inputs
        ctx.save_for_backward(grad, input, flows, weight)
        ctx.save_for_forward(grad, input, flows, weight)

    # No kernel is worth it for the second derivative: it is that of the formula of
    # the first, in operators that can be differentiated on.
    @staticmethod
    def _formula(ctx: Any) -> _gates.Formula:
        def first_derivative(
            grad: Tensor, input: Tensor, flows: Tensor, weight: Tensor
        ) -> tuple[Tensor, ...]:
            mixed = torch.einsum("ok,bohw->bkhw", weight, grad)
            spread, corners = _links(input, flows, ctx.flow_scale)
            sizes = (flows.shape[1] // 2, input.shape[1])
            per_link = torch.unflatten(mixed, 1, sizes).flatten(0, 1)
            input_grad = corners.image_grad(per_link)
            flows_grad = corners.flow_grad(per_link, spread)
            warped = warps(input, flows, ctx.flow_scale)
            found = (
                _per_sample(input_grad, input, flows).sum(1),
                _per_sample(flows_grad, input, flows).flatten(1, 2),
                torch.einsum("bohw,bkhw->ok", grad, warped),
                grad.sum((0, 2, 3)),
            )
            return wanted_only(found, ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula = _FlowConvBackward._formula(ctx)
        grads = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, ctx.saved_tensors, grads)
        grad, input, flows, weight = found
        return _FlowConvBackward.gradients(
            grad=grad, input=input, flows=flows, weight=weight
        )

    @staticmethod
    def tangent(
        ctx: Any, grad: Any, input: Any, flows: Any, weight: Any, *_: None
    ) -> tuple[Tensor, ...]:
        formula, tensors = _FlowConvBackward._formula(ctx), ctx.saved_tensors
        found = push_forward(formula, tensors, (grad, input, flows, weight))
        saved_grad, *_others = tensors
        return fill_empty(found, ctx.wanted, like=saved_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return one_by_one(_FlowConvBackward, info, in_dims, args)
