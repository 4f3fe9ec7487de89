"""The fake kernels of conv_lstm: its sizes, dtypes, strides and errors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trajgru_ext.ops import _sequences
from trajgru_ext.ops._arguments import check_same_dtype, check_sizes
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._registry import fake
from trajgru_ext.ops._sequences import Conv
from trajgru_ext.ops.lstm_gates import check_peephole

OP = "conv_lstm"


@fake("conv_lstm")
def _fake_conv_lstm(
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
    steps: int,
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: Sequence[float],
    mask: Tensor | None,
    save_cells: bool,
    save_gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    convs = Conv(x_weight, x_bias), Conv(h_weight, h_bias)
    sized = _sequences.check_conv_rnn(OP, inputs, h, *convs, steps, 4)
    batch, _, height, width = sized.shape[-4:]
    features = h_weight.shape[1]
    if c is not None:
        check_sizes(OP, "c", c, [-1] * 4, h_weight)
        check_sizes(OP, "c", c, [batch, features, height, width], h_weight)
        check_same_dtype(OP, "c", c, h_weight, "h_weight")
    for weight in (w_ci, w_cf, w_co):
        if weight is not None and w_ci is not None:
            check_peephole(OP, weight, w_ci, [1, features, height, width], h_weight)
            check_same_dtype(OP, "peephole", weight, h_weight, "h_weight")

    def images(
        channels: int, layout: torch.memory_format = torch.channels_last
    ) -> Tensor:
        image = (batch, channels, height, width)
        return _sequences.empty_sequence(steps, image, h_weight, layout)

    outputs = images(features, _sequences.outputs_format(inputs, h, h_weight))
    return (
        outputs,
        h_weight.new_empty((batch, features, height, width))
        if c is None
        else empty_image(c),
        images(features) if save_cells else h_weight.new_empty(0),
        images(4 * features) if save_gates else h_weight.new_empty(0),
    )


@fake("conv_lstm_backward")
def _fake_conv_lstm_backward(
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
    x_dilation: Sequence[int],
    h_dilation: Sequence[int],
    options: Sequence[float],
    mask: Tensor | None,
    outputs: Tensor,
    cells: Tensor,
    gates: Tensor,
    gates_saved: bool,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    names = ("inputs", "h", "x_weight", "x_bias", "h_weight", "h_bias", "c")
    want = dict(zip((*names, "w_ci", "w_cf", "w_co"), wanted, strict=True))

    def state(name: str, tensor: Tensor | None) -> Tensor:
        if tensor is None or not want[name]:
            return h_weight.new_empty(0)
        return empty_image(tensor)

    def parameter(name: str, tensor: Tensor | None) -> Tensor:
        like = h_weight if tensor is None else tensor
        return like.new_empty(like.shape if want[name] else 0)

    return (
        _sequences.empty_inputs_grad(inputs, h, h_weight, want["inputs"]),
        state("h", h),
        parameter("x_weight", x_weight),
        parameter("x_bias", x_bias),
        parameter("h_weight", h_weight),
        parameter("h_bias", h_bias),
        state("c", c),
        parameter("w_ci", w_ci),
        parameter("w_cf", w_cf),
        parameter("w_co", w_co),
    )
