"""A 2-D convolution with the parameters, hooks and results of PyTorch's."""

from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.ops._overrides import PLAIN
from trajgru_ext.ops.conv2d import (
    DTYPES,
    FEWEST_CHANNELS,
    FEWEST_OUTPUTS,
    KERNELS,
    conv2d,
)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` by `trajgru_ext.conv2d`.

    Arguments, parameters, results and errors are those of `torch.nn.Conv2d`; on the CPU
    small square and one-row or one-column kernels of stride 1 are several times faster.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import Conv2d
        >>> Conv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 24, 24)).shape
        torch.Size([2, 32, 24, 24])

    """

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        return convolved(self, input, weight, bias)


def convolved(
    conv: nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """What a convolution's settings make of the operands.

    By torch where an operand is of a class that says itself what torch's functions make
    of it.
    """
    if conv.padding_mode != "zeros" or any(map(_overrides, (input, weight, bias))):
        plain: Tensor = nn.Conv2d._conv_forward(conv, input, weight, bias)
        return plain
    options = conv.stride, conv.padding, conv.dilation, conv.groups
    return conv2d(input, weight, bias, *options)


def _overrides(operand: Tensor | None) -> bool:
    kind: Any = type(operand)
    if kind in PLAIN or not isinstance(operand, Tensor):
        return False
    disabled = torch._C._disabled_torch_function_impl
    overrides: bool = kind.__torch_function__ is not disabled
    return overrides


def may_pay(conv: nn.Conv2d) -> bool:
    """Whether a convolution can be quicker as our `Conv2d`, for images of some size."""
    # Not `conv.weight`: a parametrised one is computed, and may count its computations.
    tensors = list(conv.parameters())
    return (
        conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.kernel_size in KERNELS
        and conv.padding_mode == "zeros"
        and conv.in_channels >= FEWEST_CHANNELS
        and conv.out_channels >= FEWEST_OUTPUTS
        and bool(tensors)
        and all(type(one) in PLAIN and one.device.type == "cpu" for one in tensors)
        and all(one.dtype in DTYPES for one in tensors)
    )
