"""Stand-ins for the tensors of a forward that is traced."""

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from trajgru_ext.compat._gate_sizes import Unasked, asserted, is_asserted, is_size


class Untraceable(Exception):
    """Why the forward of a module has no graph that stands for it."""


class Value(fx.Proxy):
    """A proxy of a Tensor, which `proxies_are_tensors` says that it is."""

    def __getattr__(self, name: str) -> Any:
        if not hasattr(Tensor, name):
            raise AttributeError(name)
        return Attribute(self, name)

    # A Tensor is not None, however one asks.
    def __eq__(self, other: object) -> Any:
        return False if other is None else super().__eq__(other)

    def __ne__(self, other: object) -> Any:
        return True if other is None else super().__ne__(other)

    # By these it would be looked up, or written, as the object that it is.
    def __hash__(self) -> int:
        _refuse_by_others("it looks up what depends on its arguments")
        return object.__hash__(self)

    def __repr__(self) -> str:
        _refuse_by_others("it makes a text of what depends on its arguments")
        return fx.Proxy.__repr__(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node", "root", "attr", "_node"):
            raise Untraceable("it sets an attribute of a tensor")
        super().__setattr__(name, value)

    def __rmul__(self, other: Any) -> Any:
        if type(other) in (list, tuple):
            return other * int(self)
        return super().__rmul__(other)  # type: ignore[misc]  # it has it

    def __len__(self) -> int:
        count = self.tracer.count(self.node)  # type: ignore[attr-defined]
        return super().__len__() if count is None else count

    def __bool__(self) -> bool:
        tracer: Any = self.tracer
        may_ask = not is_size(self.node) and tracer.may_run_again()
        if may_ask and is_asserted(sys._getframe(1)):
            tracer.create_proxy("call_function", asserted, (self,), {})
            return True
        return bool(tracer.to_bool(self))

    def __index__(self) -> int:
        try:
            return int(self.tracer.questions.answer(self.node, int))  # type: ignore[attr-defined]
        except Unasked:
            raise TypeError("a tensor's value is taken for an integer") from None

    __int__ = __index__

    def _in_place(self, other: Any) -> Any:
        raise Untraceable("it changes a tensor in place")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _in_place


class Attribute(fx.proxy.Attribute, Value):
    """A proxy of something that a Tensor has, of any kind."""

    def __getattr__(self, name: str) -> Any:
        return Attribute(self, name)


def _refuse_by_others(why: str) -> None:
    """Raise Untraceable, unless torch asks."""
    caller = sys._getframe(2).f_globals.get("__name__", "")
    if caller.partition(".")[0] != "torch":
        raise Untraceable(why)


@contextmanager
def proxies_are_tensors() -> Iterator[None]:
    """While traced, `isinstance` in Python says of a proxy that it is a Tensor.

    Not the proxy itself, by its `__class__`: torch's C++ would believe it and read a
    Tensor's memory.
    """
    original, tensor = builtins.isinstance, torch.empty(0)

    def is_instance(value: Any, kinds: Any) -> bool:
        if type(value) not in (Value, Attribute):
            return original(value, kinds)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not caller.startswith("torch.fx."):
            if type(value) is Attribute or is_size(value.node):
                raise Untraceable("it asks for the class of what is no Tensor")
            value.tracer.asked.add(value.node)
        is_tensor = type(value) is Value and original(tensor, kinds)
        return original(value, kinds) or is_tensor

    builtins.isinstance = is_instance
    # Of a Tensor this makes one without its history.
    variable: Any = type(torch.autograd.Variable)
    variable.__call__ = lambda kind, *given: (
        given[0].detach()
        if len(given) == 1 and isinstance(given[0], fx.Proxy)
        else type.__call__(kind, *given)
    )
    try:
        yield
    finally:
        builtins.isinstance = original
        del variable.__call__
