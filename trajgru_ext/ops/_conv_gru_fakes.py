"""The fake kernels of conv_gru: its sizes, dtypes, strides and errors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trajgru_ext.ops import _sequences
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._options import GruOptions, read
from trajgru_ext.ops._registry import fake
from trajgru_ext.ops._sequences import Conv

OP = "conv_gru"


@fake("conv_gru")
def _fake_conv_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    x_weight: Tensor | None,
    x_bias: Tensor | None,
    h_weight: Tensor,
    h_bias: Tensor | None,
    steps: int,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: Sequence[float],
    mask: Tensor | None,
    save_gates: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    convs = Conv(x_weight, x_bias), Conv(h_weight, h_bias)
    sized = _sequences.check_conv_rnn(OP, inputs, h, *convs, steps, 3)
    batch, _, height, width = sized.shape[-4:]
    features = h_weight.shape[1]

    def images(
        channels: int, layout: torch.memory_format = torch.channels_last
    ) -> Tensor:
        image = (batch, channels, height, width)
        return _sequences.empty_sequence(steps, image, h_weight, layout)

    outputs = images(features, _sequences.outputs_format(inputs, h, h_weight))
    gates = images(3 * features) if save_gates else h_weight.new_empty(0)
    with_candidates = save_gates and not read(GruOptions, options).reset_before
    candidates = images(features) if with_candidates else h_weight.new_empty(0)
    return outputs, gates, candidates


@fake("conv_gru_backward")
def _fake_conv_gru_backward(
    grad: Tensor,
    inputs: Tensor | None,
    h: Tensor | None,
    x_weight: Tensor | None,
    x_bias: Tensor | None,
    h_weight: Tensor,
    h_bias: Tensor | None,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: Sequence[float],
    mask: Tensor | None,
    outputs: Tensor,
    gates: Tensor,
    candidates: Tensor,
    gates_saved: bool,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    inputs_wanted, h_wanted, *others_wanted = wanted
    to_inputs = _sequences.empty_inputs_grad(inputs, h, h_weight, inputs_wanted)
    to_h = h_weight.new_empty(0)
    if h is not None and h_wanted:
        to_h = empty_image(h)
    parameters = (x_weight, x_bias, h_weight, h_bias)
    others = _sequences.empty_like_wanted(others_wanted, parameters, h_weight)
    return to_inputs, to_h, *others
