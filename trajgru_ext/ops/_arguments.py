"""What Python can check of an operator's arguments, and what autocast does to them.

The implementations check all again, for those who call `torch.ops.trajgru_ext`
directly; the checks here also hold where no implementation runs: on meta tensors and
while torch.compile traces.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def recorded_by_jit() -> bool:
    """Whether torch.jit.trace records what is called."""
    jit: Any = torch.jit  # whose functions have no types
    return bool(jit.is_tracing())


def check_tensors(op: str, **tensors: Any) -> None:
    """Raise a TypeError naming the first argument that is no dense Tensor."""
    for name, value in tensors.items():
        check_tensor(op, name, value)


def check_optional(op: str, **tensors: Any) -> None:
    """Raise a TypeError naming the first that is neither a dense Tensor nor None."""
    for name, value in tensors.items():
        if value is not None:
            check_tensor(op, name, value)


def check_tensor(op: str, name: str, value: Any, place: int | None = None) -> None:
    """Raise a TypeError for what is no dense Tensor; place: in a list of this name."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return
    name = name if place is None else f"{name}[{place}]"
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise TypeError(f"{op}: {name} must be a Tensor, got {kind}")
    raise TypeError(f"{op}: {name} must be a dense Tensor, got {value.layout}")


def check_number(op: str, name: str, value: Any) -> None:
    """Raise a TypeError where the value is no real number."""
    # A float is found out ten times as fast as a Real.
    if not isinstance(value, (float, Real)):
        kind = type(value).__name__
        raise TypeError(f"{op}: {name} must be a number, got {kind}")


def check_device(op: str, name: str, tensor: Tensor, beside: Tensor) -> None:
    """Check that the tensor is where the other arguments are."""
    if tensor.device != beside.device:
        raise ValueError(
            f"{op}: {name} must be on {beside.device}, where the other arguments are, "
            f"got {tensor.device}"
        )


def check_sizes(
    op: str, name: str, tensor: Tensor, wanted: Sequence[int], beside: Tensor
) -> None:
    """Check a tensor's device, dtype and sizes; a size of -1 may be any."""
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{op}: {name} must be float32, float64, bfloat16 or float16, "
            f"got {tensor.dtype}"
        )
    check_device(op, name, tensor, beside)
    if tensor.dim() != len(wanted):
        raise ValueError(
            f"{op}: {name} must have {len(wanted)} dimensions, "
            f"got {tensor.dim()}: {list(tensor.shape)}"
        )
    for size, want in zip(tensor.shape, wanted, strict=True):
        if want not in (-1, size):
            raise ValueError(
                f"{op}: {name} must be {list(wanted)}, got {list(tensor.shape)}"
            )


def check_same_dtype(
    op: str, name: str, tensor: Tensor, other: Tensor, other_name: str = "input"
) -> None:
    """Check that two tensors have one dtype."""
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {other_name}, {other.dtype}, "
            f"got {tensor.dtype}"
        )


def autocast(first: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """The operands of a matrix product, in autocast's dtype where it is enabled."""
    tensors, device = (first, *others), first.device.type
    # Meta tensors have no autocast to ask for.
    if first.is_meta or not torch.is_autocast_enabled(device):
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
