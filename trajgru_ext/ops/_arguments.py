"""What Python can check of an operator's arguments, and what autocast does to them.

Devices, dtypes and sizes are checked where the operators are implemented.
"""

from typing import Any

import torch
from torch import Tensor


def check_tensors(op: str, **tensors: Any) -> None:
    """Raise a TypeError naming the first argument that is no Tensor."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(f"{op}: {name} must be a Tensor, got {kind}")


def check_number(op: str, name: str, value: Any) -> None:
    """Raise a TypeError where the value is no number."""
    if not isinstance(value, (int, float)):
        kind = type(value).__name__
        raise TypeError(f"{op}: {name} must be a number, got {kind}")


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The operands of a matrix product, in autocast's dtype where it is enabled."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        tensor.to(dtype)
        if tensor is not None
        and tensor.is_floating_point()
        and tensor.dtype != torch.float64
        else tensor
        for tensor in tensors
    )
