"""What the operators count for in `torch.utils.flop_counter`.

As many operations as the published models: those of their convolutions, 1x1 ones among
them. Warps, gates and pooling count nothing there, as nothing elementwise does in
torch's own count. A step's convolution of the state counts even where our kernel leaves
it out, the state being 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula

from trajgru_ext.ops import _registry
from trajgru_ext.ops._options import GruOptions, read
from trajgru_ext.ops._traj_gru_fakes import Parameters

Shape = Sequence[int]


def _convolution(image: Shape, weight: Shape) -> int:
    """Of images of these sizes, [..., H, W], by one convolution that keeps them."""
    *images, _, height, width = image
    return 2 * math.prod(images) * height * width * math.prod(weight)


def _of_step(inputs: Shape | None, h: Shape | None, weight: Shape | None) -> int:
    """Of one step's convolution by the weight; 0 where there is none."""
    sized = h if inputs is None else inputs[1:]
    if sized is None or weight is None:
        return 0
    return _convolution(sized, weight)


def _joint(x: int, h: int, steps: int, to_first: bool, wanted: Sequence[bool]) -> int:
    """The gradients of a convolution of [input, state].

    to_first: whether the first step's reaches the image.
    """
    to_weights = steps if any(wanted) else 0
    return (x + h) * (to_weights + (steps if to_first else steps - 1))


def _apart(x: int, h: int, steps: int, wanted: Sequence[bool]) -> int:
    """The gradients of a convolution of the inputs, and one of the state."""
    to_inputs, to_h, to_x_weight, to_h_weight = wanted
    of_inputs = x * steps * (to_inputs + to_x_weight)
    return of_inputs + h * (steps * to_h_weight + (steps if to_h else steps - 1))


def conv2d(
    input: Shape, weight: Shape, *rest: Any, out_shape: Shape, **named: Any
) -> int:
    """Products and sums, as torch's convolution."""
    batch, _, height, width = out_shape
    return _convolution((batch, 0, height, width), weight)


def conv2d_backward(
    grad: Shape,
    input: Shape,
    weight: Shape,
    padding: Sequence[int],
    wanted: Sequence[bool],
    **named: Any,
) -> int:
    """Those of the gradients to image and weight."""
    to_input, to_weight, _ = wanted
    return _convolution(grad, weight) * (to_input + to_weight)


def flow_conv(
    input: Shape, flows: Shape, weight: Shape, *rest: Any, **named: Any
) -> int:
    """The 1x1 convolution of L warps."""
    return _convolution(input, weight)


def flow_conv_backward(
    grad: Shape,
    input: Shape,
    flows: Shape,
    weight: Shape,
    flow_scale: float,
    input_grad: bool,
    flows_grad: bool,
    weight_grad: bool,
    *rest: Any,
    **named: Any,
) -> int:
    """Its gradients to the warps and to the weight."""
    return _convolution(input, weight) * ((input_grad or flows_grad) + weight_grad)


def conv_rnn(
    inputs: Shape | None,
    h: Shape | None,
    x_weight: Shape | None,
    x_bias: Shape | None,
    h_weight: Shape,
    *rest: Any,
    out_shape: Any,
    **named: Any,
) -> int:
    """The convolutions of inputs and state, in every step."""
    outputs, *_ = out_shape
    per_step = _of_step(inputs, h, h_weight)
    if inputs is not None:
        per_step += _of_step(inputs, h, x_weight)
    return int(outputs[0] * per_step)


def conv_lstm_backward(
    grad: Shape | None,
    c_grad: Shape | None,
    inputs: Shape | None,
    h: Shape | None,
    x_weight: Shape | None,
    x_bias: Shape | None,
    h_weight: Shape,
    *rest: Any,
    **named: Any,
) -> int:
    """The gradients of the convolution of [input, state] in every step."""
    *_, outputs, _, _, _, wanted = rest
    to_inputs, to_h, to_x_weight, _, to_h_weight, *_ = wanted
    x, of_h = (_of_step(inputs, h, weight) for weight in (x_weight, h_weight))
    to_weights = (to_x_weight, to_h_weight)
    return _joint(x, of_h, outputs[0], to_inputs or to_h, to_weights)


def conv_gru_backward(
    grad: Shape,
    inputs: Shape | None,
    h: Shape | None,
    x_weight: Shape | None,
    x_bias: Shape | None,
    h_weight: Shape,
    h_bias: Shape | None,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: Sequence[float],
    *rest: Any,
    **named: Any,
) -> int:
    """The gradients of the convolutions in every step.

    Where the reset comes before, they are over [input, state], that of the candidate
    apart, whose image depends on the reset gate in the first step too.
    """
    *_, wanted = rest
    to_inputs, to_h, to_x_weight, _, to_h_weight, _ = wanted
    steps = grad[0]
    x, of_h = (_of_step(inputs, h, weight) for weight in (x_weight, h_weight))
    if not read(GruOptions, options).reset_before:
        return _apart(x, of_h, steps, (to_inputs, to_h, to_x_weight, to_h_weight))
    to_weights = (to_x_weight, to_h_weight)
    gates = _joint(x, of_h, steps, to_inputs or to_h, to_weights)
    candidate = _joint(x, of_h, steps, True, to_weights)
    return (2 * gates + candidate) // 3


def traj_gru(
    inputs: Shape | None,
    h: Shape | None,
    parameters: Sequence[Shape | None],
    steps: int,
    *rest: Any,
    **named: Any,
) -> int:
    """The convolutions of inputs, state and flows, and that of the warps."""
    given = Parameters(*parameters)
    weights = [given.h2f_conv1_weight, given.flows_conv_weight, given.ret_weight]
    if inputs is not None:
        weights += [given.i2h_weight, given.i2f_conv1_weight]
    return int(steps * sum(_of_step(inputs, h, weight) for weight in weights))


def traj_gru_backward(
    grad: Shape,
    flows_grad: Shape | None,
    inputs: Shape | None,
    h: Shape | None,
    parameters: Sequence[Shape | None],
    *rest: Any,
    **named: Any,
) -> int:
    """Their gradients to weights, states and flows."""
    *_, flags = rest
    to_inputs, to_h, *others = flags
    steps, given, wanted = grad[0], Parameters(*parameters), Parameters(*others)

    def of(weight: Shape | None) -> int:
        return _of_step(inputs, h, weight)

    x = of(given.i2h_weight), of(given.i2f_conv1_weight)
    found = sum(x) * to_inputs * steps
    found += steps * (x[0] * wanted.i2h_weight + x[1] * wanted.i2f_conv1_weight)
    moved = steps if to_h else steps - 1
    found += of(given.h2f_conv1_weight) * (steps * wanted.h2f_conv1_weight + moved)
    found += steps * of(given.flows_conv_weight) * (1 + wanted.flows_conv_weight)
    return int(found + steps * of(given.ret_weight) * (1 + wanted.ret_weight))


def nothing(*rest: Any, **named: Any) -> int:
    """No convolution and no product."""
    return 0


def register() -> None:
    """Register the formulas with torch's counter; of all others, that they count 0."""
    formulas: dict[str, Callable[..., int]] = {
        "conv2d": conv2d,
        "conv2d_backward": conv2d_backward,
        "flow_conv": flow_conv,
        "flow_conv_backward": flow_conv_backward,
        "conv_lstm": conv_rnn,
        "conv_lstm_backward": conv_lstm_backward,
        "conv_gru": conv_rnn,
        "conv_gru_backward": conv_gru_backward,
        "traj_gru": traj_gru,
        "traj_gru_backward": traj_gru_backward,
    }
    for name in _registry.names():
        operator = getattr(torch.ops.trajgru_ext, name)
        if operator not in flop_registry:  # as where the package is imported again
            register_flop_formula(operator)(formulas.get(name, nothing))
