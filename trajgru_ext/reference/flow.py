"""Warps along a flow, and their mixture."""

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
    # A whole number first: the smallest displacement is then a weight, too.
    weight = torch.where(falling, (1 - steps) - displacement, 0)
    weight = torch.where(rising, (1 + steps) + displacement, weight)
    undefined = torch.where(distance.isnan(), distance, 0)
    return weight + undefined * undefined  # NaN in its derivative, too


def _clip(displacement: Tensor, at: Tensor, size: int) -> Tensor:
    """The displacement that ends in the image, constant where it is clipped."""
    first, last = -at, size - 1 - at
    displacement = torch.where(displacement >= last, last, displacement)
    return torch.where(displacement < first, first, displacement)


def flow_warp(
    input: Tensor, flow: Tensor, flow_scale: float = 1.0, padding_mode: str = "zeros"
) -> Tensor:
    """Warp an image along a flow; see `trajgru_ext.flow_warp` for all there is to say.

    M[b,c,i,j] = sum_m sum_n I[b,c,m,n] max(0, 1-|i+V-m|) max(0, 1-|j+U-n|)

    With padding_mode="border", i+V is clipped to [0, H-1] and j+U to [0, W-1].
    """
    image, uv = input.double(), flow_scale * flow.double()
    # Half of a position is none.
    uv = torch.where(uv.isnan().any(1, True), uv.sum(1, True), uv)
    height, width = image.shape[2:]
    rows = torch.arange(height, dtype=torch.float64, device=image.device)
    cols = torch.arange(width, dtype=torch.float64, device=image.device)
    if not image.numel():
        return image + uv.sum()  # empty, and connected to both
    lines = []
    for i in range(height):
        u, v = uv[:, 0, i, :, None], uv[:, 1, i, :, None]
        if padding_mode == "border":
            u, v = _clip(u, cols[:, None], width), _clip(v, rows[i], height)
        # [B, j, m, n]: what each pixel of the line reads of every pixel.
        down, across = _hat(i - rows, v), _hat(cols[:, None] - cols, u)
        lines.append(_weigh(down[..., :, None] * across[..., None, :], image))
    return torch.stack(lines, 1).permute(0, 3, 1, 2)


def _weigh(weight: Tensor, image: Tensor) -> Tensor:
    """sum_mn weight[b,j,m,n] image[b,c,m,n]; what has no weight may be NaN."""
    finite = image.isfinite()
    total = torch.einsum("bjmn,bcmn->bjc", weight, torch.where(finite, image, 0))
    for b, m, n in (~finite).any(1).nonzero().tolist():
        weights = weight[b, :, m, n, None]
        unread = (weights == 0) | finite[b, :, m, n]
        total[b] += weights * torch.where(unread, 0, image[b, :, m, n])
    return total


def flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """Warp along each link's flow, concatenate, and mix by a 1x1 convolution."""
    links = [flows[:, k : k + 2] for k in range(0, flows.shape[1], 2)]
    parts = [flow_warp(input, flow, flow_scale) for flow in links]
    warped = torch.cat([input.double()[:, :0], *parts], dim=1)  # of no links, too
    output = torch.einsum("ok,bkhw->bohw", weight.double().flatten(1), warped)
    return output if bias is None else output + bias.double()[:, None, None]
