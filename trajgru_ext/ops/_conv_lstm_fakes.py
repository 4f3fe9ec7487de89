"""The fake kernels of conv_lstm: its sizes, dtypes, strides and errors."""

from collections.abc import Sequence

from torch import Tensor, channels_last

from trajgru_ext.ops import _sequences
from trajgru_ext.ops._arguments import check_same_dtype, check_sizes
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._registry import fake
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
    dilation: Sequence[int],
    slots: Sequence[int],
    forget_bias: float,
    mask: Tensor | None,
    keep_cells: bool,
    keep_gates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    convs = ((x_weight, x_bias), (h_weight, h_bias))
    _sequences.check_conv_rnn(OP, inputs, h, *convs, steps, 4)
    batch, _, height, width = (h if inputs is None else inputs).shape[-4:]
    features = h_weight.shape[1]
    if c is not None:
        check_sizes(OP, "c", c, [-1] * 4, h_weight)
        check_sizes(OP, "c", c, [batch, features, height, width], h_weight)
        check_same_dtype(OP, "c", c, h_weight, "h_weight")
    for weight in (w_ci, w_cf, w_co):
        if weight is not None:
            check_peephole(OP, weight, w_ci, [1, features, height, width], h_weight)
            check_same_dtype(OP, "peephole", weight, h_weight, "h_weight")

    def images(channels: int, layout=channels_last) -> Tensor:
        image = (batch, channels, height, width)
        return _sequences.empty_sequence(steps, image, h_weight, layout)

    outputs = images(features, _sequences.outputs_format(inputs, h, h_weight))
    return (
        outputs,
        h_weight.new_empty((batch, features, height, width))
        if c is None
        else empty_image(c),
        images(features) if keep_cells else h_weight.new_empty(0),
        images(4 * features) if keep_gates else h_weight.new_empty(0),
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
    dilation: Sequence[int],
    slots: Sequence[int],
    forget_bias: float,
    mask: Tensor | None,
    outputs: Tensor,
    cells: Tensor,
    gates: Tensor,
    gates_kept: bool,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    to_inputs = _sequences.empty_inputs_grad(inputs, h, h_weight, wanted[0])
    to_h = empty_image(h) if wanted[1] else h_weight.new_empty(0)
    to_c = empty_image(c) if wanted[6] else h_weight.new_empty(0)
    parameters = (x_weight, x_bias, h_weight, h_bias)
    first = _sequences.empty_like_wanted(wanted[2:6], parameters, h_weight)
    last = _sequences.empty_like_wanted(wanted[7:], (w_ci, w_cf, w_co), h_weight)
    return to_inputs, to_h, *first, to_c, *last
