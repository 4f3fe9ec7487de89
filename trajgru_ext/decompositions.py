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
from trajgru_ext.ops._options import GruOptions, LstmOptions, read
from trajgru_ext.ops._registry import decomposition
from trajgru_ext.ops.conv_gru import conv_gru_formula
from trajgru_ext.ops.conv_lstm import conv_lstm_formula
from trajgru_ext.ops.gru_gates import gru_formula
from trajgru_ext.ops.gru_output import gru_output_formula
from trajgru_ext.ops.gru_reset import gru_reset_formula
from trajgru_ext.ops.lstm_gates import lstm_formula
from trajgru_ext.ops.lstm_memory import lstm_memory_formula
from trajgru_ext.ops.traj_gru import traj_gru_formula


@decomposition("gru_gates")
def _gru_gates(
    x: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
    mask: Tensor | None,
) -> Tensor:
    (new_state,) = gru_formula(mask, read(GruOptions, options))(x, h_gates, h)
    return new_state


@decomposition("gru_reset")
def _gru_reset(
    x: Tensor | None, h_gates: Tensor | None, h: Tensor, options: Sequence[float]
) -> tuple[Tensor, ...]:
    formula = gru_reset_formula(read(GruOptions, options))
    return formula(add_gates(x, h_gates, h), h)


@decomposition("gru_output")
def _gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    options: Sequence[float],
    mask: Tensor | None,
) -> Tensor:
    formula = gru_output_formula(mask, read(GruOptions, options))
    (new_state,) = formula(u, candidate, h)
    return new_state


@decomposition("lstm_gates")
def _lstm_gates(
    x: Tensor | None, h_gates: Tensor | None, c: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *peephole, options = rest
    update = lstm_formula(read(LstmOptions, options))
    return update(add_gates(x, h_gates, c), c, *peephole)


@decomposition("lstm_memory")
def _lstm_memory(
    x: Tensor | None, h_gates: Tensor | None, c: Tensor, options: Sequence[float]
) -> Tensor:
    formula = lstm_memory_formula(read(LstmOptions, options))
    (new_state,) = formula(add_gates(x, h_gates, c), c)
    return new_state


@decomposition("traj_gru")
def _traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: Sequence[Tensor | None],
    steps: int,
    options: Sequence[float],
    mask: Tensor | None,
    offset: Tensor | None,
    saved: int,
) -> tuple[Tensor, ...]:
    choices = read(GruOptions, options)
    sequence = traj_gru_formula(mask, offset, steps, choices, flow_conv_by_grid_sample)
    return _and_nothing(sequence(inputs, h, *parameters), 5)


@decomposition("conv_gru")
def _conv_gru(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, x_dilation, h_dilation, options, mask, _ = arguments
    of_steps = (steps, x_dilation, h_dilation, read(GruOptions, options))
    return _and_nothing(conv_gru_formula(mask, *of_steps)(*tensors), 3)


@decomposition("conv_lstm")
def _conv_lstm(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, x_dilation, h_dilation, options, mask, _, _ = arguments
    of_steps = (steps, x_dilation, h_dilation, read(LstmOptions, options))
    return _and_nothing(conv_lstm_formula(mask, *of_steps)(*tensors), 4)


def _and_nothing(found: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """What is found, and empty tensors up to the count of them."""
    return *found, *(found[0].new_empty(0) for _ in range(count - len(found)))


def decomposed() -> AbstractContextManager[None]:
    """Within the context, PyTorch's own operators take the place of this package's.

    Functions and layers then give the same values and gradients more slowly, by
    autograd; not for code that is compiled. The switch is one for the whole process.

    Examples:
        >>> import torch
        >>> from trajgru_ext import flow_warp
        >>> from trajgru_ext.decompositions import decomposed
        >>> image, flow = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 8)
        >>> with decomposed():
        ...     slowly = flow_warp(image, flow)
        >>> torch.testing.assert_close(slowly, flow_warp(image, flow))

    """
    return _registry.decomposed()
