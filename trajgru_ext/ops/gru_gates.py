"""The gate update of a GRU whose reset follows the convolution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only, wanted_or_none
from trajgru_ext.ops._options import GruOptions, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake, operator


@overridable
def gru_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    order: str = "run",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state from the gates, the reset following the convolution.

    With sigma the logistic function and x_r, x_u, x_n (h_r, h_u, h_n) the slices of
    `x_gates` (`h_gates`)::

        r = sigma(x_r + h_r)      u = sigma(x_u + h_u)
        n = activation(x_n + r * h_n)
        h' = u * h + (1 - u) * n      (update="keep")
        h' = (1 - u) * h + u * n      (update="replace")

    in one pass over memory. For backward only the arguments are saved.

    Differentiable any number of times in `x_gates`, `h_gates` and `h`, in reverse and
    forward mode, under `torch.func` and `torch.compile`. The same bit for bit for any
    number of threads.

    Args:
        x_gates: the inputs' part `[B, 3F, H, W]` in float32, float64, bfloat16 or
            float16; any strides, or None for zero.
        h_gates: the state's part, likewise; one of the two must be given.
        h: the old state `[B, F, H, W]`. The gates may have a lower dtype (as under
            autocast, which casts nothing here); the arithmetic is that of `h`, and in
            float32 for the two short ones.
        order: the slices' order, a permutation of "run": reset, update, candidate.
        activation: "tanh", "relu" or "leaky_relu".
        negative_slope: of "leaky_relu".
        update: what the update gate multiplies: "keep" the old state, "replace" the
            candidate.
        zoneout_mask: bool or number, of the sizes of `h` or broadcast to them; where it
            is true (not 0) the old value stays: h' = where(mask, h, new).

    Returns:
        h' `[B, F, H, W]` in the dtype of `h` and the memory format of `x_gates`
        (of `h_gates`, where `x_gates` is None).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: HKO-7 (Shi et al. 2017, arXiv 1706.03458).

    Examples:
        >>> import torch
        >>> from trajgru_ext import gru_gates
        >>> x_gates, h_gates = torch.randn(2, 3 * 8, 6, 6), torch.randn(2, 3 * 8, 6, 6)
        >>> gru_gates(x_gates, h_gates, torch.zeros(2, 8, 6, 6)).shape
        torch.Size([2, 8, 6, 6])

    """
    op = "gru_gates"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, h=h)
    options = GruOptions.choose(op, order, activation, negative_slope, update)
    mask = _gates.old_state_mask(op, zoneout_mask, h)
    new_state: Tensor = _GruGates.call(x_gates, h_gates, h, mask, options)
    return new_state


@fake("gru_gates")
def _fake_gru_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
    zoneout_mask: Tensor | None,
) -> Tensor:
    _gates.check_operands("gru_gates", x_gates, h_gates, "h", h, 3)
    return _gates.empty_like_gates(_gates.leading(x_gates, h_gates), h, 1, h.dtype)


@fake("gru_gates_backward")
def _fake_gru_gates_backward(
    grad: Tensor,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
    zoneout_mask: Tensor | None,
    x_gates_grad: bool,
    h_gates_grad: bool,
    h_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    lead = _gates.leading(x_gates, h_gates)

    def gates_like(gates: Tensor | None, want: bool) -> Tensor:
        if gates is None or not want:
            return (h if gates is None else gates).new_empty(0)
        return _gates.empty_like_gates(lead, h, 3, gates.dtype)

    return (
        gates_like(x_gates, x_gates_grad),
        gates_like(h_gates, h_gates_grad),
        _gates.empty_like_gates(lead, h, 1, h.dtype) if h_grad else h.new_empty(0),
    )


def gru_formula(mask: Tensor | None, options: GruOptions) -> _gates.Formula:
    """The update as a function of x_gates, h_gates and h, in torch operators."""

    def candidate(gates: Tensor | None, h: Tensor) -> Tensor:
        return _gates.slices(_gates.add_gates(gates, None, h), options.slices)[2]

    def new_state(
        x_gates: Tensor | None, h_gates: Tensor | None, h: Tensor
    ) -> tuple[Tensor]:
        both = _gates.add_gates(x_gates, h_gates, h)
        r, u, n = _gates.slices(both, options.slices)
        r, u = r.sigmoid(), u.sigmoid()
        if h_gates is not None:
            n = r * candidate(h_gates, h)
            if x_gates is not None:
                n = n + candidate(x_gates, h)
        return (_gates.blend(u, _gates.activate(n, options), h, options, mask),)

    return new_state


class _GruGates(Function):
    derivative = "gru_gates"

    @staticmethod
    def options_of(numbers: list[float]) -> GruOptions:
        return read(GruOptions, numbers)

    @staticmethod
    def forward(
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        options: GruOptions,
    ) -> Tensor:
        update = operator("gru_gates")
        new_state: Tensor = update(x_gates, h_gates, h, options.numbers(), mask)
        return new_state

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = _GruGates.Arguments(*ctx.needs_input_grad)
        wanted = (needs.x_gates, needs.h_gates, needs.h)
        saved = ctx.saved_tensors
        found = _GruGatesBackward.call(grad, *saved, ctx.options, *wanted)
        x_gates, h_gates, h = wanted_or_none(found, wanted)
        return _GruGates.gradients(x_gates=x_gates, h_gates=h_gates, h=h)

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        *tensors, mask = ctx.saved_tensors
        *along, _, _ = tangents
        formula = gru_formula(mask, ctx.options)
        return _gates.tangents_of(formula, tensors, along)[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruGates, info, in_dims, args)


class _GruGatesBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        options: GruOptions,
        x_gates_grad: bool,
        h_gates_grad: bool,
        h_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        backward = operator("gru_gates_backward")
        wanted = (x_gates_grad, h_gates_grad, h_grad)
        found: tuple[Tensor, Tensor, Tensor] = backward(
            grad, x_gates, h_gates, h, options.numbers(), mask, *wanted
        )
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options, x_gates_grad, h_gates_grad, h_grad = inputs
        ctx.wanted = (x_gates_grad, h_gates_grad, h_grad)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative. The mask has none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, list[Tensor | None]]:
        *tensors, mask = ctx.saved_tensors
        return _gates.gradient_of(gru_formula(mask, ctx.options), ctx.wanted), tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _GruGatesBackward._formula(ctx)
        wanted = wanted_only(cotangents, ctx.wanted)
        grad, x_gates, h_gates, h = _gates.pull_back(formula, tensors, wanted)
        return _GruGatesBackward.gradients(
            grad=grad, x_gates=x_gates, h_gates=h_gates, h=h
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _GruGatesBackward._formula(ctx)
        along = _GruGatesBackward.Arguments(*tangents)
        found = _gates.tangents_of(
            formula, tensors, (along.grad, along.x_gates, along.h_gates, along.h)
        )
        return fill_empty(found, ctx.wanted, ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return _gates.in_one_batch(_GruGatesBackward, info, in_dims, args)
