"""ConvLSTM and ConvGRU as published modules compute them, on our parameters."""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from trajgru_ext.nn import ConvGRU, ConvLSTM


class Ported(nn.Module):
    """One layer, step by step, from a state of 0."""

    def __init__(self, net: ConvLSTM | ConvGRU) -> None:
        super().__init__()
        self.cell = net.cell_list[0]

    def forward(self, inputs: Tensor) -> Tensor:
        steps, batch, _, *size = inputs.shape
        zeros = inputs.new_zeros(batch, self.cell.hidden_channels, *size)
        state, outputs = (zeros, zeros), []
        for t in range(steps):
            state = self.step(inputs[t], *state)
            outputs.append(state[0])
        return torch.stack(outputs)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new (h, c); a GRU has no use for c."""
        raise NotImplementedError


class PortedConvLSTM(Ported):
    """ndrplz/ConvLSTM_pytorch: one convolution of [x, h], split i, f, o, g."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = self.cell.conv(torch.cat([x, h], dim=1))
        i, f, o, g = torch.split(gates, self.cell.hidden_channels, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class PortedConvGRU(Ported):
    """happyjin/ConvGRU-pytorch: the reset before the convolution, u for the new."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        cell = self.cell
        gates = torch.sigmoid(cell.conv_gates(torch.cat([x, h], dim=1)))
        r, u = torch.split(gates, cell.hidden_channels, dim=1)
        n = torch.tanh(cell.conv_can(torch.cat([x, r * h], dim=1)))
        return (1 - u) * h + u * n, c


class PortedGatedConvs(Ported):
    """HKO-7's step: a convolution of x, one of h, the reset after it, u for the old."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        cell = self.cell
        of_x = torch.split(cell.i2h(x), cell.hidden_channels, dim=1)
        of_h = torch.split(cell.h2h(h), cell.hidden_channels, dim=1)
        r = torch.sigmoid(of_x[0] + of_h[0])
        u = torch.sigmoid(of_x[1] + of_h[1])
        n = leaky_relu(of_x[2] + r * of_h[2], cell.negative_slope)
        return u * h + (1 - u) * n, c
