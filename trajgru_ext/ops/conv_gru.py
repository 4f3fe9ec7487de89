"""A whole ConvGRU sequence, the reset after or before the convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import (
    _conv_gru_fakes,  # noqa: F401 - registered
    _gates,
    _sequences,
)
from trajgru_ext.ops._arguments import check_sizes, check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._registry import operator
from trajgru_ext.ops.gru_gates import gru_formula

RESETS = ("after", "before")


def conv_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    order: str = "run",
    reset: str = "after",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    x_dilation: int | Sequence[int] = 1,
    h_dilation: int | Sequence[int] = 1,
    zoneout_mask: Tensor | None = None,
    lengths: Tensor | Sequence[int] | None = None,
    steps: int | None = None,
    recompute: str = "none",
) -> Tensor:
    """Run a ConvGRU over a sequence.

    For every step, with `*` a convolution that keeps the size, sigma the logistic
    function, act the activation, x the step's input, W and V the slices of `x_weight`
    and `h_weight`, and biases where there are any::

        r = sigma(W_r * x + V_r * h)      u = sigma(W_u * x + V_u * h)
        n = act(W_n * x + r (V_n * h))    (reset="after")
        n = act(W_n * x + V_n * (r h))    (reset="before")
        h' = u h + (1 - u) n              (update="keep")
        h' = (1 - u) h + u n              (update="replace")

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
            0, and spares the first step's convolution. One of the two must be given.
        x_weight: `[3F, C, k, k]`, k odd. None without inputs.
        h_weight: `[3F, F, k, k]`, k odd and perhaps another.
        x_bias: `[3F]` or None.
        h_bias: likewise, inside the reset where that comes after the convolution.
        order: the slices' order, a permutation of "run": reset, update, candidate.
        reset: whether the reset gate comes "after" or "before" the convolution of the
            state.
        activation: "tanh", "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", at least 0.
        update: what the update gate multiplies: "keep" the old state, "replace" the
            candidate.
        x_dilation: of the inputs' convolution, one number or two (height, width).
        h_dilation: of the state's.
        zoneout_mask: bool or number, broadcast to `[T, B, F, H, W]`; where it is true
            (not 0) the old value stays.
        lengths: how many steps each sample has, `[B]`; past them its state stays as it
            is, and what the inputs hold there does not matter.
        steps: T; may be left out where there are inputs.
        recompute: what the backward pass computes again to save memory: "none"; "gates"
            keeps only the states.

    Returns:
        The states after every step, `[T, B, F, H, W]`, in the memory format of a step
        of `inputs` (of `h` without any).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: reset after the convolution: HKO-7 (Shi et al. 2017, arXiv 1706.03458);
    before: Ballas et al. 2015 (arXiv 1511.06432).

    """
    op = "conv_gru"
    tensors = {"inputs": inputs, "h": h, "x_weight": x_weight, "x_bias": x_bias}
    tensors["h_bias"] = h_bias
    given = {name: t for name, t in tensors.items() if t is not None}
    check_tensors(op, h_weight=h_weight, **given)
    slots = _gates.gate_slots(op, order, "run", "run")
    _gates.check_choice(op, "reset", reset, RESETS)
    _gates.check_choice(op, "activation", activation, _gates.ACTIVATIONS)
    _gates.check_slope(op, negative_slope)
    _gates.check_choice(op, "update", update, _gates.UPDATES)
    _gates.check_choice(op, "recompute", recompute, _sequences.RECOMPUTE)
    steps = _sequences.number_of_steps(op, inputs, steps)
    dilation = (
        *_sequences.check_dilation(op, "x_dilation", x_dilation),
        *_sequences.check_dilation(op, "h_dilation", h_dilation),
    )
    if inputs is None:
        x_weight = x_bias = None
    parameters = [x_weight, x_bias, h_weight, h_bias]
    if reset == "before" and slots[2] == 1:
        parameters = [_candidate_last(t, slots) for t in parameters]
        slots = (0, 1, 2)
    parameters = _sequences.autocast_present(inputs, h, *parameters)
    inputs, h, *parameters = parameters
    check_sizes(op, "h_weight", parameters[2], [-1] * 4, parameters[2])
    sizes = _sequences.state_sizes(inputs, h, parameters[2].shape[1], steps)
    past = _sequences.past_the_end(op, lengths, sizes, parameters[2])
    mask = _sequences.old_states_mask(op, zoneout_mask, past, sizes, parameters[2])
    inputs = _sequences.without_padding(inputs, past)
    kept = recompute == "none" and _sequences.differentiated((inputs, h, *parameters))
    number = _gates.ACTIVATIONS.index(activation)
    options = (number, float(negative_slope), update == "keep")
    outputs, *_ = _ConvGru.call(
        *(inputs, h, mask, *parameters),
        *(steps, dilation, slots, reset == "before", *options, kept),
    )
    return outputs


def _candidate_last(tensor: Tensor | None, slots: Sequence[int]) -> Tensor | None:
    """The slices in the order r, u, n, those of reset and update gate together."""
    if tensor is None or tensor.dim() == 0 or tensor.shape[0] % 3:
        return tensor  # which the operator refuses
    slices = tensor.chunk(3)
    return torch.cat([slices[slot] for slot in slots])


def conv_gru_formula(
    mask: Tensor | None,
    steps: int,
    dilation: Sequence[int],
    slots: Sequence[int],
    reset_before: bool,
    activation: int,
    negative_slope: float,
    keep: bool,
) -> Callable[..., tuple[Tensor]]:
    """The sequence in torch operators that can be differentiated on."""
    convolve = _sequences.convolve

    def reset_after(
        x_gates: Tensor | None, h: Tensor, conv: tuple, kept: Tensor | None
    ) -> Tensor:
        h_gates = convolve(h, *conv, dilation[2:])
        options = (kept, slots, activation, negative_slope, keep)
        return gru_formula(*options)(x_gates, h_gates, h)[0]

    def reset_first(
        x_gates: Tensor | None, h: Tensor, conv: tuple, kept: Tensor | None
    ) -> Tensor:
        weight, bias = ([None] * 3 if t is None else t.chunk(3) for t in conv)
        x_parts = [None] * 3 if x_gates is None else x_gates.chunk(3, 1)

        def gate(slot: int, state: Tensor) -> Tensor:
            part = convolve(state, weight[slot], bias[slot], dilation[2:])
            return _gates.add_gates(x_parts[slot], part, h)

        r, u = (gate(slot, h).sigmoid() for slot in slots[:2])
        n = gate(slots[2], (r * h.to(r.dtype)).to(h.dtype))
        n = _gates.activate(n, activation, negative_slope)
        return _gates.blend(u, n, h, keep, kept)

    step = reset_first if reset_before else reset_after

    def sequence(
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
    ) -> tuple[Tensor]:
        if h is None:
            _, batch, _, *size = inputs.shape
            h = inputs.new_zeros(batch, h_weight.shape[1], *size)
        outputs = []
        for t in range(steps):
            x_gates = None
            if inputs is not None:
                x_gates = convolve(inputs[t], x_weight, x_bias, dilation[:2])
            kept = None if mask is None else mask[t]
            h = step(x_gates, h, (h_weight, h_bias), kept)
            outputs.append(h)
        return (_sequences.stack(outputs, h),)

    return sequence


class _ConvGru(Function):
    # torch.compile traces no Function of *args.
    @staticmethod
    def forward(
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        steps: int,
        dilation: tuple[int, ...],
        slots: tuple[int, ...],
        reset_before: bool,
        activation: int,
        negative_slope: float,
        keep: bool,
        kept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (inputs, h, x_weight, x_bias, h_weight, h_bias)
        choices = (reset_before, activation, negative_slope, keep, mask)
        options = (steps, list(dilation), list(slots), *choices, kept)
        return operator("conv_gru")(*tensors, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options = inputs[7:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:7], *output)
        ctx.save_for_forward(*inputs[:7])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 15
        needs = ctx.needs_input_grad
        wanted = (*needs[:2], *needs[3:7])
        options = (*ctx.options, list(wanted))
        found = _ConvGruBackward.call(grad, *ctx.saved_tensors, *options)
        to_inputs, to_h, *others = wanted_or_none(found, wanted)
        return to_inputs, to_h, None, *others, *[None] * 8

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        inputs, h, mask, *parameters = ctx.saved_tensors
        formula = conv_gru_formula(mask, *ctx.options[:7])
        along = (*tangents[:2], *tangents[3:7])
        found = _gates.tangents_of(formula, (inputs, h, *parameters), along)
        return *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return one_by_one(_ConvGru, info, in_dims, args)


class _ConvGruBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        outputs: Tensor,
        gates: Tensor,
        candidates: Tensor,
        steps: int,
        dilation: tuple[int, ...],
        slots: tuple[int, ...],
        reset_before: bool,
        activation: int,
        negative_slope: float,
        keep: bool,
        kept: bool,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        tensors = (grad, inputs, h, x_weight, x_bias, h_weight, h_bias)
        choices = (reset_before, activation, negative_slope, keep, mask)
        left = (outputs, gates, candidates, kept)
        backward = operator("conv_gru_backward")
        return backward(*tensors, list(dilation), list(slots), *choices, *left, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options, ctx.wanted = inputs[11:18], inputs[19]
        ctx.save_for_backward(*inputs[:8])
        ctx.save_for_forward(*inputs[:8])

    # No kernel is worth it for the second derivative. The mask has none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, tuple[Tensor | None, ...]]:
        grad, inputs, h, mask, *parameters = ctx.saved_tensors
        sequence = conv_gru_formula(mask, *ctx.options)
        first_derivative = _gates.gradient_of(sequence, ctx.wanted)
        return first_derivative, (grad, inputs, h, *parameters)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _ConvGruBackward._formula(ctx)
        seeds = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, tensors, seeds)
        return *found[:3], None, *found[3:], *[None] * 12

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _ConvGruBackward._formula(ctx)
        along = (*tangents[:3], *tangents[4:8])
        found = _gates.tangents_of(formula, tensors, along)
        return fill_empty(found, ctx.wanted, tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return one_by_one(_ConvGruBackward, info, in_dims, args)
