"""What an entry of the catalog says of its operator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trajgru_ext import reference
from trajgru_ext.ops._samples import Source

Arguments = dict[str, Any]
Sample = Callable[[Source], Arguments]

# What changes no result, or says which of them to return.
_NOT_IN_THE_FORMULA = ("recompute", "return_flows")


@dataclass(frozen=True)
class Operator:
    """An operator, by its public name.

    family: where its Tensor side stands in csrc/operators ("conv": what it cannot
        compute, torch does), or "sequences".
    sample: its arguments by name, from a source.
    cases: choices worth trying, by what is added to the name; of a source these make
        the arguments that are always tried.
    products: whether it multiplies matrices, or convolves.
    fixed_order: whether CUDA, too, adds up in a fixed order, without being asked.
    starred: the argument that is passed as `*args`.
    """

    name: str
    family: str
    sample: Sample
    cases: Mapping[str, Mapping[str, Any]]
    products: bool
    fixed_order: bool
    starred: str | None

    @property
    def recurrent(self) -> bool:
        """Whether each step rounds what the one before has rounded."""
        return self.family == "sequences"

    @property
    def any_threads(self) -> bool:
        """Whether the CPU's results are the same bits for any number of threads.

        What torch convolves need not be.
        """
        return self.family != "conv"

    def call(self, module: Any, arguments: Arguments) -> tuple[Tensor, ...]:
        """The results of the module's function of this name, ours or the formula."""
        if module is reference:
            ours_alone = _NOT_IN_THE_FORMULA
            arguments = {k: v for k, v in arguments.items() if k not in ours_alone}
        named = dict(arguments)
        positional = () if self.starred is None else named.pop(self.starred)
        found = getattr(module, self.name)(*positional, **named)
        return found if isinstance(found, tuple) else (found,)


@dataclass(frozen=True)
class Case:
    """An operator with some choices made."""

    title: str
    operator: Operator
    choices: Mapping[str, Any]
