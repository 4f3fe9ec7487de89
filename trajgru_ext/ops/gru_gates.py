"""The gate update of a GRU whose reset follows the convolution."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_number, check_tensors
from trajgru_ext.ops._autograd import Function, fill_empty, wanted_only, wanted_or_none
from trajgru_ext.ops._registry import fake, operator


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

    in one pass over memory. For backward only the arguments are kept.

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

    """
    op = "gru_gates"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, h=h)
    slots = _gates.gate_slots(op, order, "run", "run")
    _gates.check_choice(op, "activation", activation, _gates.ACTIVATIONS)
    check_number(op, "negative_slope", negative_slope)
    _gates.check_choice(op, "update", update, _gates.UPDATES)
    mask = _gates.old_state_mask(op, zoneout_mask, h)
    number = _gates.ACTIVATIONS.index(activation)
    options = (slots, number, float(negative_slope), update == "keep")
    return _GruGates.call(x_gates, h_gates, h, mask, *options)


@fake("gru_gates")
def _fake_gru_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    slots: Sequence[int],
    activation: int,
    negative_slope: float,
    keep: bool,
    zoneout_mask: Tensor | None,
) -> Tensor:
    _gates.check_operands("gru_gates", x_gates, h_gates, "h", h, 3)
    gates = h_gates if x_gates is None else x_gates
    return _gates.empty_like_gates(gates, h, 1, h.dtype)


@fake("gru_gates_backward")
def _fake_gru_gates_backward(
    grad: Tensor,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    slots: Sequence[int],
    activation: int,
    negative_slope: float,
    keep: bool,
    zoneout_mask: Tensor | None,
    x_gates_grad: bool,
    h_gates_grad: bool,
    h_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    lead = h_gates if x_gates is None else x_gates

    def gates_like(gates: Tensor | None, want: bool) -> Tensor:
        if gates is None or not want:
            return (h if gates is None else gates).new_empty(0)
        return _gates.empty_like_gates(lead, h, 3, gates.dtype)

    return (
        gates_like(x_gates, x_gates_grad),
        gates_like(h_gates, h_gates_grad),
        _gates.empty_like_gates(lead, h, 1, h.dtype) if h_grad else h.new_empty(0),
    )


def gru_formula(
    mask: Tensor | None,
    slots: Sequence[int],
    activation: int,
    negative_slope: float,
    keep: bool,
) -> _gates.Formula:
    """The update as a function of x_gates, h_gates and h, in torch operators."""

    def new_state(
        x_gates: Tensor | None, h_gates: Tensor | None, h: Tensor
    ) -> tuple[Tensor]:
        both = _gates.add_gates(x_gates, h_gates, h)
        r, u, n = _gates.slices(both, slots)
        r, u = r.sigmoid(), u.sigmoid()
        if h_gates is not None:
            m = _gates.slices(_gates.add_gates(None, h_gates, h), slots)[2]
            n = r * m
            if x_gates is not None:
                n = n + _gates.slices(_gates.add_gates(x_gates, None, h), slots)[2]
        n = _gates.activate(n, activation, negative_slope)
        return (_gates.blend(u, n, h, keep, mask),)

    return new_state


class _GruGates(Function):
    @staticmethod
    def forward(
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        slots: tuple[int, ...],
        activation: int,
        negative_slope: float,
        keep: bool,
    ) -> Tensor:
        options = (list(slots), activation, negative_slope, keep)
        return operator("gru_gates")(x_gates, h_gates, h, *options, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.options = inputs[4:]
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        saved = ctx.saved_tensors
        found = _GruGatesBackward.call(grad, *saved, *ctx.options, *wanted)
        return *wanted_or_none(found, wanted), None, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> Tensor:
        *tensors, mask = ctx.saved_tensors
        formula = gru_formula(mask, *ctx.options)
        return _gates.tangents_of(formula, tensors, tangents[:3])[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        return _gates.in_one_batch(_GruGates, info, in_dims, args, folded=4)


class _GruGatesBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        h: Tensor,
        mask: Tensor | None,
        slots: tuple[int, ...],
        activation: int,
        negative_slope: float,
        keep: bool,
        x_gates_grad: bool,
        h_gates_grad: bool,
        h_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        options = (list(slots), activation, negative_slope, keep, mask)
        wanted = (x_gates_grad, h_gates_grad, h_grad)
        backward = operator("gru_gates_backward")
        return backward(grad, x_gates, h_gates, h, *options, *wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options, ctx.wanted = inputs[5:9], inputs[9:]
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])

    # No kernel is worth it for the second derivative.
    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        gradient = _gates.gradient_of(gru_formula(mask, *ctx.options), ctx.wanted)
        seeds = wanted_only(cotangents, ctx.wanted)
        return *_gates.pull_back(gradient, tensors, seeds), *[None] * 8

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *tensors, mask = ctx.saved_tensors
        gradient = _gates.gradient_of(gru_formula(mask, *ctx.options), ctx.wanted)
        found = _gates.tangents_of(gradient, tensors, tangents[:4])
        return fill_empty(found, ctx.wanted, tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return _gates.in_one_batch(_GruGatesBackward, info, in_dims, args, folded=5)
