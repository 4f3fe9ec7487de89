"""The ConvLSTMCell of OpenSTL (chengtan9907/OpenSTL)."""

from torch import Tensor, nn

from trajgru_ext.nn._by_modules import result_of, wide_enough
from trajgru_ext.nn._recurrent import as_integer, check_given, check_positive
from trajgru_ext.ops._gates import one_sum
from trajgru_ext.ops.lstm_gates import lstm_gates


class ConvLSTMCell(nn.Module):
    """One step: a convolution of the input and one of the state, gates i, f, g, o.

    Args:
        in_channel: channels of the inputs.
        num_hidden: channels of the states.
        height: of the image, for the layer norms; without those, any size runs.
        width: likewise.
        filter_size: of both convolutions, odd.
        stride: of both, 1 unless the state is larger than the image it sees.
        layer_norm: whether both are normalised over channels, height and width.

    `conv_o` and `conv_last`, which the original's checkpoints hold, are never used, as
    there: their parameters get no gradient, and DistributedDataParallel needs
    `find_unused_parameters=True`. Nor does the original add its forget bias.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.openstl import ConvLSTMCell
        >>> cell = ConvLSTMCell(3, 8, 16, 16, filter_size=5, stride=1, layer_norm=True)
        >>> zero = torch.zeros(2, 8, 16, 16)
        >>> h, c = cell(torch.randn(2, 3, 16, 16), zero, zero)

    """

    def __init__(
        self,
        in_channel: int,
        num_hidden: int,
        height: int,
        width: int,
        filter_size: int,
        stride: int,
        layer_norm: bool,
    ) -> None:
        super().__init__()
        in_channel, num_hidden, filter_size, stride = check_positive(
            type(self).__name__,
            in_channel=in_channel,
            num_hidden=num_hidden,
            filter_size=filter_size,
            stride=stride,
        )
        self.num_hidden = num_hidden
        self.padding = filter_size // 2

        def branch(inputs: int, outputs: int) -> nn.Sequential:
            sizes = filter_size, stride, self.padding
            parts: list[nn.Module] = [nn.Conv2d(inputs, outputs, *sizes, bias=False)]
            if layer_norm:
                size = [outputs, as_integer(height), as_integer(width)]
                parts.append(nn.LayerNorm(size))
            return nn.Sequential(*parts)

        self.conv_x = branch(in_channel, 4 * num_hidden)
        self.conv_h = branch(num_hidden, 4 * num_hidden)
        self.conv_o = branch(2 * num_hidden, num_hidden)
        self.conv_last = nn.Conv2d(2 * num_hidden, num_hidden, 1, bias=False)

    def forward(self, x_t: Tensor, h_t: Tensor, c_t: Tensor) -> tuple[Tensor, Tensor]:
        """From the input and the states, all `[B, channels, H, W]`, the new (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.lstm_gates`.

        """
        check_given(type(self).__name__, x_t=x_t, h_t=h_t, c_t=c_t)
        gates = result_of(self.conv_x, x_t), result_of(self.conv_h, h_t)
        c = wide_enough(c_t, *gates)
        return lstm_gates(*one_sum(*gates), c, order="ifgo")
