"""A choice that holds for the whole process, or within a context."""

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Switch(Generic[T]):
    """Make a choice; as a context manager, undo it at the end."""

    def __init__(self, now: Callable[[], T], choose: Callable[[T], None], value: T):
        self._before, self._choose = now(), choose
        choose(value)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._choose(self._before)
