"""The ConvLSTM of Hzzone/Precipitation-Nowcasting."""

import torch
from torch import nn


class ConvLSTM(nn.Module):
    def __init__(self, input_channel, num_filter, b_h_w, kernel_size):
        super().__init__()
        both = input_channel + num_filter
        self._conv = nn.Conv2d(both, 4 * num_filter, kernel_size, 1, kernel_size // 2)
        self._batch_size, self._state_height, self._state_width = b_h_w
        for name in ("Wci", "Wcf", "Wco"):
            setattr(self, name, nn.Parameter(torch.randn(1, num_filter, *b_h_w[1:])))
        self._input_channel = input_channel
        self._num_filter = num_filter

    def forward(self, inputs=None, states=None, seq_len=5):
        h, c = states
        outputs = []
        for t in range(seq_len):
            x = h.new_zeros(len(h), self._input_channel, *h.shape[2:])
            x = x if inputs is None else inputs[t]
            i, f, g, o = self._conv(torch.cat([x, h], 1)).chunk(4, 1)
            i, f = i + self.Wci * c, f + self.Wcf * c
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = (o + self.Wco * c).sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)
