"""What the public functions do for those who override torch's.

Tensor subclasses, `torch.fx` proxies and modes of `torch.overrides` take part in a call
by `__torch_function__`, as they do in one of torch's own functions.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import (
    handle_torch_function,
    has_torch_function,
    has_torch_function_variadic,
)

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""The types of tensors that override nothing."""

P = ParamSpec("P")
R = TypeVar("R")


def leaf(
    function: Callable[P, R], public: Callable[..., R] | None = None
) -> Callable[P, R]:
    """Make a function one call for `__torch_function__`, which may override it.

    What looks at sizes, or asks whether a tensor is there, is one, so that layers are
    traced without them.

    public: what is overridden in its place, where something else calls it.
    """

    @functools.wraps(function)
    def whole(*args: P.args, **kwargs: P.kwargs) -> R:
        # This much is asked at every call, and takes little beside a small operator.
        if not (
            has_torch_function_variadic(*args, *kwargs.values())
            or _any_in_lists(args)
            or (kwargs and _any_in_lists(kwargs.values()))
        ):
            return function(*args, **kwargs)
        operands = tuple(_operands((*args, *kwargs.values())))
        if has_torch_function(operands):
            called = whole if public is None else public
            overridden: R = handle_torch_function(called, operands, *args, **kwargs)
            return overridden
        return function(*args, **kwargs)

    return whole


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Make an operator of the package one that can be overridden, found in it."""
    public = leaf(function)
    public.__module__ = "trajgru_ext"
    return public


def _any_in_lists(values: Iterable[Any]) -> bool:
    """Whether what a list holds may override; a class there, `_operands` drops."""
    for one in values:
        kind = type(one)
        if (
            kind is list or kind is tuple or issubclass(kind, (list, tuple))
        ) and has_torch_function_variadic(*one):
            return True
    return False


def _operands(values: tuple[Any, ...]) -> Iterator[Any]:
    """The values, and those in a list: branches, or a weight and a bias."""
    for value in values:
        # A class has the method of its instances, and is not one of them.
        if isinstance(value, (list, tuple)):
            yield from (one for one in value if not isinstance(one, type))
        elif not isinstance(value, type):
            yield value
