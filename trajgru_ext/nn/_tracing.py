"""What torch.fx traces, where it cannot follow."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import fx

P = ParamSpec("P")
R = TypeVar("R")


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function one call in what torch.fx traces.

    For those that ask for sizes, layouts or gradients, which are not known there.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for value in (*args, *kwargs.values()):
            if isinstance(value, fx.Proxy):
                create: Any = value.tracer.create_proxy
                traced: R = create("call_function", call, args, kwargs)
                return traced
        return function(*args, **kwargs)

    return call
