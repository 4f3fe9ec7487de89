"""A 2-D convolution with the parameters, hooks and results of PyTorch's."""

import torch
from torch import Tensor, nn

# Kernels and dtypes for which there is a quicker algorithm, and the fewest channels
# with which its transforms cost less than the products they save.
_KERNELS = ((3, 3), (5, 5))
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_IN_CHANNELS, _OUT_CHANNELS = 8, 16

_PLAIN = (Tensor, nn.Parameter)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`."""

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        result: Tensor = super()._conv_forward(input, weight, bias)
        return result


def may_pay(conv: nn.Conv2d) -> bool:
    """Whether a convolution can be quicker as our `Conv2d`, for images of some size."""
    # Not `conv.weight`: a parametrised one is computed, and may count its computations.
    tensors = list(conv.parameters())
    return (
        conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.kernel_size in _KERNELS
        and conv.padding_mode == "zeros"
        and conv.in_channels >= _IN_CHANNELS
        and conv.out_channels >= _OUT_CHANNELS
        and bool(tensors)
        and all(type(one) in _PLAIN and one.device.type == "cpu" for one in tensors)
        and all(one.dtype in _DTYPES for one in tensors)
    )
