"""The warp of `grid_sample` without `align_corners`, by flows that say as much."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._overrides import leaf


@leaf
def of_half_pixels(
    inputs: Tensor | None, h: Tensor | None, like: Tensor, links: int
) -> tuple[Tensor, Tensor]:
    """The scale `[2L]` and offset `[2L, H, W]` of the flows of images `[..., H, W]`.

    The image is read at x - s u - (1 - s) x - 1/2, with s = W / (W - 1), and so for y.

    Args:
        inputs: images, of which only the size matters.
        h: the same; it may be only one of the two that is given.
        like: on whose device, and in whose dtype or float32.
        links: how many flows there are.

    """
    images = inputs if h is None else h
    if images is None or images.dim() < 2:
        height = width = 1  # the operator finds what is missing
    else:
        height, width = images.shape[-2:]
    scales = [size / max(size - 1, 1) for size in (width, height)]
    dtype = torch.promote_types(like.dtype, torch.float32)
    options: dict[str, Any] = {"dtype": dtype, "device": like.device}
    x = torch.arange(width, **options).expand(height, width)
    y = torch.arange(height, **options)[:, None].expand(height, width)
    pairs = zip(scales, (x, y), strict=True)
    offset = torch.stack([(1 - scale) * place + 0.5 for scale, place in pairs])
    scale = torch.tensor(scales * links, **options)
    return scale, offset.repeat(links, 1, 1)
