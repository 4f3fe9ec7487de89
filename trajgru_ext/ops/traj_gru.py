"""A whole TrajGRU sequence: flows from input and state, warps, gates, step by step."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _gates, _sequences
from trajgru_ext.ops._arguments import check_tensors, recorded_by_jit
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
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE, Parameters
from trajgru_ext.ops.flow_conv import flow_conv_formula
from trajgru_ext.ops.gru_gates import gru_formula

# A pixel's content goes where its flow points.
FLOW_SCALE = -1.0

# What has a gradient, in the order in which the operator returns it.
_TENSORS = ("inputs", "h", *Parameters._fields)

Conv = tuple[Tensor, Tensor | None]


@overridable
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
    convolutions of the inputs are computed for many steps at once, and the L * F warped
    channels are never held.

    Differentiable in all tensors any number of times in reverse mode and once in
    forward mode on top, under `torch.func` and `torch.compile`. On the CPU all results
    are the same bit for bit for any number of threads; on CUDA gradients are added up
    in no fixed order, unless `torch.use_deterministic_algorithms(True)` asks for one.
    Under autocast all is computed in its dtype but the flows, which are those of
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
        RuntimeError: under torch.jit.trace.
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit, or
            flow_offset requires a gradient.

    Source: Shi et al. 2017 (arXiv 1706.03458), equation 2; HKO-7.

    Examples:
        >>> import torch
        >>> from trajgru_ext import traj_gru
        >>> from trajgru_ext.nn import TrajGRU  # which has the weights
        >>> layer, inputs = TrajGRU(3, 8, links=5), torch.randn(4, 2, 3, 12, 12)
        >>> names = "i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret"
        >>> modules = [layer.get_submodule(name) for name in names]
        >>> convs = [(one.weight, one.bias) for one in modules]
        >>> outputs, flows = traj_gru(inputs, None, *convs, return_flows=True)
        >>> outputs.shape, flows.shape
        (torch.Size([4, 2, 8, 12, 12]), torch.Size([4, 2, 10, 12, 12]))

    """
    op = "traj_gru"
    if recorded_by_jit():
        raise RuntimeError(
            f"{op}: torch.jit.trace cannot record an operator of optional tensors in a "
            "list; use torch.export.export"
        )
    given = {"inputs": inputs, "h": h}
    check_tensors(op, **{name: t for name, t in given.items() if t is not None})
    layers = [_conv("i2h", i2h), _conv("i2f_conv1", i2f_conv1)]
    layers += [_conv("h2f_conv1", h2f_conv1), _conv("flows_conv", flows_conv)]
    ret_conv = _conv("ret", ret)
    if ret_conv.weight is not None and ret_conv.weight.shape[2:] == (1, 1):
        ret_conv = ret_conv._replace(weight=ret_conv.weight.flatten(1))
    parameters = Parameters(*itertools.chain(*layers, ret_conv))
    options = GruOptions.choose(
        op, activation=activation, negative_slope=negative_slope
    )
    check_slope(op, negative_slope)
    check_choice(op, "recompute", recompute, RECOMPUTE)
    if not isinstance(return_flows, bool):
        kind = type(return_flows).__name__
        raise TypeError(f"{op}: return_flows must be True or False, got {kind}")
    steps = _sequences.number_of_steps(op, inputs, steps)
    if flow_offset is not None:
        check_tensors(op, flow_offset=flow_offset)
        if flow_offset.requires_grad:
            raise ValueError(f"{op}: flow_offset must not require a gradient, got one")
    if inputs is None:
        nothing = dict.fromkeys(("i2h_weight", "i2h_bias"))
        nothing |= dict.fromkeys(("i2f_conv1_weight", "i2f_conv1_bias"))
        parameters = parameters._replace(**nothing)
    inputs, h, *cast = _sequences.autocast_present(inputs, h, *parameters)
    parameters = Parameters(*cast)
    like = parameters.ret_weight
    features = like.shape[0] // 3 if like is not None and like.dim() > 0 else 0
    sizes = _sequences.state_sizes(inputs, h, features, steps)
    mask = _sequences.old_states_mask(op, zoneout_mask, None, sizes, like)
    saved = _saved((inputs, h, *parameters), recompute, return_flows)
    outputs, flows, *_ = _TrajGru.call(
        inputs, h, *parameters, mask, flow_offset, steps, options, saved
    )
    return outputs, flows if return_flows else None


def _conv(name: str, pair: Any) -> _sequences.Conv:
    if pair is None:
        return _sequences.Conv(None, None)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        kind = type(pair).__name__
        raise TypeError(
            f"traj_gru: {name} must be a weight and a bias (or None), got {kind}"
        )
    weight, bias = pair
    check_tensors("traj_gru", **{f"{name}[0]": weight})
    if bias is not None:
        check_tensors("traj_gru", **{f"{name}[1]": bias})
    return _sequences.Conv(weight, bias)


def _saved(tensors: Sequence[Tensor | None], recompute: str, return_flows: bool) -> int:
    """How much the forward pass saves for the backward pass, by number."""
    saved = RECOMPUTE.index(recompute) if _sequences.differentiated(tensors) else 0
    return max(saved, RECOMPUTE.index("gates")) if return_flows else saved


def traj_gru_formula(
    mask: Tensor | None,
    offset: Tensor | None,
    steps: int,
    options: GruOptions,
    flow_conv: Callable[..., Tensor] = flow_conv_formula,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The sequence and its flows, in torch operators that can be differentiated on."""
    convolve = _sequences.convolve

    def generate_flows(
        x: Tensor | None, h: Tensor, layers: Parameters, wide: torch.dtype
    ) -> Tensor:
        hidden = convolve(h, *layers.layer("h2f_conv1"))
        if x is not None:
            hidden = hidden + convolve(x, *layers.layer("i2f_conv1"))
        weight, bias = layers.layer("flows_conv")
        bias = None if bias is None else bias.to(wide)
        hidden = _gates.activate(hidden, options).to(wide)
        flows = convolve(hidden, weight.to(wide), bias)
        return flows if offset is None else flows + offset.to(wide)

    def sequence(
        inputs: Tensor | None, h: Tensor | None, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        layers = Parameters(*parameters)
        ret = layers.layer("ret")
        h = _sequences.or_zero(h, inputs, ret.weight.shape[0] // 3)
        wide = torch.promote_types(h.dtype, torch.float32)
        outputs, all_flows = [], []
        for t in range(steps):
            x = None if inputs is None else inputs[t]
            x_gates = None if x is None else convolve(x, *layers.layer("i2h"))
            flows = generate_flows(x, h, layers, wide)
            h_gates = flow_conv(h, flows, *ret, FLOW_SCALE)
            zoneout = None if mask is None else mask[t]
            (h,) = gru_formula(zoneout, options)(x_gates, h_gates, h)
            outputs.append(h)
            all_flows.append(flows)
        channels = layers.flows_conv_weight.shape[0]
        no_flows = h.new_empty((h.shape[0], channels, *h.shape[2:]), dtype=wide)
        return _sequences.stack(outputs, h), _sequences.stack(all_flows, no_flows)

    return sequence


class _TrajGru(Function):
    # torch.compile traces no Function of *args.
    @staticmethod
    def forward(
        inputs: Tensor | None,
        h: Tensor | None,
        i2h_weight: Tensor | None,
        i2h_bias: Tensor | None,
        i2f_conv1_weight: Tensor | None,
        i2f_conv1_bias: Tensor | None,
        h2f_conv1_weight: Tensor,
        h2f_conv1_bias: Tensor | None,
        flows_conv_weight: Tensor,
        flows_conv_bias: Tensor | None,
        ret_weight: Tensor,
        ret_bias: Tensor | None,
        mask: Tensor | None,
        offset: Tensor | None,
        steps: int,
        options: GruOptions,
        saved: int,
    ) -> tuple[Tensor, ...]:
        parameters = [
            *(i2h_weight, i2h_bias, i2f_conv1_weight, i2f_conv1_bias),
            *(h2f_conv1_weight, h2f_conv1_bias, flows_conv_weight, flows_conv_bias),
            *(ret_weight, ret_bias),
        ]
        found: tuple[Tensor, ...] = operator("traj_gru")(
            inputs, h, parameters, steps, options.numbers(), mask, offset, saved
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        *tensors, ctx.steps, ctx.options, ctx.saved = inputs
        _, _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, flows_grad: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        *tensors, outputs, flows, hidden, gates, candidates = ctx.saved_tensors
        if grad is None:
            grad = torch.zeros_like(outputs)
        needs = _TrajGru.Arguments(*ctx.needs_input_grad)
        wanted = [getattr(needs, name) for name in _TENSORS]
        found = _TrajGruBackward.call(
            *(grad, flows_grad, *tensors, outputs, flows, hidden, gates, candidates),
            *(ctx.steps, ctx.options, ctx.saved, wanted),
        )
        named = zip(_TENSORS, wanted_or_none(found, wanted), strict=True)
        return _TrajGru.gradients(**dict(named))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        *tensors, mask, offset = ctx.saved_tensors
        formula = traj_gru_formula(mask, offset, ctx.steps, ctx.options)
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        return *found, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_TrajGru, info, in_dims, args)


class _TrajGruBackward(Function):
    @staticmethod
    def forward(
        grad: Tensor,
        flows_grad: Tensor | None,
        inputs: Tensor | None,
        h: Tensor | None,
        i2h_weight: Tensor | None,
        i2h_bias: Tensor | None,
        i2f_conv1_weight: Tensor | None,
        i2f_conv1_bias: Tensor | None,
        h2f_conv1_weight: Tensor,
        h2f_conv1_bias: Tensor | None,
        flows_conv_weight: Tensor,
        flows_conv_bias: Tensor | None,
        ret_weight: Tensor,
        ret_bias: Tensor | None,
        mask: Tensor | None,
        offset: Tensor | None,
        outputs: Tensor,
        flows: Tensor,
        hidden: Tensor,
        gates: Tensor,
        candidates: Tensor,
        steps: int,
        options: GruOptions,
        saved: int,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        parameters = [
            *(i2h_weight, i2h_bias, i2f_conv1_weight, i2f_conv1_bias),
            *(h2f_conv1_weight, h2f_conv1_bias, flows_conv_weight, flows_conv_bias),
            *(ret_weight, ret_bias),
        ]
        found: tuple[Tensor, ...] = operator("traj_gru_backward")(
            *(grad, flows_grad, inputs, h, parameters, options.numbers(), mask, offset),
            *(outputs, flows, hidden, gates, candidates, saved, wanted),
        )
        return found

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]
    ) -> None:
        given = _TrajGruBackward.Arguments(*inputs)
        ctx.steps, ctx.options, ctx.wanted = given.steps, given.options, given.wanted
        each = (getattr(given, name) for name in _TENSORS)
        tensors = (given.grad, given.flows_grad, *each, given.mask, given.offset)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    # No kernel is worth it for the second derivative. Mask and offset have none.
    @staticmethod
    def _formula(ctx: Any) -> tuple[_gates.Formula, list[Tensor | None]]:
        *tensors, mask, offset = ctx.saved_tensors
        sequence = traj_gru_formula(mask, offset, ctx.steps, ctx.options)

        def first_derivative(
            grad: Tensor, flows_grad: Tensor | None, *tensors: Tensor | None
        ) -> tuple[Tensor, ...]:
            found = _gates.pull_back(sequence, tensors, (grad, flows_grad))
            return wanted_only(found, ctx.wanted)

        return first_derivative, tensors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _TrajGruBackward._formula(ctx)
        wanted = wanted_only(cotangents, ctx.wanted)
        found = _gates.pull_back(formula, tensors, wanted)
        named = zip(("grad", "flows_grad", *_TENSORS), found, strict=True)
        return _TrajGruBackward.gradients(**dict(named))

    @staticmethod
    def tangent(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        formula, tensors = _TrajGruBackward._formula(ctx)
        grad, *_ = ctx.saved_tensors
        found = _gates.tangents_of(formula, tensors, tangents[: len(tensors)])
        return fill_empty(found, ctx.wanted, grad)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return one_by_one(_TrajGruBackward, info, in_dims, args)
