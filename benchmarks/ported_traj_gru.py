"""TrajGRU as the published PyTorch port computes it, on the parameters of our layer."""

import torch
from bench_flow_warp import wrap
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from trajgru_ext.nn import TrajGRU


class PortedTrajGRU(nn.Module):
    """L calls of wrap, concatenation and a 1x1 convolution in every step."""

    def __init__(self, layer: TrajGRU) -> None:
        super().__init__()
        self.layer = layer

    def warp(self, h: Tensor, flows: Tensor) -> Tensor:
        """The state warped along every flow, and mixed."""
        warped = [wrap(h, -flow) for flow in flows.split(2, dim=1)]
        return self.layer.ret(torch.cat(warped, dim=1))

    def forward(self, inputs: Tensor) -> Tensor:
        layer, (_, batch, _, *size) = self.layer, inputs.shape
        h = inputs.new_zeros(batch, layer.hidden_channels, *size)
        outputs = []
        for x, x_gates in zip(
            inputs.unbind(),
            layer.i2h(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2]).unbind(),
            strict=True,
        ):
            hidden = leaky_relu(layer.i2f_conv1(x) + layer.h2f_conv1(h), 0.2)
            hh = self.warp(h, layer.flows_conv(hidden))
            x_r, x_u, x_n = x_gates.chunk(3, dim=1)
            h_r, h_u, h_n = hh.chunk(3, dim=1)
            r, u = torch.sigmoid(x_r + h_r), torch.sigmoid(x_u + h_u)
            n = leaky_relu(x_n + r * h_n, 0.2)
            h = u * h + (1 - u) * n
            outputs.append(h)
        return torch.stack(outputs)


class DeformedTrajGRU(PortedTrajGRU):
    """The same by torchvision's deformable convolution."""

    def warp(self, h: Tensor, flows: Tensor) -> Tensor:
        from bench_flow_conv import deformed  # noqa: PLC0415 - optional

        ret = self.layer.ret
        return deformed(h, -flows, ret.weight.flatten(1), ret.bias)
