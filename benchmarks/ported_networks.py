"""Networks of Precipitation-Nowcasting in plain PyTorch: L warps, one after the other.

The attributes are the original's, by which `trajgru_ext.accelerate` finds the layers.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, leaky_relu


class Leaky:
    """The original's activation."""

    def __init__(self) -> None:
        self._act_type = "leaky"
        self.negative_slope = 0.2

    def __call__(self, values: Tensor) -> Tensor:
        return leaky_relu(values, self.negative_slope)


class TrajGRU(nn.Module):
    """The original's layer; with `align_corners=None` the default of `grid_sample`."""

    def __init__(
        self,
        input_channel: int,
        num_filter: int,
        b_h_w: tuple[int, int, int],
        zoneout: float = 0.0,
        L: int = 5,
        act_type: Callable[[Tensor], Tensor] | None = None,
        align_corners: bool | None = True,
    ) -> None:
        super().__init__()
        self._num_filter = num_filter
        self._batch_size, self._state_height, self._state_width = b_h_w
        self._zoneout = zoneout
        self._L = L
        self._act_type = Leaky() if act_type is None else act_type
        self._align_corners = align_corners
        self.i2h = nn.Conv2d(input_channel, 3 * num_filter, (3, 3), 1, (1, 1))
        self.i2f_conv1 = nn.Conv2d(input_channel, 32, (5, 5), 1, (2, 2))
        self.h2f_conv1 = nn.Conv2d(num_filter, 32, (5, 5), 1, (2, 2))
        self.flows_conv = nn.Conv2d(32, 2 * L, (5, 5), 1, (2, 2))
        self.ret = nn.Conv2d(L * num_filter, 3 * num_filter, (1, 1))

    def forward(
        self,
        inputs: Tensor | None = None,
        states: Tensor | None = None,
        seq_len: int = 5,
    ) -> tuple[Tensor, Tensor]:
        """The states after every step, and the last."""
        h = states
        if h is None:
            sizes = inputs.shape[1], self._num_filter
            h = inputs.new_zeros(*sizes, self._state_height, self._state_width)
        if inputs is not None:
            x_gates = self.i2h(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        outputs = []
        for t in range(seq_len):
            hidden = self.h2f_conv1(h)
            if inputs is not None:
                hidden = self.i2f_conv1(inputs[t]) + hidden
            flows = self.flows_conv(self._act_type(hidden))
            warped = [self.wrap(h, -flow) for flow in flows.split(2, 1)]
            r, u, m = self.ret(torch.cat(warped, 1)).chunk(3, 1)
            if inputs is None:
                m = self._act_type(r.sigmoid() * m)
            else:
                x_r, x_u, x_m = x_gates[t].chunk(3, 1)
                r, u = x_r + r, x_u + u
                m = self._act_type(x_m + r.sigmoid() * m)
            u = u.sigmoid()
            h = u * h + (1 - u) * m
            outputs.append(h)
        return torch.stack(outputs), h

    def wrap(self, image: Tensor, flow: Tensor) -> Tensor:
        """Read the image where the flow points to, in pixels."""
        batch, _, height, width = image.shape
        x = torch.arange(width, device=image.device).expand(height, width)
        y = torch.arange(height, device=image.device)[:, None].expand(height, width)
        position = torch.stack([x, y]).expand(batch, 2, height, width) + flow
        ends = position.new_tensor([max(width - 1, 1), max(height - 1, 1)])
        grid = 2.0 * position.permute(0, 2, 3, 1) / ends - 1.0
        return grid_sample(image, grid, align_corners=self._align_corners)
