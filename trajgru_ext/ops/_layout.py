"""Memory formats, as csrc/tensors.h states them for the kernels."""

import torch
from torch import Tensor


def memory_format(image: Tensor) -> torch.memory_format:
    """Channels last where the channels of a pixel are contiguous, else contiguous."""
    if image.shape[1] > 1 and image.stride(1) == 1 and not image.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def channels_last_on_cpu(image: Tensor) -> Tensor:
    """On a CPU in channels last, where torch's depthwise convolutions are fastest."""
    if image.device.type != "cpu":
        return image
    return image.contiguous(memory_format=torch.channels_last)


def empty_image(like: Tensor, channels: int | None = None) -> Tensor:
    """What an operator returns for an image of this size, dtype and format.

    channels: of a convolution's output, where they differ.
    """
    batch, of_like, height, width = like.shape
    return torch.empty(
        (batch, of_like if channels is None else channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=memory_format(like),
    )


def empty_stack(count: int, like: Tensor, channels: int) -> Tensor:
    """What an operator returns for `count` images, `[count, B, C, H, W]`."""
    batch, _, height, width = like.shape
    if memory_format(like) == torch.contiguous_format:
        return like.new_empty(count, batch, channels, height, width)
    stack = like.new_empty(count, batch, height, width, channels)
    return stack.permute(0, 1, 4, 2, 3)
