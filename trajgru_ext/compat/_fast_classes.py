"""Classes that `accelerate` gives to modules: one of ours on the module's own."""

import functools
import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from trajgru_ext.nn import Conv2d


class Accelerated:
    """Marks a class that `accelerate` made of one of ours and a module's own."""

    _parts: tuple[type, type, dict[str, Any]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(protocol)
        assert not isinstance(reduced, str)
        # The class has no name to be found by, and is made again.
        return instance, fast_base(type(self))._parts, *reduced[2:]


class Swap(NamedTuple):
    """A module, and the class that it gets."""

    module: nn.Module
    kind: Any  # of `fast_class`


def fast_class(ours: type, own: type, attributes: dict[str, Any]) -> type:
    """Our class on a module's own one, with our class's attributes.

    The same class for the same attributes, as modules of one class had one before; but
    each plan of a forward has its own.
    """
    if "_plan" in attributes:
        return _made(ours, own, attributes)
    try:
        return _remembered(ours, own, tuple(attributes.items()))
    except TypeError:  # of attributes that cannot be hashed
        return _made(ours, own, attributes)


@functools.cache
def _remembered(ours: type, own: type, attributes: tuple[tuple[str, Any], ...]) -> type:
    return _made(ours, own, dict(attributes))


# Methods beside `forward` that stay the module's own, which may begin states otherwise.
KEPT = ("init_hidden",)


def _made(ours: type, own: type, attributes: dict[str, Any]) -> type:
    parts = (ours, own, attributes)
    kept = {
        name: inspect.getattr_static(own, name) for name in KEPT if hasattr(own, name)
    }
    names = {"_stands_for": ours, **kept, **attributes, "_parts": parts}
    bases = (Accelerated, ours, own)
    kind = types.new_class(own.__name__, bases, exec_body=lambda ns: ns.update(names))
    kind.__module__, kind.__qualname__ = own.__module__, own.__qualname__
    return kind


@functools.cache
def convolution_class() -> type:
    """Our convolution on PyTorch's; layers of ours may read its weight as before."""
    return fast_class(Conv2d, nn.Conv2d, {"_stands_for": nn.Conv2d})


def instance(ours: type, own: type, attributes: dict[str, Any]) -> nn.Module:
    """An empty module of such a class, for pickles and copies."""
    kind: Any = fast_class(ours, own, attributes)
    module: nn.Module = kind.__new__(kind)
    return module


def fast_base(kind: type) -> Any:
    """The class that `fast_class` made, of one that may be parametrised."""
    return next(base for base in kind.__mro__ if "_parts" in vars(base))


def own_class(module: nn.Module) -> type:
    """The module's class, without what `torch.nn.utils.parametrize` made on it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def swap(module: nn.Module, kind: type) -> Swap:
    """The class of a module whose own class becomes another one."""
    if parametrize.is_parametrized(module):
        kind = _on_base(type(module), kind)
    return Swap(module, kind)


def original(kind: type) -> type:
    """The class that a module had before it was made fast."""
    if "_parts" in vars(kind):
        before: type = vars(kind)["_parts"][1]
        return before
    return _on_base(kind, original(kind.__bases__[0]))


def _on_base(parametrized: type, base: type) -> type:
    """A parametrised module's class on another base.

    PyTorch makes the class for one module, puts the properties in it, and takes its
    first base when the last parametrisation is removed.
    """
    of_python = ("__dict__", "__weakref__")
    names = {k: v for k, v in vars(parametrized).items() if k not in of_python}
    return type(parametrized.__name__, (base,), names)


def commit(swaps: list[Swap]) -> None:
    """Give the modules their classes."""
    for module, kind in swaps:
        module.__class__ = kind


@contextmanager
def swapped(swaps: list[Swap]) -> Iterator[None]:
    """Give the modules their classes for a while."""
    before = [Swap(module, type(module)) for module, _ in swaps]
    commit(swaps)
    try:
        yield
    finally:
        commit(before)
