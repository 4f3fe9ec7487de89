"""Modules that see each frame by itself, as the convolutions between layers."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trajgru_ext.ops._overrides import leaf

# Few enough that what their backward pass needs is small beside a sequence, and enough
# for a convolution.
_TOGETHER = 4


@leaf
def channels_last(images: Tensor) -> Tensor:
    """The images with the channels of a pixel together.

    Images of one channel have both formats by their sizes, and a convolution goes by
    their strides: those are copied.
    """
    # vmap knows no channels_last.
    pixels = images.permute(0, 2, 3, 1)
    if images.shape[1] == 1:
        pixels = pixels.clone(memory_format=torch.contiguous_format)
    return pixels.contiguous().permute(0, 3, 1, 2)


def on_frames(
    module: Callable[[Tensor], Tensor], images: Tensor, again: bool
) -> Tensor:
    """Run a module on images, which it must not mix.

    again: the backward pass computes everything inside again, a few images at a time.
    """
    if not again or not torch.is_grad_enabled() or len(images) == 0:
        return module(images)
    parts = torch.split(images, _TOGETHER)
    return torch.cat([checkpoint(module, one, use_reentrant=False) for one in parts])
