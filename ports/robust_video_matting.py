"""PeterL1n/RobustVideoMatting: the ConvGRU of its decoder."""

import torch
from torch import nn

from ports.updates import blend


class ConvGRU(nn.Module):
    """As many channels in as out; one image, or a sequence with the batch first."""

    def __init__(self, channels, kernel_size=3, padding=1):
        super().__init__()
        self.channels = channels
        sizes = kernel_size, 1, padding
        self.ih = nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, *sizes), nn.Sigmoid()
        )
        self.hh = nn.Sequential(nn.Conv2d(2 * channels, channels, *sizes), nn.Tanh())

    def forward_single_frame(self, x, h):
        """The new h, twice: n = hh([x, r h]), h' = (1 - z) h + z n; slices r, z."""
        r, z = self.ih(torch.cat([x, h], 1)).chunk(2, 1)
        h = blend(z, self.hh(torch.cat([x, r * h], 1)), h)
        return h, h

    def forward_time_series(self, x, h):
        """All h, `[B, T, C, H, W]`, and the last."""
        outputs = []
        for image in x.unbind(1):
            output, h = self.forward_single_frame(image, h)
            outputs.append(output)
        return torch.stack(outputs, 1), h

    def forward(self, x, h):
        """Either of these; without h it is 0."""
        if h is None:
            h = x.new_zeros(len(x), *x.shape[-3:])
        if x.ndim == 5:
            return self.forward_time_series(x, h)
        return self.forward_single_frame(x, h)
