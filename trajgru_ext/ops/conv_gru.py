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
from trajgru_ext.ops._arguments import check_optional, check_sizes, check_tensor
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._options import GruOptions, check_choice, check_slope
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import operator
from trajgru_ext.ops._sequences import Conv
from trajgru_ext.ops.gru_gates import gru_formula


@overridable
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

    Examples:
        >>> import torch
        >>> from trajgru_ext import conv_gru
        >>> inputs = torch.randn(5, 2, 3, 12, 12)
        >>> x_weight = torch.randn(3 * 8, 3, 3, 3)
        >>> h_weight = torch.randn(3 * 8, 8, 3, 3)
        >>> conv_gru(inputs, None, x_weight, h_weight).shape
        torch.Size([5, 2, 8, 12, 12])

    """
    op = "conv_gru"
    check_tensor(op, "h_weight", h_weight)
    check_optional(op, inputs=inputs, h=h)
    check_optional(op, x_weight=x_weight, x_bias=x_bias, h_bias=h_bias)
    options = GruOptions.choose(op, order, activation, negative_slope, update, reset)
    check_slope(op, negative_slope)
    check_choice(op, "recompute", recompute, _sequences.RECOMPUTE)
    steps = _sequences.number_of_steps(op, inputs, steps)
    dilations = (
        _sequences.check_dilation(op, "x_dilation", x_dilation),
        _sequences.check_dilation(op, "h_dilation", h_dilation),
    )
    if inputs is None:
        x_weight = x_bias = None
    if options.reset_before and options.candidate_slice == 1:
        x_weight, x_bias, h_weight, h_bias = (
            _candidate_last(t, options) for t in (x_weight, x_bias, h_weight, h_bias)
        )
        options = options._replace(reset_slice=0, update_slice=1, candidate_slice=2)
    inputs, h, x_weight, x_bias, h_weight, h_bias = _sequences.autocast_present(
        inputs, h, x_weight, x_bias, h_weight, h_bias
    )
    check_sizes(op, "h_weight", h_weight, [-1] * 4, h_weight)
    sizes = _sequences.state_sizes(inputs, h, h_weight.shape[1], steps)
    past = _sequences.past_the_end(op, lengths, sizes, h_weight)
    mask = _sequences.old_states_mask(op, zoneout_mask, past, sizes, h_weight)
    inputs = _sequences.without_padding(inputs, past)
    every = (inputs, h, x_weight, x_bias, h_weight, h_bias)
    save_gates = recompute == "none" and _sequences.differentiated(every)
    outputs: Tensor
    outputs, *_ = _ConvGru.call(*every, mask, steps, *dilations, options, save_gates)
    return outputs


def _candidate_last(tensor: Any, options: GruOptions) -> Any:
    """The slices in the order r, u, n, those of reset and update gate together."""
    if tensor is None or tensor.dim() == 0 or tensor.shape[0] % 3:
        return tensor  # which the operator refuses
    slices = tensor.chunk(3)
    return torch.cat([slices[place] for place in options.slices])


def conv_gru_formula(
    mask: Tensor | None,
    steps: int,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: GruOptions,
) -> Callable[..., tuple[Tensor]]:
    """The sequence in torch operators that can be differentiated on."""
    convolve = _sequences.convolve

    def reset_after(
        x_gates: Tensor | None, h: Tensor, conv: Conv, zoneout: Tensor | None
    ) -> Tensor:
        h_gates = convolve(h, *conv, h_dilation)
        return gru_formula(zoneout, options)(x_gates, h_gates, h)[0]

    def reset_first(
        x_gates: Tensor | None, h: Tensor, conv: Conv, zoneout: Tensor | None
    ) -> Tensor:
        weights = conv.weight.chunk(3)
        biases = [None] * 3 if conv.bias is None else conv.bias.chunk(3)
        x_parts = [None] * 3 if x_gates is None else x_gates.chunk(3, 1)

        def gate(place: int, state: Tensor) -> Tensor:
            part = convolve(state, weights[place], biases[place], h_dilation)
            return _gates.add_gates(x_parts[place], part, h)

        r = gate(options.reset_slice, h).sigmoid()
        u = gate(options.update_slice, h).sigmoid()
        n = gate(options.candidate_slice, (r * h.to(r.dtype)).to(h.dtype))
        n = _gates.activate(n, options)
        return _gates.blend(u, n, h, options, zoneout)

    step = reset_first if options.reset_before else reset_after

    def sequence(
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
    ) -> tuple[Tensor]:
        h = _sequences.or_zero(h, inputs, h_weight.shape[1])
        outputs = []
        for t in range(steps):
            x_gates = None
            if inputs is not None and x_weight is not None:
                x_gates = convolve(inputs[t], x_weight, x_bias, x_dilation)
            zoneout = None if mask is None else mask[t]
            h = step(x_gates, h, Conv(h_weight, h_bias), zoneout)
            outputs.append(h)
        return (_sequences.stack(outputs, h),)

    return sequence


class _ConvGru(Function):
    # torch.compile traces no Function of *args.
    @staticmethod
    def forward(
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        mask: Tensor | None,
        steps: int,
        x_dilation: tuple[int, int],
        h_dilation: tuple[int, int],
        options: GruOptions,
        save_gates: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = operator("conv_gru")(
            *(inputs, h, x_weight, x_bias, h_weight, h_bias, steps),
            *(list(x_dilation), list(h_dilation), options.numbers(), mask, save_gates),
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        *tensors, steps, x_dilation, h_dilation, options, save_gates = inputs
        ctx.sequence = (steps, x_dilation, h_dilation, options)
        ctx.gates_saved = save_gates
        _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return _ConvGru.gradients()
        needs = _ConvGru.Arguments(*ctx.needs_input_grad)
        wanted = [needs.inputs, needs.h, needs.x_weight, needs.x_bias]
        wanted += [needs.h_weight, needs.h_bias]
        found = _ConvGruBackward.call(
            grad, *ctx.saved_tensors, *ctx.sequence, ctx.gates_saved, wanted
        )
        inputs, h, x_weight, x_bias, h_weight, h_bias = wanted_or_none(found, wanted)
        return _ConvGru.gradients(
            inputs=inputs,
            h=h,
            x_weight=x_weight,
            x_bias=x_bias,
            h_weight=h_weight,
            h_bias=h_bias,
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        *tensors, mask = ctx.saved_tensors
        formula = conv_gru_formula(mask, *ctx.sequence)
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        return *found, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_ConvGru, info, in_dims, args)


class _ConvGruBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        inputs: Tensor | None,
        h: Tensor | None,
        x_weight: Tensor | None,
        x_bias: Tensor | None,
        h_weight: Tensor,
        h_bias: Tensor | None,
        mask: Tensor | None,
        outputs: Tensor,
        gates: Tensor,
        candidates: Tensor,
        steps: int,
        x_dilation: tuple[int, int],
        h_dilation: tuple[int, int],
        options: GruOptions,
        gates_saved: bool,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = operator("conv_gru_backward")(
            *(grad, inputs, h, x_weight, x_bias, h_weight, h_bias),
            *(list(x_dilation), list(h_dilation), options.numbers(), mask),
            *(outputs, gates, candidates, gates_saved, wanted),
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        given = _ConvGruBackward.Arguments(*inputs)
        ctx.sequence = (given.steps, given.x_dilation, given.h_dilation, given.options)
        ctx.wanted = given.wanted
        tensors = (
            *(given.grad, given.inputs, given.h, given.x_weight, given.x_bias),
            *(given.h_weight, given.h_bias, given.mask),
        )
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative. The mask has none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, list[Tensor | None]]:
        *tensors, mask = ctx.saved_tensors
        sequence = conv_gru_formula(mask, *ctx.sequence)
        return _gates.gradient_of(sequence, ctx.wanted), tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _ConvGruBackward._formula(ctx)
        wanted = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, tensors, wanted)
        grad, inputs, h, x_weight, x_bias, h_weight, h_bias = found
        return _ConvGruBackward.gradients(
            grad=grad,
            inputs=inputs,
            h=h,
            x_weight=x_weight,
            x_bias=x_bias,
            h_weight=h_weight,
            h_bias=h_bias,
        )

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _ConvGruBackward._formula(ctx)
        grad, *_ = ctx.saved_tensors
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        return fill_empty(found, ctx.wanted, grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_ConvGruBackward, info, in_dims, args)
