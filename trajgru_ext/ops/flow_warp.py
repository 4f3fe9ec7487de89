"""The bilinear flow warp: each pixel reads the image where its flow points."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._arguments import check_number, check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    fold,
    push_forward,
    unfold,
    wanted_only,
)
from trajgru_ext.ops._corners import Corners
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._registry import fake, operator


def flow_warp(input: Tensor, flow: Tensor, flow_scale: float = 1.0) -> Tensor:
    """Warp an image along a flow field by bilinear interpolation.

    With `(U, V) = flow_scale * flow`::

        M[b,c,i,j] = sum_m sum_n input[b,c,m,n] * max(0, 1 - |i + V[b,i,j] - m|)
                                                * max(0, 1 - |j + U[b,i,j] - n|)

    Outside the image the input is 0, corner by corner. Zero flow is exactly the
    identity, and where the displacement is whole nothing beside the pixel it points
    to is read, NaN included. At a whole coordinate the gradient to the flow is that
    of the cell to the right and below (the one-sided derivative). Where the flow is
    NaN the result and the gradient to that flow are NaN; where it is infinite, or
    points outside, both are 0.

    Differentiable in `input` and `flow` any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`; what `torch.export`
    makes is for inference. On the CPU all results are the same
    bit for bit for any number of threads; on CUDA the gradient to `input` is added up
    in no fixed order, and `torch.use_deterministic_algorithms(True)` makes it an
    error.

    Args:
        input: image `[B, C, H, W]` in float32, float64, bfloat16 or float16; any
            strides, channels last being the fastest.
        flow: displacements `[B, 2, H, W]` in pixels; channel 0 is U, along the width
            (x, to the right), channel 1 is V, along the height (y, downwards). Any of
            the dtypes; it is read as float32, as float64 for a float64 input.
        flow_scale: factor on the flow; -1 makes the flow say where a pixel's content
            goes instead of where it comes from.

    Returns:
        `[B, C, H, W]` in the dtype and memory format of `input`; sums are formed in
        float32 (float64 for float64).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size or device does not fit.

    Source: Shi et al. 2017, "Deep Learning for Precipitation Nowcasting: A Benchmark
    and A New Model" (arXiv 1706.03458), equations 3 and 4.

    """
    check_tensors("flow_warp", input=input, flow=flow)
    check_number("flow_warp", "flow_scale", flow_scale)
    return _FlowWarp.call(input, flow, float(flow_scale))


@fake("flow_warp")
def _fake_flow_warp(input: Tensor, flow: Tensor, flow_scale: float = 1.0) -> Tensor:
    check_sizes("flow_warp", "input", input, [-1] * 4, input)
    batch, _, height, width = input.shape
    check_sizes("flow_warp", "flow", flow, [batch, 2, height, width], input)
    return empty_image(input)


@fake("flow_warp_backward")
def _fake_flow_warp_backward(
    grad: Tensor,
    input: Tensor | None,
    flow: Tensor,
    flow_scale: float,
    input_grad: bool,
    flow_grad: bool,
) -> tuple[Tensor, Tensor]:
    return (
        empty_image(grad) if input_grad else grad.new_empty(0),
        empty_image(flow) if flow_grad else flow.new_empty(0),
    )


class _FlowWarp(Function):
    @staticmethod
    def forward(input: Tensor, flow: Tensor, flow_scale: float) -> Tensor:
        return operator("flow_warp")(input, flow, flow_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, flow, ctx.flow_scale = inputs
        # The gradient to the input does not depend on the input.
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, flow)
        ctx.save_for_forward(input, flow)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, flow = ctx.saved_tensors
        needs_input, needs_flow, _ = ctx.needs_input_grad
        input_grad, flow_grad = _FlowWarpBackward.call(
            grad, input, flow, ctx.flow_scale, needs_input, needs_flow
        )
        return (
            input_grad if needs_input else None,
            flow_grad if needs_flow else None,
            None,
        )

    @staticmethod
    def tangent(ctx: Any, input_tangent: Any, flow_tangent: Any, _: None) -> Tensor:
        input, flow = ctx.saved_tensors
        corners = Corners(input, flow, ctx.flow_scale)
        tangent = torch.zeros_like(input, dtype=corners.dtype)
        if input_tangent is not None:
            tangent = tangent + corners.blend(input_tangent, corners.weights())
        if flow_tangent is not None:
            slopes = corners.slopes(flow_tangent)
            tangent = tangent + corners.blend(input, slopes)
        return tangent.to(input.dtype)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        input, flow, flow_scale = args
        input, flow = fold(info, in_dims, input, flow)
        output = _FlowWarp.call(input, flow, flow_scale)
        return unfold(info, output), 0


class _FlowWarpBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        input: Tensor | None,
        flow: Tensor,
        flow_scale: float,
        input_grad: bool,
        flow_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        backward = operator("flow_warp_backward")
        return backward(grad, input, flow, flow_scale, input_grad, flow_grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        grad, input, flow, ctx.flow_scale, *ctx.wanted = inputs
        ctx.save_for_backward(grad, input, flow)
        ctx.save_for_forward(grad, input, flow)

    # No kernel is worth it for the second derivative: it is that of the formula of
    # the first, in torch operators that can be differentiated on.
    @staticmethod
    def _formula(ctx: Any) -> Callable[..., tuple[Tensor, ...]]:
        def first_derivative(
            grad: Tensor, flow: Tensor, input: Tensor | None = None
        ) -> tuple[Tensor, ...]:
            both = Corners(grad, flow, ctx.flow_scale).pull_back(grad, input)
            return wanted_only(both, ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        grad, input, flow = ctx.saved_tensors
        primals = (grad, flow) if input is None else (grad, flow, input)
        _, pull_back = torch.func.vjp(_FlowWarpBackward._formula(ctx), *primals)
        seeds = wanted_only(cotangents, ctx.wanted)
        grad_grad, flow_grad, input_grad = (*pull_back(seeds), None)[:3]
        return grad_grad, input_grad, flow_grad, None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        grad, input, flow = ctx.saved_tensors
        primals, along = (grad, flow), (tangents[0], tangents[2])
        if input is not None:
            primals, along = (*primals, input), (*along, tangents[1])
        found = push_forward(_FlowWarpBackward._formula(ctx), primals, along)
        return fill_empty(found, ctx.wanted, grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        grad, input, flow, *options = args
        if input is None:
            grad, flow = fold(info, (in_dims[0], in_dims[2]), grad, flow)
        else:
            grad, input, flow = fold(info, in_dims, grad, input, flow)
        both = _FlowWarpBackward.call(grad, input, flow, *options)
        wanted = options[1:]
        unfolded = tuple(
            unfold(info, one) if want else one
            for one, want in zip(both, wanted, strict=True)
        )
        return unfolded, tuple(0 if want else None for want in wanted)
