"""The bilinear flow warp: each pixel reads the image where its flow points."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    fold,
    unfold,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._corners import Corners
from trajgru_ext.ops._grid_sample import warps_by_grid_sample
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._options import PADDINGS, WarpOptions, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator


@overridable
def flow_warp(
    input: Tensor,
    flow: Tensor,
    flow_scale: float = 1.0,
    padding_mode: str = "zeros",
) -> Tensor:
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

    With `padding_mode="border"` the position is first clipped to the image, `i + V` to
    `[0, H - 1]` and `j + U` to `[0, W - 1]`, so that what points outside, or is
    infinite, reads the border. The gradient to a component of the flow is 0 where its
    position was clipped, and at exactly `H - 1` (`W - 1`), to the right of which it is;
    at exactly 0 it is the one-sided derivative, as everywhere. (`grid_sample` has 0
    there, too.)

    Differentiable in `input` and `flow` any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`; what `torch.export`
    makes is for inference. On the CPU all results are the same
    bit for bit for any number of threads; on CUDA the gradient to `input` is added up
    in no fixed order, unless `torch.use_deterministic_algorithms(True)` asks for one.

    Args:
        input: image `[B, C, H, W]` in float32, float64, bfloat16 or float16; any
            strides, channels last being the fastest.
        flow: displacements `[B, 2, H, W]` in pixels; channel 0 is U, along the width
            (x, to the right), channel 1 is V, along the height (y, downwards). Any of
            the dtypes; it is read as float32, as float64 for a float64 input.
        flow_scale: factor on the flow; -1 makes the flow say where a pixel's content
            goes instead of where it comes from.
        padding_mode: what is outside the image, "zeros" or "border", as `grid_sample`
            has them with `align_corners=True`.

    Returns:
        `[B, C, H, W]` in the dtype and memory format of `input`; sums are formed in
        float32 (float64 for float64).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size or device does not fit, or there is no such
            padding.

    Source: Shi et al. 2017, "Deep Learning for Precipitation Nowcasting: A Benchmark
    and A New Model" (arXiv 1706.03458), equations 3 and 4.

    Examples:
        >>> import torch
        >>> from trajgru_ext import flow_warp
        >>> image = torch.tensor([[[[1.0, 2.0, 4.0]]]])
        >>> flow = torch.zeros(1, 2, 1, 3)
        >>> flow[:, 0] = 0.5
        >>> flow_warp(image, flow)
        tensor([[[[1.5000, 3.0000, 2.0000]]]])

    """
    check_tensors("flow_warp", input=input, flow=flow)
    options = WarpOptions.choose("flow_warp", flow_scale, padding_mode)
    output: Tensor = _FlowWarp.call(input, flow, options)
    return output


@fake("flow_warp")
def _fake_flow_warp(
    input: Tensor, flow: Tensor, flow_scale: float = 1.0, padding: int = 0
) -> Tensor:
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
    padding: int,
    input_grad: bool,
    flow_grad: bool,
) -> tuple[Tensor, Tensor]:
    return (
        empty_image(grad) if input_grad else grad.new_empty(0),
        empty_image(flow) if flow_grad else flow.new_empty(0),
    )


@decomposition("flow_warp")
def _by_pytorch(
    input: Tensor, flow: Tensor, flow_scale: float = 1.0, padding: int = 0
) -> Tensor:
    return warps_by_grid_sample(input, flow, flow_scale, PADDINGS[padding])


class _FlowWarp(Function):
    derivative = "flow_warp"

    @staticmethod
    def options_of(numbers: list[float]) -> WarpOptions:
        return read(WarpOptions, numbers)

    @staticmethod
    def forward(input: Tensor, flow: Tensor, options: WarpOptions) -> Tensor:
        output: Tensor = operator("flow_warp")(input, flow, *options)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, flow, ctx.options = inputs
        needs = _FlowWarp.Arguments(*ctx.needs_input_grad)
        # The gradient to the input does not depend on the input.
        ctx.save_for_backward(input if needs.flow else None, flow)
        ctx.save_for_forward(input, flow)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, flow = ctx.saved_tensors
        needs = _FlowWarp.Arguments(*ctx.needs_input_grad)
        wanted = (needs.input, needs.flow)
        found = _FlowWarpBackward.call(grad, input, flow, ctx.options, *wanted)
        input_grad, flow_grad = wanted_or_none(found, wanted)
        return _FlowWarp.gradients(input=input_grad, flow=flow_grad)

    @staticmethod
    def tangent(ctx: Any, input_tangent: Any, flow_tangent: Any, _: None) -> Tensor:
        input, flow = ctx.saved_tensors
        corners = Corners(input, flow, *ctx.options)
        tangent = torch.zeros_like(input, dtype=corners.dtype)
        if input_tangent is not None:
            tangent = tangent + corners.blend(input_tangent, corners.weights())
        if flow_tangent is not None:
            slopes = corners.slopes(flow_tangent)
            tangent = tangent + corners.blend(input, slopes)
        warped: Tensor = tangent.to(input.dtype)
        return warped

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        input: Tensor,
        flow: Tensor,
        options: WarpOptions,
    ) -> Any:
        input, flow = fold(info, in_dims, input, flow)
        output = _FlowWarp.call(input, flow, options)
        return unfold(info, output), 0


class _FlowWarpBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        input: Tensor | None,
        flow: Tensor,
        options: WarpOptions,
        input_grad: bool,
        flow_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        backward = operator("flow_warp_backward")
        found: tuple[Tensor, Tensor]
        found = backward(grad, input, flow, *options, input_grad, flow_grad)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, input, flow, ctx.options, *ctx.wanted = inputs
        ctx.save_for_backward(grad, input, flow)
        ctx.save_for_forward(grad, input, flow)

    # No kernel is worth it for the second derivative: it is that of the formula of
    # the first, in torch operators that can be differentiated on.
    @staticmethod
    def _formula(ctx: Any) -> _gates.Formula:
        def first_derivative(
            grad: Tensor, input: Tensor | None, flow: Tensor
        ) -> tuple[Tensor, ...]:
            corners = Corners(grad, flow, *ctx.options)
            to_flow = None if input is None else corners.flow_grad(grad, input)
            return wanted_only((corners.image_grad(grad), to_flow), ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula = _FlowWarpBackward._formula(ctx)
        grads = wanted_only(cotangents, ctx.wanted)
        grad, input, flow = _gates.pull_back(formula, ctx.saved_tensors, grads)
        return _FlowWarpBackward.gradients(grad=grad, input=input, flow=flow)

    @staticmethod
    def tangent(
        ctx: Any, grad: Any, input: Any, flow: Any, *_: None
    ) -> tuple[Tensor, ...]:
        formula, tensors = _FlowWarpBackward._formula(ctx), ctx.saved_tensors
        saved_grad, _, _ = tensors
        found = _gates.tangents_of(formula, tensors, (grad, input, flow))
        return fill_empty(found, ctx.wanted, like=saved_grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_FlowWarpBackward, info, in_dims, args)
