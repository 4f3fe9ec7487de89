"""The memory formats of images, which the kernels choose by the same rule."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops import _registry
from trajgru_ext.ops._arguments import DTYPES
from trajgru_ext.ops._autograd import Function, one_by_one, transforming
from trajgru_ext.ops._registry import fake


def memory_format(image: Tensor) -> torch.memory_format:
    """Channels last where the channels of a pixel are contiguous, else contiguous."""
    if image.shape[1] > 1 and image.stride(1) == 1 and not image.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def channels_last_on_cpu(image: Tensor) -> Tensor:
    """On a CPU in channels last, where torch's depthwise convolutions are fastest."""
    if image.device.type != "cpu":
        return image
    return in_format(image, torch.channels_last)


def in_format(image: Tensor, wanted: torch.memory_format) -> Tensor:
    """Make an image contiguous in this format; on a CPU several times faster so."""
    ours = image.device.type == "cpu" and image.dtype in DTYPES
    if not ours or torch.compiler.is_compiling() or _registry.replaced():
        return image.contiguous(memory_format=wanted)
    # Within vmap the question cannot be asked.
    if not transforming() and image.is_contiguous(memory_format=wanted):
        return image
    found: Tensor = _InFormat.call(image, wanted)
    return found


@fake("copy_image")
def _fake_copy_image(to: Tensor, source: Tensor) -> None:
    pass


class _InFormat(Function):
    @staticmethod
    def forward(image: Tensor, wanted: torch.memory_format) -> Tensor:
        found = torch.empty_like(image, memory_format=wanted)
        # Only the build's own CPU kernels have it, whatever stands in for the others.
        torch.ops.trajgru_ext.copy_image(found, image)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        image, ctx.wanted = inputs
        ctx.given = memory_format(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _InFormat.gradients(image=in_format(grad, ctx.given))

    @staticmethod
    def tangent(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return in_format(tangent, ctx.wanted)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        return one_by_one(_InFormat, info, in_dims, args)


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
