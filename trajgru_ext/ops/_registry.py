"""Where the operators are looked up, and their fake kernels registered.

The compiled operators live in `torch.ops.trajgru_ext`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_instead: Mapping[str, Callable[..., Any]] = {}
_fakes: dict[str, Callable[..., Any]] = {}
_refusals: list[Any] = []  # registrations last as long as their library
_decompositions: dict[str, Callable[..., Any]] = {}


def operator(name: str) -> Any:
    """The registered operator of this name, or the function in its place."""
    if replaced():
        return (_instead or _decompositions)[name]
    return getattr(torch.ops.trajgru_ext, name).default


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


def register_fakes() -> None:
    """Register all fake kernels, also where the package was imported before."""
    for name, kernel in _fakes.items():
        whole = f"trajgru_ext::{name}"
        torch.library.register_fake(whole, kernel, allow_override=True)


def refuse(key: str, reason: str) -> None:
    """Let operators without a kernel for a dispatch key say why, in one sentence.

    Those, too, that only other operators call: some are the first to meet a tensor.
    """
    has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    make: Any = torch.library.Library
    library = make("trajgru_ext", "IMPL", key)
    every: list[str] = torch._C._dispatch_get_all_op_names()
    for whole in every:
        namespace, _, name = whole.partition("::")
        if namespace != "trajgru_ext":
            continue
        composite = "CompositeExplicitAutograd", "CompositeImplicitAutograd"
        if not any(has(whole, one) for one in (key, *composite)):
            library.impl(name, _refusal(name, key, reason))
    _refusals.append(library)


def _refusal(name: str, key: str, reason: str) -> Callable[..., Any]:
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"{name}: this build of trajgru_ext has no kernels for {key}: {reason}; "
            f"build it again, or compute within trajgru_ext.decompositions.decomposed()"
        )

    return refused


@contextmanager
def decomposed() -> Iterator[None]:
    """Within the context, call the operators' decompositions for them."""
    global _instead  # noqa: PLW0603 - one switch for the whole process is the point
    previous, _instead = _instead, _decompositions
    try:
        yield
    finally:
        _instead = previous
