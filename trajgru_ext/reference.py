"""Each operator as its naive formula: slow, readable, and differentiable by autograd.

They are what the tests and a doubtful reader compare with. All
compute in float64 and return it.
"""

import torch
from torch import Tensor


def _hat(steps: Tensor, displacement: Tensor) -> Tensor:
    """max(0, 1 - |steps + displacement|), at its corners differentiated to the right.

    The displacement is compared with whole numbers before they are added, since a sum
    would lose on which side of them a small one lies.
    """
    distance = steps + displacement
    rising = (displacement >= -1 - steps) & (displacement < -steps)
    falling = (displacement >= -steps) & (displacement < 1 - steps)
    weight = torch.where(rising, 1 + distance, torch.where(falling, 1 - distance, 0))
    return torch.where(distance.isnan(), torch.nan, weight)


def flow_warp(input: Tensor, flow: Tensor, flow_scale: float = 1.0) -> Tensor:
    """Warp an image along a flow; see `trajgru_ext.flow_warp` for all there is to say.

    M[b,c,i,j] = sum_m sum_n I[b,c,m,n] max(0, 1-|i+V-m|) max(0, 1-|j+U-n|)
    """
    image, uv = input.double(), flow_scale * flow.double()
    batch, channels, height, width = image.shape
    rows = torch.arange(height, dtype=torch.float64, device=image.device)
    cols = torch.arange(width, dtype=torch.float64, device=image.device)
    pixels = []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                u, v = uv[b, 0, i, j], uv[b, 1, i, j]
                weight = _hat(i - rows, v)[:, None] * _hat(j - cols, u)
                # What has no weight is not read: it may be NaN.
                unread = (weight == 0) & ~image[b].isfinite()
                terms = weight * torch.where(unread, 0, image[b])
                pixels.append(terms.sum((1, 2)))
    if not pixels:
        return image + uv.sum()  # empty, and connected to both
    output = torch.stack(pixels).view(batch, height, width, channels)
    return output.permute(0, 3, 1, 2)


def flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """Warp along each link's flow, concatenate, and mix by a 1x1 convolution."""
    links = flows.double().split(2, dim=1)
    warped = torch.cat([flow_warp(input, flow, flow_scale) for flow in links], dim=1)
    output = torch.einsum("ok,bkhw->bohw", weight.double().flatten(1), warped)
    return output if bias is None else output + bias.double()[:, None, None]
