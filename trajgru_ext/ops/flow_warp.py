"""The bilinear flow warp: each pixel reads the image where its flow points."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._function import Function, fold, unfold
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

    Differentiable any number of times in `input` and `flow`, in reverse and forward
    mode, under `torch.func` and `torch.compile`. On the CPU all results are the same
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
    for name, value in (("input", input), ("flow", flow)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"flow_warp: {name} must be a Tensor, got {type(value).__name__}"
            )
    if not isinstance(flow_scale, (int, float)):
        raise TypeError(
            f"flow_warp: flow_scale must be a number, got {type(flow_scale).__name__}"
        )
    return _FlowWarp.call(input, flow, float(flow_scale))


@fake("flow_warp")
def _fake_flow_warp(input: Tensor, flow: Tensor, flow_scale: float = 1.0) -> Tensor:
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
        corners = _Corners(input, flow, ctx.flow_scale)
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
            both = _Corners(grad, flow, ctx.flow_scale).pull_back(grad, input)
            return tuple(both[k] for k in range(2) if ctx.wanted[k])

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        grad, input, flow = ctx.saved_tensors
        primals = (grad, flow) if input is None else (grad, flow, input)
        _, pull_back = torch.func.vjp(_FlowWarpBackward._formula(ctx), *primals)
        wanted = tuple(cotangents[k] for k in range(2) if ctx.wanted[k])
        grad_grad, flow_grad, input_grad = (*pull_back(wanted), None)[:3]
        return grad_grad, input_grad, flow_grad, None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        grad, input, flow = ctx.saved_tensors
        pairs = [(grad, tangents[0]), (flow, tangents[2])]
        if input is not None:
            pairs.append((input, tangents[1]))
        along = tuple(torch.zeros_like(p) if t is None else t for p, t in pairs)
        primals = tuple(p for p, _ in pairs)
        # Forward mode does not nest, but the transpose of a transpose does.
        output, pull_back = torch.func.vjp(_FlowWarpBackward._formula(ctx), *primals)
        zeros = tuple(torch.zeros_like(o) for o in output)
        _, push_forward = torch.func.vjp(lambda *o: pull_back(o), *zeros)
        each = iter(push_forward(along))
        return tuple(next(each) if want else grad.new_empty(0) for want in ctx.wanted)

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


class _Corners:
    """The four corners that each pixel reads, in differentiable torch operators.

    Their weights are polynomials of the displacement within a cell, so derivatives of
    any order are those of the cell that the floor of the displacement names.
    """

    def __init__(self, image: Tensor, flow: Tensor, flow_scale: float) -> None:
        self.shape = image.shape
        height, width = image.shape[2:]
        self.dtype = torch.promote_types(image.dtype, torch.float32)
        self.flow_scale = flow_scale
        device = flow.device
        u, v = (flow_scale * flow.to(self.dtype)).unbind(1)
        self.undefined = u.isnan() | v.isnan()
        # Floors as numbers: those that lie outside any image are never converted.
        floor_u, floor_v = u.detach().floor(), v.detach().floor()
        cols = torch.arange(width, device=device)
        rows = torch.arange(height, device=device)[:, None]
        limit = 2.0**62
        near = (floor_u.abs() < limit) & (floor_v.abs() < limit)
        self.col = cols + torch.where(near, floor_u, 0).long()
        self.row = rows + torch.where(near, floor_v, 0).long()
        self.inside = near & (self.row >= -1) & (self.row < height)
        self.inside = self.inside & (self.col >= -1) & (self.col < width)
        # Before the subtraction, so that no gradient of inf - inf is formed.
        self.fx = torch.where(self.inside, u, 0) - torch.where(self.inside, floor_u, 0)
        self.fy = torch.where(self.inside, v, 0) - torch.where(self.inside, floor_v, 0)

    def weights(self) -> list[Tensor]:
        """Of corner k = 2 * (lower row) + (right column), each [B, H, W]."""
        fx, fy = self.fx, self.fy
        return [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]

    def slopes(self, flow_tangent: Tensor) -> list[Tensor]:
        """How fast the weights change where the flow moves along the tangent."""
        fx, fy = self.fx, self.fy
        u, v = (self.flow_scale * flow_tangent.to(self.dtype)).unbind(1)
        return [
            -(1 - fy) * u - (1 - fx) * v,
            (1 - fy) * u - fx * v,
            -fy * u + (1 - fx) * v,
            fy * u + fx * v,
        ]

    def _corner(self, k: int) -> tuple[Tensor, Tensor]:
        """Where corner k lies in the flattened image, and whether it is inside."""
        height, width = self.shape[2:]
        row, col = self.row + (k >> 1), self.col + (k & 1)
        valid = self.inside & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        return torch.where(valid, row * width + col, 0).flatten(1), valid

    def read(self, image: Tensor, k: int) -> Tensor:
        """The values [B, C, H, W] at corner k, 0 outside the image."""
        index, valid = self._corner(k)
        index = index[:, None].expand(-1, self.shape[1], -1)
        values = image.to(self.dtype).flatten(2).gather(2, index)
        return torch.where(valid[:, None], values.view(self.shape), 0)

    def blend(self, image: Tensor, weights: list[Tensor]) -> Tensor:
        """The sum over corners of weight * value; NaN where the flow is."""
        output = torch.zeros_like(image, dtype=self.dtype)
        for k, weight in enumerate(weights):
            value = self.read(image, k)
            unread = (weight[:, None] == 0) & ~value.isfinite()
            output = output + weight[:, None] * torch.where(unread, 0, value)
        return torch.where(self.undefined[:, None], torch.nan, output)

    def pull_back(
        self, grad: Tensor, image: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The first derivatives: the gradients to the image and to the flow."""
        values = grad.to(self.dtype)
        spread = torch.zeros_like(values).flatten(2)
        for k, weight in enumerate(self.weights()):
            index, valid = self._corner(k)
            index = index[:, None].expand(-1, self.shape[1], -1)
            part = torch.where(valid[:, None], weight[:, None] * values, 0)
            spread = spread.scatter_add(2, index, part.flatten(2))
        image_grad = spread.view(self.shape).to(grad.dtype)
        if image is None:
            return image_grad, None
        dot = [(values * self.read(image, k)).sum(1) for k in range(4)]
        slope_u = (1 - self.fy) * (dot[1] - dot[0]) + self.fy * (dot[3] - dot[2])
        slope_v = (1 - self.fx) * (dot[2] - dot[0]) + self.fx * (dot[3] - dot[1])
        flow_grad = self.flow_scale * torch.stack((slope_u, slope_v), 1)
        return image_grad, torch.where(self.undefined[:, None], torch.nan, flow_grad)
