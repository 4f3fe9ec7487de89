"""Where the operators are looked up, and their fake kernels registered.

The compiled operators live in `torch.ops.trajgru_ext`. A build of the same sources
under another namespace can take their place (the tests run the CUDA kernels so).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_namespace = "trajgru_ext"
_instead: Mapping[str, Callable[..., Any]] = {}
_fakes: dict[str, Callable[..., Any]] = {}
_decompositions: dict[str, Callable[..., Any]] = {}


def operator(name: str) -> Any:
    """The registered operator of this name, or the function in its place."""
    if replaced():
        return (_instead or _decompositions)[name]
    return getattr(getattr(torch.ops, _namespace), name).default


def namespace() -> str:
    """Where the operators are looked up."""
    return _namespace


def replaced() -> bool:
    """Whether functions are in the operators' places, which autograd sees through.

    So they are within `decomposed`, and while torch.onnx.export traces a model.
    """
    exporting = torch.compiler.is_exporting()
    return bool(_instead) or (exporting and torch.onnx.is_in_onnx_export())


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate the fake kernel of an operator: shapes, dtypes and strides only."""

    def remember(kernel: Callable[..., Any]) -> Callable[..., Any]:
        _fakes[name] = kernel
        return kernel

    return remember


def names() -> list[str]:
    """The operators that have fake kernels, which are all."""
    return list(_fakes)


def decomposition(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate an operator made of PyTorch's own, with its arguments and results.

    What only a backward pass reads, it leaves empty.
    """

    def remember(function: Callable[..., Any]) -> Callable[..., Any]:
        _decompositions[name] = function
        return function

    return remember


def register_fakes(namespace: str) -> None:
    """Register all fake kernels for the operators of a loaded namespace."""
    for name, kernel in _fakes.items():
        torch.library.register_fake(f"{namespace}::{name}", kernel)


@contextmanager
def using(namespace: str) -> Iterator[None]:
    """Within the context, look operators up in another namespace."""
    global _namespace  # noqa: PLW0603 - one switch for the whole process is the point
    previous, _namespace = _namespace, namespace
    try:
        yield
    finally:
        _namespace = previous


@contextmanager
def decomposed() -> Iterator[None]:
    """Within the context, call the operators' decompositions for them."""
    global _instead  # noqa: PLW0603 - as above
    previous, _instead = _instead, _decompositions
    try:
        yield
    finally:
        _instead = previous
