"""A two-dimensional convolution, faster than torch's where Winograd's pays."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d as torch_conv2d

from trajgru_ext import _C
from trajgru_ext.ops import _registry
from trajgru_ext.ops._autograd import transforming
from trajgru_ext.ops._overrides import PLAIN, leaf
from trajgru_ext.ops._registry import decomposition, fake, operator

# Kernels that csrc/cpu/conv has Winograd's convolutions for.
KERNELS = {(3, 3), (5, 5)} | {s for k in (3, 5, 7) for s in ((1, k), (k, 1))}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# With fewer they pay for no size (csrc/cpu/conv/conv_algorithm.cpp).
FEWEST_CHANNELS, FEWEST_OUTPUTS = 8, 16
_FEWEST_ELEMENTS = FEWEST_CHANNELS * 256


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Convolve images: `torch.nn.functional.conv2d`, several times faster where it can.

    The same result, gradients (of any order, in reverse and forward mode, under
    `torch.func`), memory format and errors, for the same arguments. On the CPU, with
    stride 1 and without dilation and groups, kernels 3x3, 5x5, 1x3, 1x5, 1x7, 3x1, 5x1
    and 7x1 are computed by Winograd's convolution (Lavin and Gray 2016, arXiv
    1509.09308) in float32, where that is faster by measurement: it depends on channels,
    kernel, height and width, and not on the batch or the threads. `conv_algorithm`
    forces or forbids it, and says how results are rounded. bfloat16 and float16 are
    computed in float32 and rounded once, unless the processor multiplies in these
    itself. All else is torch's.

    Winograd's weights are transformed once and kept while their contents stay the same;
    see `packed_weights`. Results and gradients are the same bit for bit for any number
    of threads where Winograd's convolution is used.

    Args:
        input: `[B, C, H, W]`, in any memory format; or whatever else torch takes.
        weight: `[O, C / groups, k, k']`.
        bias: `[O]` or None.
        stride: a number, or one for rows and one for columns.
        padding: likewise, or "same" or "valid".
        dilation: likewise, without these.
        groups: of channels.

    Returns:
        `[B, O, H', W']`.

    Raises:
        RuntimeError, TypeError, ValueError: as torch's.

    Examples:
        >>> import torch
        >>> from trajgru_ext import conv2d
        >>> images, weight = torch.randn(2, 16, 32, 32), torch.randn(32, 16, 3, 3)
        >>> conv2d(images, weight, padding="same").shape
        torch.Size([2, 32, 32, 32])

    """
    # What follows takes a third as long as a small convolution does.
    if (
        type(input) in PLAIN
        and type(weight) in PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._is_torch_function_mode_enabled()
        and (groups != 1 or _small_and_alone(input))
        and not _C.conv_algorithm_forced()
    ):
        return torch_conv2d(input, weight, bias, stride, padding, dilation, groups)
    return _of_any_arguments(input, weight, bias, stride, padding, dilation, groups)


conv2d.__module__ = "trajgru_ext"


def _small_and_alone(image: Tensor) -> bool:
    """Whether torch convolves it as well; several threads wait for one another."""
    return image.numel() < _FEWEST_ELEMENTS and torch.get_num_threads() == 1


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """The same, of anything that can stand for a tensor."""
    if not transforming() and not _registry.replaced():
        sides = (padding, padding) if type(padding) is int else padding
        if isinstance(sides, str):
            sides = _padding(weight, sides, dilation)
        if sides is not None and _eager(input, weight, bias):
            options = _pair(stride), sides, _pair(dilation), groups
            try:
                found: Tensor = _C.conv2d(input, weight, bias, *options)
            except TypeError:
                pass  # torch tells what is wrong
            else:
                return found
        elif (
            sides is not None
            and all(tuple(_pair(one)) == (1, 1) for one in (stride, dilation))
            and groups == 1
            and _may_pay(input, weight)
        ):
            traced: Tensor = operator("conv2d")(input, weight, bias, sides)
            return traced
    return torch_conv2d(input, weight, bias, stride, padding, dilation, groups)


_of_any_arguments = leaf(_conv2d, conv2d)


def _may_pay(input: Tensor, weight: Tensor) -> bool:
    """Whether images of some sizes are convolved faster than by torch.

    Where tracing, which sees no autocast in our operator.
    """
    tensors = isinstance(input, Tensor) and isinstance(weight, Tensor)
    if torch.is_autocast_enabled("cpu") or not tensors or weight.dim() != 4:
        return False
    outputs, channels, *kernel = weight.shape
    return (
        weight.device.type == input.device.type == "cpu"
        and weight.dtype in DTYPES
        and input.dtype == weight.dtype
        and input.dim() == 4
        and tuple(kernel) in KERNELS
        and channels >= FEWEST_CHANNELS
        and outputs >= FEWEST_OUTPUTS
    )


def _eager(input: Any, weight: Any, bias: Any) -> bool:
    """Whether there is nothing but numbers: no tracing and no fake tensors."""
    return (
        type(input) in PLAIN
        and type(weight) in PLAIN
        and (bias is None or type(bias) in PLAIN)
        and not torch.compiler.is_compiling()
    )


def _pair(value: Any) -> Any:
    """One number for rows and columns, or whatever was given."""
    return (value, value) if isinstance(value, int) else value


def _padding(weight: Tensor, padding: str, dilation: Any) -> Any:
    """The padding in numbers; None where both sides of an axis differ."""
    if padding == "valid":
        return (0, 0)
    kernel = tuple(weight.shape[2:])
    odd = len(kernel) == 2 and all(taps % 2 == 1 for taps in kernel)
    if padding != "same" or not odd or tuple(_pair(dilation)) != (1, 1):
        return None
    return tuple(taps // 2 for taps in kernel)


@fake("conv2d")
def _fake_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]
) -> Tensor:
    return torch_conv2d(input, weight, bias, 1, padding)


@fake("conv2d_backward")
def _fake_conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    padding: list[int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.ops.aten.convolution_backward(
        *(grad, input, weight, [weight.shape[0]], [1, 1], padding, [1, 1]),
        *(False, [0, 0], 1, wanted),
    )
    nothing = weight.new_empty(0)
    to_input, to_weight, to_bias = (nothing if one is None else one for one in found)
    return to_input, to_weight, to_bias


@decomposition("conv2d")
def _by_torch(
    input: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]
) -> Tensor:
    return torch_conv2d(input, weight, bias, 1, padding)
