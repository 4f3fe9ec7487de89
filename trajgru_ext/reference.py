"""Each operator as its naive formula: slow, readable, and differentiable by autograd.

They are what the tests, `trajgru-ext check` and a doubtful reader compare with. All
compute in float64 and return it.
"""

import torch
from torch import Tensor


def _hat(distance: Tensor) -> Tensor:
    """max(0, 1 - |distance|), with the derivative from the right at its corners."""
    rising = torch.where((distance >= -1) & (distance < 0), 1 + distance, 0)
    weight = torch.where((distance >= 0) & (distance < 1), 1 - distance, rising)
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
                # i + V - m as (i - m) + V, for the digits of a small displacement.
                weight = _hat((i - rows) + v)[:, None] * _hat((j - cols) + u)
                # What has no weight is not read: it may be NaN.
                unread = (weight == 0) & ~image[b].isfinite()
                terms = weight * torch.where(unread, 0, image[b])
                pixels.append(terms.sum((1, 2)))
    if not pixels:
        return image * 0
    output = torch.stack(pixels).view(batch, height, width, channels)
    return output.permute(0, 3, 1, 2)
