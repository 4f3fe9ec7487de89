"""PyTorch's checks of derivatives and registrations, as far as each tells anew."""

import torch
from emulation import device
from torch.utils._pytree import tree_leaves

SHORT = ("test_schema", "test_autograd_registration", "test_faketensor")


def _options(tensors, options):
    """On an emulated device, whose launches take long, one direction stands for all."""
    devices = {one.device.type for one in tree_leaves(tensors) if one is not None}
    return {"fast_mode": True, **options} if device.NAME in devices else options


def gradcheck(function, tensors, **options):
    return torch.autograd.gradcheck(function, tensors, **_options(tensors, options))


def gradgradcheck(function, tensors, **options):
    return torch.autograd.gradgradcheck(function, tensors, **_options(tensors, options))


def opcheck(operator, arguments):
    """torch.library.opcheck, which traces an operator for contiguous float32 alone.

    That takes a second, and goes the same way for other dtypes and layouts, whose fake
    results are compared with the real ones all the same.
    """
    tensors = [one for one in tree_leaves(arguments) if isinstance(one, torch.Tensor)]
    usual = all(one.is_contiguous() for one in tensors) and not any(
        one.dtype in (torch.float16, torch.bfloat16) for one in tensors
    )
    utils = (*SHORT, "test_aot_dispatch_dynamic") if usual else SHORT
    torch.library.opcheck(operator, arguments, test_utils=utils)
