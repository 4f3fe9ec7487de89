"""A whole TrajGRU sequence: flows from input and state, warps, gates, step by step."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates, _sequences
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._autograd import (
    Function,
    fill_empty,
    one_by_one,
    wanted_only,
    wanted_or_none,
)
from trajgru_ext.ops._registry import operator
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE
from trajgru_ext.ops.flow_conv import flow_conv_formula
from trajgru_ext.ops.gru_gates import gru_formula

# A pixel's content goes where its flow points.
FLOW_SCALE = -1.0

Conv = tuple[Tensor, Tensor | None]


def traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    i2h: Conv | None,
    i2f_conv1: Conv | None,
    h2f_conv1: Conv,
    flows_conv: Conv,
    ret: Conv,
    steps: int | None = None,
    activation: str = "leaky_relu",
    negative_slope: float = 0.2,
    zoneout_mask: Tensor | None = None,
    flow_offset: Tensor | None = None,
    recompute: str = "none",
    return_flows: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run a TrajGRU over a sequence, its state moved along flows that it learns.

    For every step, with `*` a convolution that keeps the size, sigma the logistic
    function, act the activation, and x the step's input::

        flows = flows_conv * act(i2f_conv1 * x + h2f_conv1 * h)
        hh = flow_conv(h, flows, ret, flow_scale=-1)
        r = sigma(i2h_r * x + hh_r)      u = sigma(i2h_u * x + hh_u)
        m = act(i2h_m * x + r hh_m)
        h' = u h + (1 - u) m

    the slices in the order r, u, m, and biases in every convolution that has one. The
    convolutions of the inputs are computed for many steps at once, the L * F warped
    channels never held, and the gates' memory serves their gradients.

    Differentiable in all tensors any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`. On the CPU all results
    are the same bit for bit for any number of threads; on CUDA gradients are added up
    in no fixed order, and `torch.use_deterministic_algorithms(True)` makes that an
    error. Under autocast all is computed in its dtype but the flows, which are those of
    float32 at least.

    Args:
        inputs: `[T, B, C, H, W]` in float32, float64, bfloat16 or float16; or None.
        h: the state before the first step, `[B, F, H, W]` in the same dtype; None is
            0, and spares the first step's warps. One of the two must be given.
        i2h: weight `[3F, C, k, k]`, k odd, and bias `[3F]` or None. None without
            inputs, as `i2f_conv1`.
        i2f_conv1: weight `[G, C, k, k]` and bias.
        h2f_conv1: weight `[G, F, k, k]` and bias.
        flows_conv: weight `[2L, G, k, k]` and bias.
        ret: weight `[3F, L * F]`, or that of a 1x1 convolution, and bias.
        steps: T; may be left out where there are inputs.
        activation: "tanh", "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", at least 0.
        zoneout_mask: bool or number, broadcast to `[T, B, F, H, W]`; where it is true
            (not 0) the old value stays: h' = where(mask, h, new).
        flow_offset: `[2L, H, W]` in pixels, added to the flows of every step, as of a
            motion that is known. No gradient is computed for it.
        recompute: what the backward pass computes again to save memory: "none"; "gates"
            keeps the flows and the layer before them; "flows" keeps only the states.
        return_flows: whether to return the flows too.

    Returns:
        The states after every step, `[T, B, F, H, W]`, in the memory format of a step
        of `inputs` (of `h` without any), and the flows, `[T, B, 2L, H, W]` in pixels,
        U and V of link l in channels 2l and 2l + 1, in float32 at least; or None.

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit, or
            flow_offset requires a gradient.

    Source: Shi et al. 2017 (arXiv 1706.03458), equation 2; HKO-7.

    """
    op = "traj_gru"
    given = {"inputs": inputs, "h": h}
    check_tensors(op, **{name: t for name, t in given.items() if t is not None})
    pairs = {"i2h": i2h, "i2f_conv1": i2f_conv1, "h2f_conv1": h2f_conv1}
    pairs |= {"flows_conv": flows_conv, "ret": ret}
    parameters = [one for name, pair in pairs.items() for one in _conv(name, pair)]
    if parameters[8] is not None and parameters[8].shape[2:] == (1, 1):
        parameters[8] = parameters[8].flatten(1)
    _gates.check_choice(op, "activation", activation, _gates.ACTIVATIONS)
    _gates.check_slope(op, negative_slope)
    _gates.check_choice(op, "recompute", recompute, RECOMPUTE)
    if not isinstance(return_flows, bool):
        kind = type(return_flows).__name__
        raise TypeError(f"{op}: return_flows must be True or False, got {kind}")
    steps = _sequences.number_of_steps(op, inputs, steps)
    if flow_offset is not None:
        check_tensors(op, flow_offset=flow_offset)
        if flow_offset.requires_grad:
            raise ValueError(f"{op}: flow_offset must not require a gradient, got one")
    if inputs is None:
        parameters[:4] = [None] * 4
    inputs, h, *parameters = _sequences.autocast_present(inputs, h, *parameters)
    ret_weight = parameters[8]
    sized = ret_weight is not None and ret_weight.dim() > 0
    features = ret_weight.shape[0] // 3 if sized else 0
    sizes = _sequences.state_sizes(inputs, h, features, steps)
    mask = _sequences.old_states_mask(op, zoneout_mask, None, sizes, ret_weight)
    kept = _kept((inputs, h, *parameters), recompute, return_flows)
    number = _gates.ACTIVATIONS.index(activation)
    options = (steps, number, float(negative_slope), kept)
    tensors = (inputs, h, mask, flow_offset, *parameters)
    outputs, flows, *_ = _TrajGru.call(*tensors, *options)
    return outputs, flows if return_flows else None


def _conv(name: str, pair: Any) -> tuple[Tensor | None, Tensor | None]:
    if pair is None:
        return None, None
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        kind = type(pair).__name__
        raise TypeError(
            f"traj_gru: {name} must be a weight and a bias (or None), got {kind}"
        )
    weight, bias = pair
    check_tensors("traj_gru", **{f"{name}[0]": weight})
    if bias is not None:
        check_tensors("traj_gru", **{f"{name}[1]": bias})
    return weight, bias


def _kept(tensors: Sequence[Tensor | None], recompute: str, return_flows: bool) -> int:
    """How much the forward pass leaves, by number."""
    kept = RECOMPUTE.index(recompute) if _sequences.differentiated(tensors) else 0
    return max(kept, RECOMPUTE.index("gates")) if return_flows else kept


def traj_gru_formula(
    mask: Tensor | None,
    offset: Tensor | None,
    steps: int,
    activation: int,
    negative_slope: float,
    flow_conv: Callable[..., Tensor] = flow_conv_formula,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The sequence and its flows, in torch operators that can be differentiated on."""
    convolve = _sequences.convolve

    def act(values: Tensor) -> Tensor:
        return _gates.activate(values, activation, negative_slope)

    def sequence(
        inputs: Tensor | None, h: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        i2h, i2f, h2f, flows_conv = (parameters[k : k + 2] for k in (0, 2, 4, 6))
        weight, bias = parameters[8:]
        if h is None:
            _, batch, _, *size = inputs.shape
            h = inputs.new_zeros(batch, weight.shape[0] // 3, *size)
        outputs, all_flows = [], []
        wide = torch.promote_types(h.dtype, torch.float32)
        to_flows = [None if p is None else p.to(wide) for p in flows_conv]
        for t in range(steps):
            hidden, x_gates = convolve(h, *h2f), None
            if inputs is not None:
                hidden = hidden + convolve(inputs[t], *i2f)
                x_gates = convolve(inputs[t], *i2h)
            flows = convolve(act(hidden).to(wide), *to_flows)
            if offset is not None:
                flows = flows + offset.to(wide)
            hh = flow_conv(h, flows, weight, bias, FLOW_SCALE)
            kept = None if mask is None else mask[t]
            options = (kept, (0, 1, 2), activation, negative_slope, True)
            (h,) = gru_formula(*options)(x_gates, hh, h)
            outputs.append(h)
            all_flows.append(flows)
        no_flows = h.new_empty((h.shape[0], len(to_flows[0]), *h.shape[2:]), dtype=wide)
        return _sequences.stack(outputs, h), _sequences.stack(all_flows, no_flows)

    return sequence


class _TrajGru(Function):
    # torch.compile traces no Function of *args.
    @staticmethod
    def forward(
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        offset: Tensor | None,
        i2h_weight: Tensor | None,
        i2h_bias: Tensor | None,
        i2f_weight: Tensor | None,
        i2f_bias: Tensor | None,
        h2f_weight: Tensor,
        h2f_bias: Tensor | None,
        flows_weight: Tensor,
        flows_bias: Tensor | None,
        ret_weight: Tensor,
        ret_bias: Tensor | None,
        steps: int,
        activation: int,
        negative_slope: float,
        kept: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        parameters = [
            *(i2h_weight, i2h_bias, i2f_weight, i2f_bias, h2f_weight, h2f_bias),
            *(flows_weight, flows_bias, ret_weight, ret_bias),
        ]
        options = (steps, activation, negative_slope, mask, offset, kept)
        return operator("traj_gru")(inputs, h, parameters, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options = inputs[14:]
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:14], *output)
        ctx.save_for_forward(*inputs[:14])

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, flows_grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        wanted = (*needs[:2], *needs[4:14])
        *tensors, outputs, flows, hidden, gates, candidates = ctx.saved_tensors
        if grad is None:
            grad = torch.zeros_like(outputs)
        left = (outputs, flows, hidden, gates, candidates)
        options = (*ctx.options, list(wanted))
        found = _TrajGruBackward.call(grad, flows_grad, *tensors, *left, *options)
        to_inputs, to_h, *others = wanted_or_none(found, wanted)
        return to_inputs, to_h, None, None, *others, None, None, None, None

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        inputs, h, mask, offset, *parameters = ctx.saved_tensors
        formula = traj_gru_formula(mask, offset, *ctx.options[:3])
        tensors = (inputs, h, *parameters)
        along = (*tangents[:2], *tangents[4:14])
        found = _gates.tangents_of(formula, tensors, along)
        return *found, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return one_by_one(_TrajGru, info, in_dims, args)


class _TrajGruBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        flows_grad: Tensor | None,
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        offset: Tensor | None,
        i2h_weight: Tensor | None,
        i2h_bias: Tensor | None,
        i2f_weight: Tensor | None,
        i2f_bias: Tensor | None,
        h2f_weight: Tensor,
        h2f_bias: Tensor | None,
        flows_weight: Tensor,
        flows_bias: Tensor | None,
        ret_weight: Tensor,
        ret_bias: Tensor | None,
        outputs: Tensor,
        flows: Tensor,
        hidden: Tensor,
        gates: Tensor,
        candidates: Tensor,
        steps: int,
        activation: int,
        negative_slope: float,
        kept: int,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        parameters = [
            *(i2h_weight, i2h_bias, i2f_weight, i2f_bias, h2f_weight, h2f_bias),
            *(flows_weight, flows_bias, ret_weight, ret_bias),
        ]
        tensors = (grad, flows_grad, inputs, h, parameters)
        left = (outputs, flows, hidden, gates, candidates)
        backward = operator("traj_gru_backward")
        options = (activation, negative_slope, mask, offset)
        return backward(*tensors, *options, *left, kept, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.options, ctx.wanted = inputs[21:24], inputs[25]
        ctx.save_for_backward(*inputs[:16])
        ctx.save_for_forward(*inputs[:16])

    # No kernel is worth it for the second derivative. Mask and offset have none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, tuple[Tensor | None, ...]]:
        grad, flows_grad, inputs, h, mask, offset, *parameters = ctx.saved_tensors
        sequence = traj_gru_formula(mask, offset, *ctx.options)

        def first_derivative(
            grad: Tensor, flows_grad: Tensor | None, *tensors: Tensor | None
        ) -> tuple[Tensor, ...]:
            found = _gates.pull_back(sequence, tensors, (grad, flows_grad))
            return wanted_only(found, ctx.wanted)

        return first_derivative, (grad, flows_grad, inputs, h, *parameters)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _TrajGruBackward._formula(ctx)
        seeds = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, tensors, seeds)
        return *found[:4], None, None, *found[4:], *[None] * 10

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _TrajGruBackward._formula(ctx)
        along = (*tangents[:4], *tangents[6:16])
        found = _gates.tangents_of(formula, tensors, along)
        return fill_empty(found, ctx.wanted, tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        return one_by_one(_TrajGruBackward, info, in_dims, args)
