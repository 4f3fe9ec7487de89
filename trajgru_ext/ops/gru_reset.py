"""The first half of a GRU's update whose reset precedes the convolution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only
from trajgru_ext.ops._options import GruOptions, gate_order, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake, operator


@overridable
def gru_reset(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    order: str = "ru",
) -> tuple[Tensor, Tensor]:
    """Compute the update gate, and the state that the reset gate lets through.

    With sigma the logistic function and x_r, x_u (h_r, h_u) the slices of `x_gates`
    (`h_gates`)::

        r = sigma(x_r + h_r)      u = sigma(x_u + h_u)

    The candidate is then a convolution of [x, r * h], and `gru_output` the second half.
    Derivatives and repeatability are as of `gru_gates`.

    Args:
        x_gates: the inputs' part `[B, 2F, H, W]` in float32, float64, bfloat16 or
            float16; any strides, or None for zero.
        h_gates: the state's part, likewise; one of the two must be given.
        h: the old state `[B, F, H, W]`, of the gates' dtype or a higher one.
        order: the slices' order, "ru" or "ur".

    Returns:
        (u, r * h), both `[B, F, H, W]` in the dtype of `h` and the memory format of
        `x_gates` (of `h_gates`, where `x_gates` is None).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or order does not fit.

    Source: Cho et al. 2014 (arXiv 1406.1078); Ballas et al. 2015 (arXiv 1511.06432).

    Examples:
        >>> import torch
        >>> from trajgru_ext import gru_output, gru_reset
        >>> x, h = torch.randn(2, 3, 6, 6), torch.zeros(2, 8, 6, 6)
        >>> of_gates = torch.nn.Conv2d(3 + 8, 2 * 8, 3, padding=1)
        >>> of_candidate = torch.nn.Conv2d(3 + 8, 8, 3, padding=1)
        >>> u, passed = gru_reset(of_gates(torch.cat([x, h], 1)), None, h)
        >>> gru_output(u, of_candidate(torch.cat([x, passed], 1)), h).shape
        torch.Size([2, 8, 6, 6])

    """
    op = "gru_reset"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, h=h)
    r, u = gate_order(op, order, "ru", "ru")
    options = GruOptions(reset_slice=r, update_slice=u)
    halves: tuple[Tensor, Tensor] = _GruReset.call(x_gates, h_gates, h, options)
    return halves


@fake("gru_reset")
def _fake_gru_reset(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
) -> tuple[Tensor, Tensor]:
    _gates.check_operands("gru_reset", x_gates, h_gates, "h", h, 2)
    gates = _gates.leading(x_gates, h_gates)
    return (
        _gates.empty_like_gates(gates, h, 1, h.dtype),
        _gates.empty_like_gates(gates, h, 1, h.dtype),
    )


@fake("gru_reset_backward")
def _fake_gru_reset_backward(
    u_grad: Tensor | None,
    reset_grad: Tensor | None,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
    gates_grad: bool,
    h_grad: bool,
) -> tuple[Tensor, Tensor]:
    lead = _gates.leading(x_gates, h_gates)
    dtype = _gates.gates_dtype(x_gates, h_gates)
    return (
        _gates.empty_like_gates(lead, h, 2, dtype)
        if gates_grad
        else h.new_empty(0, dtype=dtype),
        _gates.empty_like_gates(lead, h, 1, h.dtype) if h_grad else h.new_empty(0),
    )


def gru_reset_formula(options: GruOptions) -> _gates.Formula:
    """The result as a function of the gates' sum and h, in torch operators."""

    def halves(gates: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        order = (options.reset_slice, options.update_slice)
        r, u = _gates.slices(gates, order)
        reset = r.sigmoid() * h.to(gates.dtype)
        return u.sigmoid().to(h.dtype), reset.to(h.dtype)

    return halves


class _GruReset(Function):
    derivative = "gru_reset"

    @staticmethod
    def options_of(numbers: list[float]) -> GruOptions:
        return read(GruOptions, numbers)

    @staticmethod
    def forward(
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        options: GruOptions,
    ) -> tuple[Tensor, Tensor]:
        reset = operator("gru_reset")
        halves: tuple[Tensor, Tensor] = reset(x_gates, h_gates, h, options.numbers())
        return halves

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(
        ctx: Any, u_grad: Tensor | None, reset_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if u_grad is None and reset_grad is None:
            return _GruReset.gradients()
        needs = _GruReset.Arguments(*ctx.needs_input_grad)
        x_gates, h_gates, h = ctx.saved_tensors
        gates_grad, h_grad = _GruResetBackward.call(
            *(u_grad, reset_grad, x_gates, h_gates, h, ctx.options),
            *(needs.x_gates or needs.h_gates, needs.h),
        )
        # The two parts of a sum have the same gradient.
        return _GruReset.gradients(
            x_gates=gates_grad.to(x_gates.dtype) if needs.x_gates else None,
            h_gates=gates_grad.to(h_gates.dtype) if needs.h_gates else None,
            h=h_grad if needs.h else None,
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *along, _ = tangents
        formula = gru_reset_formula(ctx.options)

        def of_both(x_gates: Any, h_gates: Any, h: Tensor) -> tuple[Tensor, ...]:
            return formula(_gates.add_gates(x_gates, h_gates, h), h)

        return _gates.tangents_of(of_both, ctx.saved_tensors, along)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruReset, info, in_dims, args)


class _GruResetBackward(Function):
    @staticmethod
    def forward(
        u_grad: Tensor | None,
        reset_grad: Tensor | None,
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        options: GruOptions,
        gates_grad: bool,
        h_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        tensors = (u_grad, reset_grad, x_gates, h_gates, h)
        backward = operator("gru_reset_backward")
        found: tuple[Tensor, Tensor] = backward(
            *tensors, options.numbers(), gates_grad, h_grad
        )
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options, gates_grad, h_grad = inputs
        ctx.wanted = (gates_grad, h_grad)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def _formula(ctx: Any) -> _gates.Formula:
        formula = gru_reset_formula(ctx.options)

        def first_derivative(
            u_grad: Any, reset_grad: Any, x_gates: Any, h_gates: Any, h: Tensor
        ) -> tuple[Tensor, ...]:
            both = _gates.add_gates(x_gates, h_gates, h)
            gates, h_grad = _gates.pull_back(formula, (both, h), (u_grad, reset_grad))
            assert gates is not None
            gates = gates.to(_gates.gates_dtype(x_gates, h_gates))
            return wanted_only((gates, h_grad), ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        wanted = wanted_only(cotangents, ctx.wanted)
        formula = _GruResetBackward._formula(ctx)
        u_grad, reset_grad, x_gates, h_gates, h = _gates.pull_back(
            formula, ctx.saved_tensors, wanted
        )
        return _GruResetBackward.gradients(
            u_grad=u_grad, reset_grad=reset_grad, x_gates=x_gates, h_gates=h_gates, h=h
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *along, _, _, _ = tangents
        *_, h = tensors = ctx.saved_tensors
        found = _gates.tangents_of(_GruResetBackward._formula(ctx), tensors, along)
        return fill_empty(found, ctx.wanted, h)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruResetBackward, info, in_dims, args)
