"""The second half of a GRU's update whose reset precedes the convolution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import (
    check_same_dtype,
    check_sizes,
    check_tensors,
)
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only, wanted_or_none
from trajgru_ext.ops._options import GruOptions, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake, operator


@overridable
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

    Examples:
        >>> import torch
        >>> from trajgru_ext import gru_output
        >>> u, candidate = torch.full((1, 1, 1, 1), 0.25), torch.zeros(1, 1, 1, 1)
        >>> gru_output(u, candidate, torch.ones(1, 1, 1, 1))
        tensor([[[[0.2500]]]])

    """
    op = "gru_output"
    check_tensors(op, u=u, candidate=candidate, h=h)
    options = GruOptions.choose(
        op, activation=activation, negative_slope=negative_slope, update=update
    )
    mask = _gates.old_state_mask(op, zoneout_mask, h)
    new_state: Tensor = _GruOutput.call(u, candidate, h, mask, options)
    return new_state


@fake("gru_output")
def _fake_gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    options: Sequence[float],
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
    options: Sequence[float],
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


def gru_output_formula(mask: Tensor | None, options: GruOptions) -> _gates.Formula:
    """The update as a function of u, candidate and h, in torch operators."""

    def new_state(u: Tensor, candidate: Tensor, h: Tensor) -> tuple[Tensor]:
        q = _gates.add_gates(candidate, None, h)
        n = _gates.activate(q, options)
        return (_gates.blend(u.to(q.dtype), n, h, options, mask),)

    return new_state


class _GruOutput(Function):
    derivative = "gru_output"

    @staticmethod
    def options_of(numbers: list[float]) -> GruOptions:
        return read(GruOptions, numbers)

    @staticmethod
    def forward(
        u: Tensor,
        candidate: Tensor,
        h: Tensor,
        mask: Tensor | None,
        options: GruOptions,
    ) -> Tensor:
        update = operator("gru_output")
        new_state: Tensor = update(u, candidate, h, options.numbers(), mask)
        return new_state

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = _GruOutput.Arguments(*ctx.needs_input_grad)
        wanted = (needs.u, needs.candidate, needs.h)
        found = _GruOutputBackward.call(grad, *ctx.saved_tensors, ctx.options, *wanted)
        u, candidate, h = wanted_or_none(found, wanted)
        return _GruOutput.gradients(u=u, candidate=candidate, h=h)

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        *tensors, mask = ctx.saved_tensors
        *along, _, _ = tangents
        formula = gru_output_formula(mask, ctx.options)
        return _gates.tangents_of(formula, tensors, along)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruOutput, info, in_dims, args)


class _GruOutputBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        u: Tensor,
        candidate: Tensor,
        h: Tensor,
        mask: Tensor | None,
        options: GruOptions,
        u_grad: bool,
        candidate_grad: bool,
        h_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        backward = operator("gru_output_backward")
        wanted = (u_grad, candidate_grad, h_grad)
        found: tuple[Tensor, Tensor, Tensor] = backward(
            grad, u, candidate, h, options.numbers(), mask, *wanted
        )
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options, u_grad, candidate_grad, h_grad = inputs
        ctx.wanted = (u_grad, candidate_grad, h_grad)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative. The mask has none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, list[Tensor]]:
        *tensors, mask = ctx.saved_tensors
        formula = gru_output_formula(mask, ctx.options)
        return _gates.gradient_of(formula, ctx.wanted), tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _GruOutputBackward._formula(ctx)
        wanted = wanted_only(cotangents, ctx.wanted)
        grad, u, candidate, h = _gates.pull_back(formula, tensors, wanted)
        return _GruOutputBackward.gradients(grad=grad, u=u, candidate=candidate, h=h)

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _GruOutputBackward._formula(ctx)
        along = _GruOutputBackward.Arguments(*tangents)
        found = _gates.tangents_of(
            formula, tensors, (along.grad, along.u, along.candidate, along.h)
        )
        return fill_empty(found, ctx.wanted, ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruOutputBackward, info, in_dims, args)
