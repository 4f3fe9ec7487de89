"""The gate update of an LSTM, with or without peepholes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_number, check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._registry import fake, operator

_PEEPHOLES = 3


def lstm_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    peephole: Sequence[Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute an LSTM's new hidden and cell state from the gates.

    With sigma the logistic function, x_i .. (h_i ..) the slices of `x_gates`
    (`h_gates`), and w = 0 without peepholes::

        i = sigma(x_i + h_i + w_ci * c)
        f = sigma(x_f + h_f + w_cf * c + forget_bias)
        g = tanh(x_g + h_g)
        c' = f * c + i * g
        o = sigma(x_o + h_o + w_co * c')
        h' = o * tanh(c')

    in one pass over memory. For backward only the arguments are kept.

    Differentiable any number of times in all tensors, in reverse and forward mode,
    under `torch.func` and `torch.compile`. The same bit for bit for any number of
    threads, the gradients to the peepholes too.

    Args:
        x_gates: the inputs' part `[B, 4F, H, W]` in float32, float64, bfloat16 or
            float16; any strides, or None for zero.
        h_gates: the state's part, likewise; one of the two must be given.
        c: the old cell state `[B, F, H, W]`. The gates may have a lower dtype (as under
            autocast, which casts nothing here); the arithmetic is that of `c`, and in
            float32 for the two short ones.
        peephole: (w_ci, w_cf, w_co), each `[1, F, H, W]` or each `[1, F, 1, 1]`, in any
            of the dtypes; or None.
        order: the slices' order, a permutation of "ifog", g being the candidate.
        forget_bias: added in the forget gate.

    Returns:
        (h', c'), both `[B, F, H, W]` in the dtype of `c` and the memory format of
        `x_gates` (of `h_gates`, where `x_gates` is None).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: Shi et al. 2015 (arXiv 1506.04214), equation 3.

    """
    op = "lstm_gates"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, c=c)
    weights = peephole_weights(op, peephole)
    slots = _gates.gate_slots(op, order, "ifog", "ifgo")
    check_number(op, "forget_bias", forget_bias)
    return _LstmGates.call(x_gates, h_gates, c, *weights, slots, float(forget_bias))


def peephole_weights(op: str, peephole: Any) -> tuple[Tensor | None, ...]:
    """The three weights, or three times None."""
    if peephole is None:
        return (None,) * _PEEPHOLES
    if not isinstance(peephole, (tuple, list)) or len(peephole) != _PEEPHOLES:
        kind = type(peephole).__name__
        raise ValueError(
            f"{op}: peephole must be three tensors (w_ci, w_cf, w_co), got {kind}"
            + (f" of {len(peephole)}" if isinstance(peephole, (tuple, list)) else "")
        )
    for k, weight in enumerate(peephole):
        check_tensors(op, **{f"peephole[{k}]": weight})
    return tuple(peephole)


def check_peephole(
    op: str, weight: Tensor, first: Tensor, sizes: list[int], beside: Tensor
) -> None:
    """Check one of three weights against the first and the sizes [1, F, H, W]."""
    per_channel = [1, sizes[1], 1, 1]
    check_sizes(op, "peephole", weight, [-1] * weight.dim(), beside)
    if list(weight.shape) not in (sizes, per_channel) or weight.shape != first.shape:
        raise ValueError(
            f"{op}: peephole must be three of [1, F, H, W] = {sizes} or three of "
            f"[1, F, 1, 1], got {list(weight.shape)}"
        )


@fake("lstm_gates")
def _fake_lstm_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    w_ci: Tensor | None,
    w_cf: Tensor | None,
    w_co: Tensor | None,
    slots: Sequence[int],
    forget_bias: float,
) -> tuple[Tensor, Tensor]:
    _gates.check_operands("lstm_gates", x_gates, h_gates, "c", c, 4)
    for weight in (w_ci, w_cf, w_co):
        if weight is not None:
            check_peephole("lstm_gates", weight, w_ci, [1, *c.shape[1:]], c)
    gates = h_gates if x_gates is None else x_gates
    return (
        _gates.empty_like_gates(gates, c, 1, c.dtype),
        _gates.empty_like_gates(gates, c, 1, c.dtype),
    )


@fake("lstm_gates_backward")
def _fake_lstm_gates_backward(
    h_grad: Tensor | None,
    c_grad: Tensor | None,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    w_ci: Tensor | None,
    w_cf: Tensor | None,
    w_co: Tensor | None,
    slots: Sequence[int],
    forget_bias: float,
    gates_grad: bool,
    c_input_grad: bool,
    peephole_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    lead = h_gates if x_gates is None else x_gates
    dtype = _gates.gates_dtype(x_gates, h_gates)

    def like_weight(weight: Tensor | None) -> Tensor:
        if weight is None or not peephole_grad:
            return (c if weight is None else weight).new_empty(0)
        return weight.new_empty(weight.shape)

    return (
        _gates.empty_like_gates(lead, c, 4, dtype)
        if gates_grad
        else c.new_empty(0, dtype=dtype),
        _gates.empty_like_gates(lead, c, 1, c.dtype)
        if c_input_grad
        else c.new_empty(0),
        like_weight(w_ci),
        like_weight(w_cf),
        like_weight(w_co),
    )


def lstm_formula(slots: Sequence[int], forget_bias: float) -> _gates.Formula:
    """The update as a function of the gates' sum and the rest, in torch operators."""

    def new_states(
        gates: Tensor,
        c: Tensor,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        old = c.to(gates.dtype)
        i, f, g, o = _gates.slices(gates, slots)
        if w_ci is not None:
            i, f = i + w_ci.to(old.dtype) * old, f + w_cf.to(old.dtype) * old
        new = (f + forget_bias).sigmoid() * old + i.sigmoid() * g.tanh()
        if w_co is not None:
            o = o + w_co.to(old.dtype) * new
        return (o.sigmoid() * new.tanh()).to(c.dtype), new.to(c.dtype)

    return new_states


class _LstmGates(Function):
    @staticmethod
    def forward(
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        c: Tensor,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
        slots: tuple[int, ...],
        forget_bias: float,
    ) -> tuple[Tensor, Tensor]:
        tensors = (x_gates, h_gates, c, w_ci, w_cf, w_co)
        return operator("lstm_gates")(*tensors, list(slots), forget_bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options = inputs[6:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:6])
        ctx.save_for_forward(*inputs[:6])

    @staticmethod
    def backward(
        ctx: Any, h_grad: Tensor | None, c_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if h_grad is None and c_grad is None:
            return (None,) * 8
        needs = ctx.needs_input_grad
        saved = ctx.saved_tensors
        wanted = (needs[0] or needs[1], needs[2], any(needs[3:6]))
        gates_grad, *others = _LstmGatesBackward.call(
            h_grad, c_grad, *saved, *ctx.options, *wanted
        )
        # The two parts of a sum have the same gradient.
        each = [None if t is None else gates_grad.to(t.dtype) for t in saved[:2]]
        return *wanted_or_none((*each, *others), needs[:6]), None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula = lstm_formula(*ctx.options)

        def of_both(x_gates: Any, h_gates: Any, c: Tensor, *weights: Any) -> Any:
            return formula(_gates.add_gates(x_gates, h_gates, c), c, *weights)

        return _gates.tangents_of(of_both, ctx.saved_tensors, tangents[:6])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        if in_dims[3:6] == (None,) * _PEEPHOLES:
            return _gates.in_one_batch(_LstmGates, info, in_dims, args, folded=3)
        return one_by_one(_LstmGates, info, in_dims, args)


class _LstmGatesBackward(Function):
    @staticmethod
    def forward(
        h_grad: Tensor | None,
        c_grad: Tensor | None,
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        c: Tensor,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
        slots: tuple[int, ...],
        forget_bias: float,
        gates_grad: bool,
        c_input_grad: bool,
        peephole_grad: bool,
    ) -> tuple[Tensor, ...]:
        tensors = (h_grad, c_grad, x_gates, h_gates, c, w_ci, w_cf, w_co)
        wanted = (gates_grad, c_input_grad, peephole_grad)
        backward = operator("lstm_gates_backward")
        return backward(*tensors, list(slots), forget_bias, *wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        gates, c, peephole = inputs[10:]
        ctx.options = inputs[8:10]
        ctx.wanted = (gates, c, *(w is not None and peephole for w in inputs[5:8]))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:8])
        ctx.save_for_forward(*inputs[:8])

    # No kernel is worth it for the second derivative.
    @staticmethod
    def _formula(ctx: Any) -> _gates.Formula:
        formula = lstm_formula(*ctx.options)

        def first_derivative(
            h_grad: Any, c_grad: Any, x_gates: Any, h_gates: Any, c: Any, *weights: Any
        ) -> tuple[Tensor, ...]:
            both = _gates.add_gates(x_gates, h_gates, c)
            tensors, seeds = (both, c, *weights), (h_grad, c_grad)
            gates, *others = _gates.pull_back(formula, tensors, seeds)
            gates = gates.to(_gates.gates_dtype(x_gates, h_gates))
            return wanted_only((gates, *others), ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        seeds = wanted_only(cotangents, ctx.wanted)
        formula = _LstmGatesBackward._formula(ctx)
        return *_gates.pull_back(formula, ctx.saved_tensors, seeds), *[None] * 5

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _LstmGatesBackward._formula(ctx), ctx.saved_tensors
        found = _gates.tangents_of(formula, tensors, tangents[:8])
        return fill_empty(found, ctx.wanted, tensors[4])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        # A gradient to peepholes must not be summed over what vmap maps over.
        if args[5] is None:
            return _gates.in_one_batch(
                _LstmGatesBackward, info, in_dims, args, folded=5
            )
        return one_by_one(_LstmGatesBackward, info, in_dims, args)
