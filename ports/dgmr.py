"""openclimatefix/skillful_nowcasting: DGMR's ConvGRU, with spectral norms."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ports.updates import blend


class ConvGRUCell(nn.Module):
    """One step; `input_channels` are those of x and of h together."""

    def __init__(self, input_channels, output_channels, kernel_size=3, sn_eps=0.0001):
        super().__init__()
        self._kernel_size = kernel_size
        self._sn_eps = sn_eps
        for name in ("read_gate_conv", "update_gate_conv", "output_conv"):
            size = kernel_size, kernel_size
            conv = nn.Conv2d(input_channels, output_channels, size, padding=1)
            setattr(self, name, spectral_norm(conv, eps=sn_eps))

    def forward(self, x, prev_state):
        """The new h, twice: n = relu(output_conv([x, r h])), h' = u h + (1 - u) n."""
        xh = torch.cat([x, prev_state], 1)
        read = torch.sigmoid(self.read_gate_conv(xh))
        update = torch.sigmoid(self.update_gate_conv(xh))
        new = torch.relu(self.output_conv(torch.cat([x, read * prev_state], 1)))
        state = blend(update, prev_state, new)
        return state, state


class ConvGRU(nn.Module):
    """Step by step."""

    def __init__(self, input_channels, output_channels, kernel_size=3, sn_eps=0.0001):
        super().__init__()
        self.cell = ConvGRUCell(input_channels, output_channels, kernel_size, sn_eps)

    def forward(self, x, hidden_state=None):
        """All h; x is a tensor or a list of the steps' images."""
        outputs = []
        for image in x:
            output, hidden_state = self.cell(image, hidden_state)
            outputs.append(output)
        return torch.stack(outputs)
