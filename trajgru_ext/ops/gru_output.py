"""The second half of a GRU's update whose reset precedes the convolution."""

from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import (
    check_number,
    check_same_dtype,
    check_sizes,
    check_tensors,
)
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only, wanted_or_none
from trajgru_ext.ops._registry import fake, operator


def gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state from its update gate and its candidate.

    ::

        n = activation(candidate)
        h' = u * h + (1 - u) * n      (update="keep")
        h' = (1 - u) * h + u * n      (update="replace")

    `u` comes from `gru_reset`. Derivatives and repeatability are as of `gru_gates`.

    Args:
        u: the update gate after its sigma, `[B, F, H, W]`, in the dtype of `h`.
        candidate: before its activation, `[B, F, H, W]`, of the dtype of `h` or a
            lower one; any strides.
        h: the old state `[B, F, H, W]` in float32, float64, bfloat16 or float16.
        activation: "tanh", "relu" or "leaky_relu".
        negative_slope: of "leaky_relu".
        update: what the update gate multiplies: "keep" the old state, "replace" the
            candidate.
        zoneout_mask: bool or number, of the sizes of `h` or broadcast to them; where it
            is true (not 0) the old value stays: h' = where(mask, h, new).

    Returns:
        h' `[B, F, H, W]` in the dtype of `h` and the memory format of `candidate`.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: Cho et al. 2014 (arXiv 1406.1078); Ballas et al. 2015 (arXiv 1511.06432).

    """
    op = "gru_output"
    check_tensors(op, u=u, candidate=candidate, h=h)
    _gates.check_choice(op, "activation", activation, _gates.ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)
    _gates.check_choice(op, "update", update, _gates.UPDATES)
    mask = _gates.old_state_mask(op, zoneout_mask, h)
    number = _gates.ACTIVATIONS.index(activation)
    options = (number, float(negative_slope), update == "keep")
    return _GruOutput.call(u, candidate, h, mask, *options)


@fake("gru_output")
def _fake_gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    activation: int,
    negative_slope: float,
    keep: bool,
    zoneout_mask: Tensor | None,
) -> Tensor:
    op = "gru_output"
    check_sizes(op, "h", h, [-1] * 4, h)
    check_sizes(op, "u", u, [-1] * u.dim(), h)
    if u.shape != h.shape:
        raise ValueError(
            f"{op}: u must have the sizes of h, {list(h.shape)}, got {list(u.shape)}"
        )
    check_same_dtype(op, "u", u, h, "h")
    _gates.check_gate_tensor(op, "candidate", candidate, "h", h, 1)
    return _gates.empty_like_gates(candidate, h, 1, h.dtype)


@fake("gru_output_backward")
def _fake_gru_output_backward(
    grad: Tensor,
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    activation: int,
    negative_slope: float,
    keep: bool,
    zoneout_mask: Tensor | None,
    u_grad: bool,
    candidate_grad: bool,
    h_grad: bool,
) -> tuple[Tensor, ...]:
    wanted = (u_grad, candidate_grad, h_grad)
    return tuple(
        _gates.empty_like_gates(candidate, h, 1, like.dtype)
        if want
        else like.new_empty(0)
        for like, want in zip((u, candidate, h), wanted, strict=True)
    )


def gru_output_formula(
    mask: Tensor | None, activation: int, negative_slope: float, keep: bool
) -> _gates.Formula:
    """The update as a function of u, candidate and h, in torch operators."""

    def new_state(u: Tensor, candidate: Tensor, h: Tensor) -> tuple[Tensor]:
        q = _gates.add_gates(candidate, None, h)
        n = _gates.activate(q, activation, negative_slope)
        return (_gates.blend(u.to(q.dtype), n, h, keep, mask),)

    return new_state


class _GruOutput(Function):
    @staticmethod
    def forward(
        u: Tensor,
        candidate: Tensor,
        h: Tensor,
        mask: Tensor | None,
        activation: int,
        negative_slope: float,
        keep: bool,
    ) -> Tensor:
        options = (activation, negative_slope, keep, mask)
        return operator("gru_output")(u, candidate, h, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.options = inputs[4:]
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        saved = ctx.saved_tensors
        found = _GruOutputBackward.call(grad, *saved, *ctx.options, *wanted)
        return *wanted_or_none(found, wanted), None, None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        *tensors, mask = ctx.saved_tensors
        formula = gru_output_formula(mask, *ctx.options)
        return _gates.tangents_of(formula, tensors, tangents[:3])[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return _gates.in_one_batch(_GruOutput, info, in_dims, args, folded=4)


class _GruOutputBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        u: Tensor,
        candidate: Tensor,
        h: Tensor,
        mask: Tensor | None,
        activation: int,
        negative_slope: float,
        keep: bool,
        u_grad: bool,
        candidate_grad: bool,
        h_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        options = (activation, negative_slope, keep, mask)
        wanted = (u_grad, candidate_grad, h_grad)
        backward = operator("gru_output_backward")
        return backward(grad, u, candidate, h, *options, *wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options, ctx.wanted = inputs[5:8], inputs[8:]
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])

    # No kernel is worth it for the second derivative.
    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        gradient = _gates.gradient_of(
            gru_output_formula(mask, *ctx.options), ctx.wanted
        )
        seeds = wanted_only(cotangents, ctx.wanted)
        return *_gates.pull_back(gradient, tensors, seeds), *[None] * 7

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *tensors, mask = ctx.saved_tensors
        gradient = _gates.gradient_of(
            gru_output_formula(mask, *ctx.options), ctx.wanted
        )
        found = _gates.tangents_of(gradient, tensors, tangents[:4])
        return fill_empty(found, ctx.wanted, tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return _gates.in_one_batch(_GruOutputBackward, info, in_dims, args, folded=5)
