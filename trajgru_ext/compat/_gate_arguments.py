"""What a forward takes, by names."""

import inspect
from typing import Any, NamedTuple

_NEEDED = object()


class Arguments(NamedTuple):
    """What a forward takes."""

    defaults: dict[str, Any]
    positional: int
    """How many of these may be given without a name."""
    rest: str
    """The name of any number of others, or nothing."""

    def more(self, count: int) -> tuple[str, ...]:
        """The names of so many others."""
        return tuple(f"{self.rest}__{k}" for k in range(count))

    def given(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The values of all; None where the call is a wrong one, or an odd one."""
        named, others = args[: self.positional], args[self.positional :]
        if others and not self.rest:
            return None
        given = {**self.defaults, **dict(zip(self.defaults, named, strict=False))}
        known = list(self.defaults)[len(named) :]
        if any(name not in known for name in kwargs):
            return None
        given |= kwargs
        given |= zip(self.more(len(others)), others, strict=True)
        return None if any(value is _NEEDED for value in given.values()) else given


def arguments_of(kind: Any) -> Arguments:
    """Those of a class's forward."""
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    rest = [one.name for one in parameters if one.kind is one.VAR_POSITIONAL]
    named = [
        one
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    defaults = {
        one.name: _NEEDED if one.default is one.empty else one.default for one in named
    }
    positional = sum(one.kind is not one.KEYWORD_ONLY for one in named)
    return Arguments(defaults, positional, "".join(rest))
