"""Every operator made of PyTorch's own: grid_sample, conv2d and the like.

For formats that know no operators of others, as ONNX, and for comparison: within
`decomposed()` all that this package computes is computed so. The functions take the
arguments of the operators' schemas (csrc/schemas.cpp) and return as many tensors,
with nothing in those that only a backward pass reads.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from trajgru_ext.ops import _registry
from trajgru_ext.ops._gates import add_gates
from trajgru_ext.ops._grid_sample import flow_conv_by_grid_sample
from trajgru_ext.ops._registry import decomposition
from trajgru_ext.ops.conv_gru import conv_gru_formula
from trajgru_ext.ops.conv_lstm import conv_lstm_formula
from trajgru_ext.ops.gru_gates import gru_formula
from trajgru_ext.ops.gru_output import gru_output_formula
from trajgru_ext.ops.gru_reset import gru_reset_formula
from trajgru_ext.ops.lstm_gates import lstm_formula
from trajgru_ext.ops.traj_gru import traj_gru_formula


@decomposition("gru_gates")
def _gru_gates(x: Tensor | None, h_gates: Tensor | None, h: Tensor, *options: Any):
    *choices, mask = options
    return gru_formula(mask, *choices)(x, h_gates, h)[0]


@decomposition("gru_reset")
def _gru_reset(
    x: Tensor | None, h_gates: Tensor | None, h: Tensor, slots: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return gru_reset_formula(slots)(add_gates(x, h_gates, h), h)


@decomposition("gru_output")
def _gru_output(u: Tensor, candidate: Tensor, h: Tensor, *options: Any) -> Tensor:
    *choices, mask = options
    return gru_output_formula(mask, *choices)(u, candidate, h)[0]


@decomposition("lstm_gates")
def _lstm_gates(
    x: Tensor | None, h_gates: Tensor | None, c: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    *peephole, slots, forget_bias = rest
    update = lstm_formula(slots, forget_bias)
    return update(add_gates(x, h_gates, c), c, *peephole)


@decomposition("traj_gru")
def _traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: Sequence[Tensor | None],
    steps: int,
    activation: int,
    negative_slope: float,
    mask: Tensor | None,
    offset: Tensor | None,
    kept: int,
) -> tuple[Tensor, ...]:
    options = (mask, offset, steps, activation, negative_slope)
    sequence = traj_gru_formula(*options, flow_conv_by_grid_sample)
    found = sequence(inputs, h, *parameters)
    return _and_nothing(found, 5)


@decomposition("conv_gru")
def _conv_gru(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, dilation, slots, before, activation, slope, keep, mask, _ = (
        arguments
    )
    options = (steps, dilation, slots, before, activation, slope, keep)
    return _and_nothing(conv_gru_formula(mask, *options)(*tensors), 3)


@decomposition("conv_lstm")
def _conv_lstm(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, dilation, slots, forget_bias, mask, _, _ = arguments
    sequence = conv_lstm_formula(mask, steps, dilation, slots, forget_bias)
    return _and_nothing(sequence(*tensors), 4)


def _and_nothing(found: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """What is found, and empty tensors up to the count of them."""
    return *found, *(found[0].new_empty(0) for _ in range(count - len(found)))


def decomposed() -> AbstractContextManager[None]:
    """Within the context, PyTorch's own operators take the place of this package's.

    Functions and layers then give the same values and gradients more slowly, by
    autograd; not for code that is compiled. The switch is one for the whole process.
    """
    return _registry.decomposed()
