"""A whole ConvLSTM sequence, with or without peepholes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import (
    _conv_lstm_fakes,  # noqa: F401 - registered
    _gates,
    _sequences,
)
from trajgru_ext.ops._arguments import check_optional, check_sizes, check_tensor
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._options import LstmOptions, check_choice
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import operator
from trajgru_ext.ops.lstm_gates import lstm_formula, peephole_weights

# What has a gradient, in the order in which the operator returns it.
_TENSORS = (
    *("inputs", "h", "x_weight", "x_bias", "h_weight", "h_bias"),
    *("c", "w_ci", "w_cf", "w_co"),
)


@overridable
def conv_lstm(
    inputs: Tensor | None,
    h: Tensor | None,
    c: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    peephole: Sequence[Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
    x_dilation: int | Sequence[int] = 1,
    h_dilation: int | Sequence[int] = 1,
    lengths: Tensor | Sequence[int] | None = None,
    steps: int | None = None,
    recompute: str = "none",
) -> tuple[Tensor, Tensor]:
    """Run a ConvLSTM over a sequence.

    For every step, with `*` a convolution that keeps the size, sigma the logistic
    function, x the step's input, W and V the slices of `x_weight` and `h_weight`,
    biases where there are any, and w = 0 without peepholes::

        i = sigma(W_i * x + V_i * h + w_ci c)
        f = sigma(W_f * x + V_f * h + w_cf c + forget_bias)
        g = tanh(W_g * x + V_g * h)
        c' = f c + i g
        o = sigma(W_o * x + V_o * h + w_co c')
        h' = o tanh(c')

    The convolution of the inputs is computed for all steps at once. A published weight
    over [x, h] is given as its two parts, `weight[:, :C]` and `weight[:, C:]`, and its
    bias as one of the two. Backwards in time, a layer reads `inputs.flip(0)`, and its
    outputs are flipped again.

    Differentiable in all tensors any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`. On the CPU all results
    are the same bit for bit for any number of threads.

    Args:
        inputs: `[T, B, C, H, W]` in float32, float64, bfloat16 or float16; or None, and
            the terms of x vanish.
        h: the state before the first step, `[B, F, H, W]` in the same dtype; None is
            0, and spares the first step's convolution. `inputs` or `h` must be given.
        c: the cell state before the first step, likewise; under autocast in its dtype,
            too.
        x_weight: `[4F, C, k, k]`, k odd. None without inputs.
        h_weight: `[4F, F, k, k]`, k odd and perhaps another.
        x_bias: `[4F]` or None.
        h_bias: likewise.
        peephole: (w_ci, w_cf, w_co), each `[1, F, H, W]` or each `[1, F, 1, 1]`.
        order: the slices' order, a permutation of "ifog", g being the candidate.
        forget_bias: added in the forget gate.
        x_dilation: of the inputs' convolution, one number or two (height, width).
        h_dilation: of the state's.
        lengths: how many steps each sample has, `[B]`; past them its states stay as
            they are, and what the inputs hold there does not matter.
        steps: T; may be left out where there are inputs.
        recompute: what the backward pass computes again to save memory: "none"; "gates"
            keeps only the states.

    Returns:
        The states h after every step, `[T, B, F, H, W]`, in the memory format of a step
        of `inputs` (of `h` without any), and the last cell state, `[B, F, H, W]`, in
        that of `c` (where None, contiguous).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: Shi et al. 2015 (arXiv 1506.04214), equation 3.

    Examples:
        >>> import torch
        >>> from trajgru_ext import conv_lstm
        >>> inputs = torch.randn(5, 2, 3, 12, 12)
        >>> x_weight = torch.randn(4 * 8, 3, 3, 3)
        >>> h_weight = torch.randn(4 * 8, 8, 3, 3)
        >>> outputs, c = conv_lstm(inputs, None, None, x_weight, h_weight)
        >>> outputs.shape, c.shape
        (torch.Size([5, 2, 8, 12, 12]), torch.Size([2, 8, 12, 12]))

    """
    op = "conv_lstm"
    check_tensor(op, "h_weight", h_weight)
    check_optional(op, inputs=inputs, h=h, c=c)
    check_optional(op, x_weight=x_weight, x_bias=x_bias, h_bias=h_bias)
    weights = peephole_weights(op, peephole)
    options = LstmOptions.choose(op, order, forget_bias)
    check_choice(op, "recompute", recompute, _sequences.RECOMPUTE)
    steps = _sequences.number_of_steps(op, inputs, steps)
    dilations = (
        _sequences.check_dilation(op, "x_dilation", x_dilation),
        _sequences.check_dilation(op, "h_dilation", h_dilation),
    )
    if inputs is None:
        x_weight = x_bias = None
    inputs, h, x_weight, x_bias, h_weight, h_bias, c, *peepholes = (
        _sequences.autocast_present(
            inputs, h, x_weight, x_bias, h_weight, h_bias, c, *weights
        )
    )
    check_sizes(op, "h_weight", h_weight, [-1] * 4, h_weight)
    sizes = _sequences.state_sizes(inputs, h, h_weight.shape[1], steps)
    past = _sequences.past_the_end(op, lengths, sizes, h_weight)
    mask = _sequences.old_states_mask(op, None, past, sizes, h_weight)
    inputs = _sequences.without_padding(inputs, past)
    every = (inputs, h, x_weight, x_bias, h_weight, h_bias, c, *peepholes)
    save_cells = _sequences.differentiated(every)
    save = (save_cells, save_cells and recompute == "none")
    outputs, last, *_ = _ConvLstm.call(*every, mask, steps, *dilations, options, *save)
    return outputs, last


def conv_lstm_formula(
    mask: Tensor | None,
    steps: int,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: LstmOptions,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The sequence in torch operators that can be differentiated on."""
    convolve, update = _sequences.convolve, lstm_formula(options)

    def sequence(
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        c: Tensor | None,
        *peephole: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        h = _sequences.or_zero(h, inputs, h_weight.shape[1])
        c = torch.zeros_like(h) if c is None else c
        outputs = []
        for t in range(steps):
            x_gates, h_gates = None, convolve(h, h_weight, h_bias, h_dilation)
            if inputs is not None and x_weight is not None:
                x_gates = convolve(inputs[t], x_weight, x_bias, x_dilation)
            h_new, c_new = update(_gates.add_gates(x_gates, h_gates, c), c, *peephole)
            if mask is not None:
                h_new = torch.where(mask[t], h, h_new)
                c_new = torch.where(mask[t], c, c_new)
            h, c = h_new, c_new
            outputs.append(h)
        return _sequences.stack(outputs, h), c.clone()

    return sequence


class _ConvLstm(Function):
    # torch.compile traces no Function of *args.
    @staticmethod
    def forward(
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        c: Tensor | None,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
        mask: Tensor | None,
        steps: int,
        x_dilation: tuple[int, int],
        h_dilation: tuple[int, int],
        options: LstmOptions,
        save_cells: bool,
        save_gates: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor, Tensor] = operator("conv_lstm")(
            *(inputs, h, x_weight, x_bias, h_weight, h_bias, c, w_ci, w_cf, w_co),
            *(steps, list(x_dilation), list(h_dilation), options.numbers(), mask),
            *(save_cells, save_gates),
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        *tensors, steps, x_dilation, h_dilation, options, _, save_gates = inputs
        ctx.sequence = (steps, x_dilation, h_dilation, options)
        ctx.gates_saved = save_gates
        outputs, _, cells, gates = output
        ctx.mark_non_differentiable(cells, gates)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, outputs, cells, gates)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, c_grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        if grad is None and c_grad is None:
            return _ConvLstm.gradients()
        needs = _ConvLstm.Arguments(*ctx.needs_input_grad)
        wanted = [getattr(needs, name) for name in _TENSORS]
        found = _ConvLstmBackward.call(
            *(grad, c_grad, *ctx.saved_tensors, *ctx.sequence, ctx.gates_saved, wanted)
        )
        named = zip(_TENSORS, wanted_or_none(found, wanted), strict=True)
        return _ConvLstm.gradients(**dict(named))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        formula = conv_lstm_formula(mask, *ctx.sequence)
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        return *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_ConvLstm, info, in_dims, args)


class _ConvLstmBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor | None,
        c_grad: Tensor | None,
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        c: Tensor | None,
        w_ci: Tensor | None,
        w_cf: Tensor | None,
        w_co: Tensor | None,
        mask: Tensor | None,
        outputs: Tensor,
        cells: Tensor,
        gates: Tensor,
        steps: int,
        x_dilation: tuple[int, int],
        h_dilation: tuple[int, int],
        options: LstmOptions,
        gates_saved: bool,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = operator("conv_lstm_backward")(
            *(grad, c_grad, inputs, h, x_weight, x_bias, h_weight, h_bias),
            *(c, w_ci, w_cf, w_co),
            *(list(x_dilation), list(h_dilation), options.numbers(), mask),
            *(outputs, cells, gates, gates_saved, wanted),
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        given = _ConvLstmBackward.Arguments(*inputs)
        ctx.sequence = (given.steps, given.x_dilation, given.h_dilation, given.options)
        ctx.wanted = given.wanted
        each = (getattr(given, name) for name in _TENSORS)
        tensors = (given.grad, given.c_grad, *each, given.mask)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative. The mask has none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, list[Tensor | None]]:
        *tensors, mask = ctx.saved_tensors
        sequence = conv_lstm_formula(mask, *ctx.sequence)

        def first_derivative(
            grad: Tensor | None, c_grad: Tensor | None, *tensors: Tensor | None
        ) -> tuple[Tensor, ...]:
            found = _gates.pull_back(sequence, tensors, (grad, c_grad))
            return wanted_only(found, ctx.wanted)

        return first_derivative, tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        formula, tensors = _ConvLstmBackward._formula(ctx)
        wanted = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, tensors, wanted)
        named = zip(("grad", "c_grad", *_TENSORS), found, strict=True)
        return _ConvLstmBackward.gradients(**dict(named))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _ConvLstmBackward._formula(ctx)
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        like = next(one for one in tensors if one is not None)
        return fill_empty(found, ctx.wanted, like)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_ConvLstmBackward, info, in_dims, args)
