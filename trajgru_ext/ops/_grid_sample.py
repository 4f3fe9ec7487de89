"""Warps by PyTorch's grid_sample, where the operators are decomposed."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad


def warps_by_grid_sample(
    input: Tensor, flows: Tensor, flow_scale: float, padding_mode: str = "zeros"
) -> Tensor:
    """The input warped along each of L flows, `[B, L * C, H, W]`, by one grid_sample.

    Positions differ from `flow_warp`'s by the round-off of normalising them, about
    `eps * max(H, W)` pixels.
    """
    links, (height, width) = flows.shape[1] // 2, flows.shape[2:]
    image = input.to(torch.promote_types(input.dtype, torch.float32))
    if height == 1 or width == 1:  # an axis along which grid_sample ignores the flow
        image = pad(image, (0, 1, 0, 1))
    each = torch.unflatten(flow_scale * flows.to(image.dtype), 1, (links, 2))
    u, v = each.unbind(2)
    device = flows.device
    x = u + torch.arange(width, device=device)
    y = v + torch.arange(height, device=device)[:, None]
    # What lies far outside, or at infinity, reads 0 two pixels outside too. Clipped to
    # the border here, NaN stays NaN, which it does not in grid_sample.
    (rows, cols), grid = image.shape[2:], []
    first, beyond = (-2, 1) if padding_mode == "zeros" else (0, -1)
    for position, size, padded in ((x, width, cols), (y, height, rows)):
        clipped = position.clamp(first, size + beyond)
        grid.append(clipped * (2 / (padded - 1)) - 1)
    # The links' grids above each other.
    above = torch.stack(grid, -1).flatten(1, 2)
    warped = grid_sample(image, above, padding_mode="zeros", align_corners=True)
    warped = torch.unflatten(warped, 2, (links, height)).transpose(1, 2).flatten(1, 2)
    return warped.to(input.dtype)


def flow_conv_by_grid_sample(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """The warps, and a 1x1 convolution."""
    warped = warps_by_grid_sample(input, flows, flow_scale)
    return conv2d(warped, weight[:, :, None, None], bias)
