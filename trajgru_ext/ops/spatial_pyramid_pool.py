"""Spatial pyramid pooling: bins of several sizes from one read of the map."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from trajgru_ext.ops._arguments import check_sizes, check_tensors
from trajgru_ext.ops._autograd import Function, fold, unfold, unfold_wanted
from trajgru_ext.ops._layout import memory_format
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import decomposition, fake, operator

MODES = ("max", "mean")
MOST_LEVELS = 1024


@overridable
def spatial_pyramid_pool(input: Tensor, levels: int, mode: str = "max") -> Tensor:
    """Pool a map to n x n bins for n = 1 to `levels`, flattened and side by side.

    Along an axis of S pixels, level n has ::

        kernel = stride = ceil(S / n)
        padding = floor((kernel * n - S + 1) / 2)
        bin i = pixels i * kernel - padding to (i + 1) * kernel - padding - 1

    of which those inside the map count. That is what `max_pool2d` and `avg_pool2d`
    compute with these arguments, where they accept them; here every H, W >= 1 works. A
    mean divides by all of a bin, padding too, as `avg_pool2d` does; a bin that lies in
    the padding alone (5 pixels have one at level 4) is 0.

    Differentiable any number of times in reverse mode and once in forward mode on top,
    under `torch.func` and `torch.compile`. The gradient of a maximum goes to the first
    of its places. The same bit for bit for any number of threads; no atomics on CUDA.

    Args:
        input: `[B, C, H, W]` in float32, float64, bfloat16 or float16; any strides.
        levels: 1 to 1024.
        mode: "max" or "mean".

    Returns:
        `[B, C * (1 + 4 + ... + levels**2)]` in the dtype of `input`, level by level
        `[C, n, n]`; sums are formed in float32 (float64 for float64).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: the map has no pixels, or an argument's rank or choice does not fit.

    Source: He et al. 2014, "Spatial Pyramid Pooling in Deep Convolutional Networks for
    Visual Recognition" (arXiv 1406.4729).

    Examples:
        >>> import torch
        >>> from trajgru_ext import spatial_pyramid_pool
        >>> spatial_pyramid_pool(torch.randn(2, 3, 9, 7), levels=3).shape
        torch.Size([2, 42])

    """
    op = "spatial_pyramid_pool"
    check_tensors(op, input=input)
    check_levels(op, levels)
    check_choice(op, "mode", mode, MODES)
    output: Tensor
    output, _ = _Pool.call(input, levels, mode == "max")
    return output


def check_levels(op: str, levels: Any) -> None:
    """Raise a ValueError for what is no number of levels."""
    if not isinstance(levels, int) or not 1 <= levels <= MOST_LEVELS:
        raise ValueError(f"{op}: levels must be 1 to {MOST_LEVELS}, got {levels!r}")


def bins(levels: int) -> int:
    """The bins of all levels, for one channel."""
    return levels * (levels + 1) * (2 * levels + 1) // 6


@fake("spatial_pyramid_pool")
def _fake_pool(input: Tensor, levels: int, largest: bool) -> tuple[Tensor, Tensor]:
    op = "spatial_pyramid_pool"
    check_sizes(op, "input", input, [-1] * 4, input)
    batch, channels, height, width = input.shape
    if height == 0 or width == 0:
        raise ValueError(
            f"{op}: input must have 1 to 2^31 - 1 pixels, got {height} x {width}"
        )
    output = input.new_empty(batch, channels * bins(levels))
    places = output.shape if largest else 0
    return output, input.new_empty(places, dtype=torch.int32)


@fake("spatial_pyramid_pool_backward")
def _fake_pool_backward(
    grad: Tensor,
    places: Tensor,
    height: int,
    width: int,
    levels: int,
    largest: bool,
    channels_last: bool,
) -> Tensor:
    return torch.empty(
        (grad.shape[0], grad.shape[1] // bins(levels), height, width),
        dtype=grad.dtype,
        device=grad.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


@decomposition("spatial_pyramid_pool")
def _by_pytorch(input: Tensor, levels: int, largest: bool) -> tuple[Tensor, Tensor]:
    pooled = []
    for n in range(1, levels + 1):
        kernel = [-(-size // n) for size in input.shape[2:]]
        around: list[int] = []
        for size, k in zip(input.shape[2:], kernel, strict=True):
            before = (k * n - size + 1) // 2
            around = [before, k * n - size - before, *around]
        if largest:
            inside = max_pool2d(pad(torch.ones_like(input), around), kernel) > 0
            most = max_pool2d(pad(input, around, value=-torch.inf), kernel)
            level = torch.where(inside, most, 0)
        else:
            level = avg_pool2d(pad(input, around), kernel)
        pooled.append(level.flatten(1))
    return torch.cat(pooled, 1), input.new_empty(0, dtype=torch.int32)


def _read(image: Tensor, places: Tensor, levels: int) -> Tensor:
    """What the image has at the places of the maxima; 0 where there is none."""
    each = [image.shape[1] * n * n for n in range(1, levels + 1)]
    flat = image.flatten(2)
    parts = []
    for part in torch.split(places, each, 1):
        at = torch.unflatten(part, 1, (image.shape[1], -1)).long()
        values = torch.where(at < 0, 0, flat.gather(2, at.clamp(min=0)))
        parts.append(values.flatten(1))
    return torch.cat(parts, 1)


def _pool_again(image: Tensor, places: Tensor, levels: int, largest: bool) -> Tensor:
    """The pooling of another map, whose maxima are taken at the same places."""
    if largest:
        return _read(image, places, levels)
    output: Tensor
    output, _ = _Pool.call(image, levels, False)
    return output


class _Pool(Function):
    @staticmethod
    def forward(input: Tensor, levels: int, largest: bool) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor]
        found = operator("spatial_pyramid_pool")(input, levels, largest)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        input, ctx.levels, ctx.largest = inputs
        _, _, *ctx.size = input.shape
        ctx.channels_last = memory_format(input) == torch.channels_last
        _, places = output
        ctx.mark_non_differentiable(places)
        ctx.save_for_backward(places)
        ctx.save_for_forward(places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        options = (*ctx.size, ctx.levels, ctx.largest, ctx.channels_last)
        return _Pool.gradients(input=_PoolBackward.call(grad, places, *options))

    @staticmethod
    def tangent(ctx: Any, input: Tensor, *_: None) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return _pool_again(input, places, ctx.levels, ctx.largest), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], input: Tensor, levels: int, largest: bool
    ) -> Any:
        (folded,) = fold(info, in_dims, input)
        return unfold_wanted(info, _Pool.call(folded, levels, largest))


class _PoolBackward(Function):
    """The gradient to the map, which is linear in that to the result."""

    @staticmethod
    def forward(
        grad: Tensor,
        places: Tensor,
        height: int,
        width: int,
        levels: int,
        largest: bool,
        channels_last: bool,
    ) -> Tensor:
        backward = operator("spatial_pyramid_pool_backward")
        found: Tensor
        found = backward(grad, places, height, width, levels, largest, channels_last)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        args = _PoolBackward.Arguments(*inputs)
        ctx.size = (args.height, args.width)
        ctx.levels, ctx.largest = args.levels, args.largest
        ctx.channels_last = args.channels_last
        ctx.save_for_backward(args.places)
        ctx.save_for_forward(args.places)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        grad = _pool_again(cotangent, places, ctx.levels, ctx.largest)
        return _PoolBackward.gradients(grad=grad)

    @staticmethod
    def tangent(ctx: Any, grad: Tensor, *_: None) -> Tensor:
        (places,) = ctx.saved_tensors
        options = (*ctx.size, ctx.levels, ctx.largest, ctx.channels_last)
        found: Tensor = _PoolBackward.call(grad, places, *options)
        return found

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], grad: Tensor, places: Tensor, *options: Any
    ) -> Any:
        dims = _PoolBackward.Arguments(*in_dims)
        if places.numel() == 0 and dims.places is None:
            (grad,) = fold(info, in_dims, grad)
        else:
            grad, places = fold(info, in_dims, grad, places)
        return unfold(info, _PoolBackward.call(grad, places, *options)), 0
