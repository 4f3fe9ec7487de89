"""The gate update of an LSTM, with or without peepholes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_sizes, check_tensor, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._options import LstmOptions, read
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake, operator

_PEEPHOLES = 3


@overridable
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

    in one pass over memory. For backward only the arguments are saved.

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

    Examples:
        >>> import torch
        >>> from trajgru_ext import lstm_gates
        >>> x_gates, h_gates = torch.randn(2, 4 * 8, 6, 6), torch.randn(2, 4 * 8, 6, 6)
        >>> h, c = lstm_gates(x_gates, h_gates, torch.zeros(2, 8, 6, 6))
        >>> h.shape
        torch.Size([2, 8, 6, 6])

    """
    op = "lstm_gates"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, c=c)
    weights = peephole_weights(op, peephole)
    options = LstmOptions.choose(op, order, forget_bias)
    states: tuple[Tensor, Tensor] = _LstmGates.call(
        x_gates, h_gates, c, *weights, options
    )
    return states


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
        check_tensor(op, "peephole", weight, k)
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
    options: Sequence[float],
) -> tuple[Tensor, Tensor]:
    _gates.check_operands("lstm_gates", x_gates, h_gates, "c", c, 4)
    for weight in (w_ci, w_cf, w_co):
        if weight is not None and w_ci is not None:
            check_peephole("lstm_gates", weight, w_ci, [1, *c.shape[1:]], c)
    gates = _gates.leading(x_gates, h_gates)
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
    options: Sequence[float],
    gates_grad: bool,
    c_input_grad: bool,
    peephole_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    lead = _gates.leading(x_gates, h_gates)
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


def lstm_formula(options: LstmOptions) -> _gates.Formula:
    """The update as a function of the gates' sum and the rest, in torch operators."""

    def new_states(
        gates: Tensor,
        c: Tensor,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        old = c.to(gates.dtype)
        i, f, g, o = _gates.slices(gates, options.slices)
        if w_ci is not None:
            i = i + w_ci.to(old.dtype) * old
        if w_cf is not None:
            f = f + w_cf.to(old.dtype) * old
        new = (f + options.forget_bias).sigmoid() * old + i.sigmoid() * g.tanh()
        if w_co is not None:
            o = o + w_co.to(old.dtype) * new
        return (o.sigmoid() * new.tanh()).to(c.dtype), new.to(c.dtype)

    return new_states


class _LstmGates(Function):
    derivative = "lstm_gates"

    @staticmethod
    def options_of(numbers: list[float]) -> LstmOptions:
        return read(LstmOptions, numbers)

    @staticmethod
    def forward(
        x_gates: Tensor | None,
        h_gates: Tensor | None,
        c: Tensor,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
        options: LstmOptions,
    ) -> tuple[Tensor, Tensor]:
        tensors = (x_gates, h_gates, c, w_ci, w_cf, w_co)
        states: tuple[Tensor, Tensor] = operator("lstm_gates")(
            *tensors, options.numbers()
        )
        return states

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(
        ctx: Any, h_grad: Tensor | None, c_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if h_grad is None and c_grad is None:
            return _LstmGates.gradients()
        needs = _LstmGates.Arguments(*ctx.needs_input_grad)
        x_gates, h_gates, *_ = saved = ctx.saved_tensors
        to_weights = (needs.w_ci, needs.w_cf, needs.w_co)
        gates_grad, c, *weights = _LstmGatesBackward.call(
            *(h_grad, c_grad, *saved, ctx.options),
            *(needs.x_gates or needs.h_gates, needs.c, any(to_weights)),
        )
        w_ci, w_cf, w_co = wanted_or_none(weights, to_weights)
        # The two parts of a sum have the same gradient.
        return _LstmGates.gradients(
            x_gates=gates_grad.to(x_gates.dtype) if needs.x_gates else None,
            h_gates=gates_grad.to(h_gates.dtype) if needs.h_gates else None,
            c=c if needs.c else None,
            w_ci=w_ci,
            w_cf=w_cf,
            w_co=w_co,
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *along, _ = tangents
        formula = lstm_formula(ctx.options)

        def of_both(x_gates: Any, h_gates: Any, c: Tensor, *weights: Any) -> Any:
            return formula(_gates.add_gates(x_gates, h_gates, c), c, *weights)

        return _gates.tangents_of(of_both, ctx.saved_tensors, along)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        mapped = _LstmGates.Arguments(*in_dims)
        if mapped.w_ci is mapped.w_cf is mapped.w_co is None:
            shared = ("w_ci", "w_cf", "w_co")
            return _gates.in_one_batch(_LstmGates, info, in_dims, args, shared)
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
        options: LstmOptions,
        gates_grad: bool,
        c_input_grad: bool,
        peephole_grad: bool,
    ) -> tuple[Tensor, ...]:
        tensors = (h_grad, c_grad, x_gates, h_gates, c, w_ci, w_cf, w_co)
        wanted = (gates_grad, c_input_grad, peephole_grad)
        backward = operator("lstm_gates_backward")
        found: tuple[Tensor, ...] = backward(*tensors, options.numbers(), *wanted)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.options, gates, c, peephole = inputs
        *_, w_ci, w_cf, w_co = tensors
        weights = (w is not None and peephole for w in (w_ci, w_cf, w_co))
        ctx.wanted = (gates, c, *weights)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative.
    @staticmethod
    def _formula(ctx: Any) -> _gates.Formula:
        formula = lstm_formula(ctx.options)

        def first_derivative(
            h_grad: Any, c_grad: Any, x_gates: Any, h_gates: Any, c: Any, *weights: Any
        ) -> tuple[Tensor, ...]:
            both = _gates.add_gates(x_gates, h_gates, c)
            tensors = (both, c, *weights)
            gates, *others = _gates.pull_back(formula, tensors, (h_grad, c_grad))
            assert gates is not None
            gates = gates.to(_gates.gates_dtype(x_gates, h_gates))
            return wanted_only((gates, *others), ctx.wanted)

        return first_derivative

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = wanted_only(cotangents, ctx.wanted)
        formula = _LstmGatesBackward._formula(ctx)
        found = _gates.pull_back(formula, ctx.saved_tensors, wanted)
        h_grad, c_grad, x_gates, h_gates, c, w_ci, w_cf, w_co = found
        return _LstmGatesBackward.gradients(
            h_grad=h_grad,
            c_grad=c_grad,
            x_gates=x_gates,
            h_gates=h_gates,
            c=c,
            w_ci=w_ci,
            w_cf=w_cf,
            w_co=w_co,
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        *along, _, _, _, _ = tangents
        tensors = ctx.saved_tensors
        found = _gates.tangents_of(_LstmGatesBackward._formula(ctx), tensors, along)
        *_, c, _, _, _ = tensors
        return fill_empty(found, ctx.wanted, c)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        # A gradient to peepholes must not be summed over what vmap maps over.
        if _LstmGatesBackward.Arguments(*args).w_ci is None:
            return _gates.in_one_batch(_LstmGatesBackward, info, in_dims, args)
        return one_by_one(_LstmGatesBackward, info, in_dims, args)
