"""The bilinear warp as published code has it, by `grid_sample`, and mixes of warps.

`grid_sample` ignores the flow along an axis of one pixel, and rounds positions: near
whole coordinates it may take the other cell, which has another gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample


def positions(flow: Tensor) -> Tensor:
    """Where the flow points to, as `grid_sample` wants it: `[B, H, W, 2]`, (x, y).

    From -1 to 1, these at the centres of the outer pixels. The flow is `[B, 2, H, W]`,
    in pixels to the right and down.
    """
    height, width = flow.shape[2:]
    like = {"dtype": flow.dtype, "device": flow.device}
    x = torch.arange(width, **like) + flow[:, 0]
    y = torch.arange(height, **like)[:, None] + flow[:, 1]
    ends = max(width - 1, 1), max(height - 1, 1)
    return torch.stack((2 * x / ends[0] - 1, 2 * y / ends[1] - 1), dim=-1)


def sample(
    image: Tensor,
    grid: Tensor,
    align_corners: bool | None = True,
    padding_mode: str = "zeros",
) -> Tensor:
    """The image at the positions; None is PyTorch's own default."""
    return grid_sample(
        image,
        grid,
        mode="bilinear",
        padding_mode=padding_mode,
        align_corners=align_corners,
    )


def warp(image: Tensor, flow: Tensor, align_corners: bool | None = True) -> Tensor:
    """The image read where the flow points to from each pixel."""
    return sample(image, positions(flow), align_corners)


def mix_warps(
    image: Tensor,
    flows: Tensor,
    mix: Callable[[Tensor], Tensor],
    one_warp: Callable[[Tensor, Tensor], Tensor] = warp,
) -> Tensor:
    """The image along each of the flows, one warp after the other, and mixed.

    The flows are `[B, 2 L, H, W]`; `mix`, a 1x1 convolution, gets L images side by side
    in the channels.
    """
    return mix(torch.cat([one_warp(image, flow) for flow in flows.split(2, 1)], 1))


def mix_deformed(
    image: Tensor, flows: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`mix_warps` for an odd L, as torchvision's deformable convolution.

    Its L x 1 kernel is moved back to one point; the weight is that of the 1x1
    convolution, `[F, L C]`.
    """
    from torchvision.ops import deform_conv2d  # noqa: PLC0415 - optional

    links, channels = flows.shape[1] // 2, image.shape[1]
    middle = (links - 1) // 2
    u, v = flows.unflatten(1, (links, 2)).unbind(2)
    steps = torch.arange(links, device=flows.device).view(-1, 1, 1) - middle
    offsets = torch.stack((v - steps, u), dim=2).flatten(1, 2)
    kernel = weight.unflatten(1, (links, channels)).transpose(1, 2)[..., None]
    return deform_conv2d(image, offsets, kernel, bias, padding=(middle, 0))


def mix_in_one(
    image: Tensor, flows: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`mix_warps` by one `grid_sample`, a sample's warped images below one another."""
    batch, _, height, _ = image.shape
    links = flows.shape[1] // 2
    each = flows.unflatten(1, (links, 2)).flatten(0, 1)
    grid = positions(each).unflatten(0, (batch, links)).flatten(1, 2)
    warped = sample(image, grid).unflatten(2, (links, height)).movedim(2, 1)
    return conv2d(warped.flatten(1, 2), weight[:, :, None, None], bias)
