"""What the operators' autograd Functions share."""

from typing import Any

import torch
from torch import Tensor


class Function(torch.autograd.Function):
    """An autograd Function that may have forward-mode derivatives.

    torch.compile traces no Function that defines `jvp`, so a subclass gives its rule
    the name `tangent`, and `call` takes the place of `apply`.
    """

    @classmethod
    def call(cls, *args: Any) -> Any:
        """Apply the Function; with its forward-mode derivative where eager."""
        if torch.compiler.is_compiling():
            return cls.apply(*args)
        return _with_jvp(cls).apply(*args)


_eager: dict[type, type] = {}


def _with_jvp(function: type) -> type:
    if function not in _eager:
        rule = {"jvp": staticmethod(function.tangent)}
        _eager[function] = type(function.__name__, (function,), rule)
    return _eager[function]


def fold(info: Any, in_dims: tuple, *tensors: Tensor) -> list[Tensor]:
    """Fold the dimension that vmap maps over into the batch, the first dimension."""
    folded = []
    for tensor, dim in zip(tensors, in_dims[: len(tensors)], strict=True):
        if dim is None:
            mapped = tensor.expand(info.batch_size, *tensor.shape)
        else:
            mapped = tensor.movedim(dim, 0)
        folded.append(mapped.flatten(0, 1))
    return folded


def unfold(info: Any, tensor: Tensor) -> Tensor:
    """Undo `fold`, the mapped dimension being the first."""
    return tensor.unflatten(0, (info.batch_size, tensor.shape[0] // info.batch_size))
