"""Published layers over time in plain PyTorch, on the parameters of ours."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ports import convgru_pytorch, convlstm_pytorch
from ports.precipitation_nowcasting import traj_gru
from ports.updates import gru_reset_after
from ports.warp import mix_deformed, mix_warps
from trajgru_ext.nn import ConvGRU, ConvLSTM, TrajGRU


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
    """ndrplz/ConvLSTM_pytorch."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return convlstm_pytorch.step(self.cell.conv, x, h, c)


class PortedConvGRU(Ported):
    """happyjin/ConvGRU-pytorch."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        cell = self.cell
        return convgru_pytorch.step(cell.conv_gates, cell.conv_can, x, h), c


class PortedGatedConvs(Ported):
    """HKO-7: a convolution of x, one of h, the reset after it."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        cell = self.cell
        slope = functools.partial(leaky_relu, negative_slope=cell.negative_slope)
        return gru_reset_after(cell.i2h(x), cell.h2h(h), h, slope), c


class PortedTrajGRU(nn.Module):
    """Hzzone/Precipitation-Nowcasting: L warps, concatenated, in every step."""

    def __init__(self, layer: TrajGRU) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(inputs)

    def run(self, inputs: Tensor, mix: Callable[..., Tensor] = mix_warps) -> Tensor:
        """The states after every step, from a state of 0."""
        steps, batch, _, *size = inputs.shape
        h = inputs.new_zeros(batch, self.layer.hidden_channels, *size)
        return traj_gru(self.layer, inputs, h, steps, mix=mix)[0]


class DeformedTrajGRU(PortedTrajGRU):
    """The same by torchvision's deformable convolution."""

    def forward(self, inputs: Tensor) -> Tensor:
        def mix(h: Tensor, flows: Tensor, ret: nn.Conv2d) -> Tensor:
            return mix_deformed(h, flows, ret.weight.flatten(1), ret.bias)

        return self.run(inputs, mix=mix)
