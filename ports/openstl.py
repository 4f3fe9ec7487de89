"""OpenSTL: its ConvLSTMCell, of convolutions of x and of h, slices i, f, g, o."""

from torch import nn

from ports.updates import lstm


class ConvLSTMCell(nn.Module):
    """One step; `conv_o` and `conv_last` are made and not used, as there."""

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.num_hidden = num_hidden
        self.padding = filter_size // 2
        self._forget_bias = 1.0
        channels = {
            "conv_x": (in_channel, 4 * num_hidden),
            "conv_h": (num_hidden, 4 * num_hidden),
            "conv_o": (2 * num_hidden, num_hidden),
        }
        for name, (inputs, outputs) in channels.items():
            sizes = filter_size, stride, self.padding
            layers = [nn.Conv2d(inputs, outputs, *sizes, bias=False)]
            if layer_norm:
                layers.append(nn.LayerNorm([outputs, height, width]))
            setattr(self, name, nn.Sequential(*layers))
        self.conv_last = nn.Conv2d(2 * num_hidden, num_hidden, 1, bias=False)

    def forward(self, x_t, h_t, c_t):
        """The new (h, c)."""
        i, f, g, o = (self.conv_x(x_t) + self.conv_h(h_t)).chunk(4, 1)
        return lstm(i, f, g, o, c_t)
