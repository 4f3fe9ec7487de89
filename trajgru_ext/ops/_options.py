"""The options of the operators: one struct each, from Python to the kernel.

The compiled operators have the same structs (csrc/operators/gates/*_options.h). As the
dispatcher knows no structs, they travel as a list of numbers, one a field, and the
names of the fields are compared when the package is imported. The warp's are few, and
are arguments of their own.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from trajgru_ext.ops._arguments import check_number

ACTIVATIONS = ("tanh", "relu", "leaky_relu")
UPDATES = ("keep", "replace")
RESETS = ("after", "before")
PADDINGS = ("zeros", "border")


def check_choice(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a ValueError for a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{op}: {name} must be one of {listed}, got {value!r}")


def check_slope(op: str, negative_slope: Any) -> None:
    """Raise an error for what is no slope of leaky_relu."""
    check_number(op, "negative_slope", negative_slope)
    if not negative_slope >= 0:
        raise ValueError(
            f"{op}: negative_slope must not be below 0, got {negative_slope}"
        )


def gate_order(op: str, order: Any, usual: str, gates: str) -> tuple[int, ...]:
    """Where each gate's slice lies, from the order in which they lie."""
    if not isinstance(order, str) or sorted(order) != sorted(usual):
        raise ValueError(
            f"{op}: order must be a permutation of {usual!r}, got {order!r}"
        )
    return tuple(order.index(gate) for gate in gates)


Chosen = TypeVar("Chosen")


def _remembered(choose: Callable[..., Chosen], *choices: Any) -> Chosen:
    """What was chosen before for the same choices: a step makes them every time."""
    if torch.compiler.is_compiling():
        return choose(*choices)  # it warns of what it does not remember
    try:
        found: Chosen = _cached(choose, *choices)
        return found
    except TypeError:  # of what cannot be hashed, or of the choices
        return choose(*choices)


@functools.lru_cache(maxsize=512)
def _cached(choose: Callable[..., Any], *choices: Any) -> Any:
    return choose(*choices)


class GruOptions(NamedTuple):
    """What a GRU's update can be told; each operator reads what concerns it."""

    reset_slice: int = 0
    update_slice: int = 1
    candidate_slice: int = 2
    activation: int = 0  # of ACTIVATIONS
    negative_slope: float = 0.2
    u_weighs_old: bool = True  # the update gate multiplies the old state
    reset_before: bool = False  # of the state's convolution

    @classmethod
    def choose(
        cls,
        op: str,
        order: str = "run",
        activation: str = "tanh",
        negative_slope: float = 0.2,
        update: str = "keep",
        reset: str = "after",
    ) -> "GruOptions":
        """Check the choices as users write them."""
        return _remembered(
            cls._choose, op, order, activation, negative_slope, update, reset
        )

    @classmethod
    def _choose(
        cls,
        op: str,
        order: str,
        activation: str,
        negative_slope: float,
        update: str,
        reset: str,
    ) -> "GruOptions":
        r, u, n = gate_order(op, order, "run", "run")
        check_choice(op, "activation", activation, ACTIVATIONS)
        check_number(op, "negative_slope", negative_slope)
        check_choice(op, "update", update, UPDATES)
        check_choice(op, "reset", reset, RESETS)
        return cls(
            reset_slice=r,
            update_slice=u,
            candidate_slice=n,
            activation=ACTIVATIONS.index(activation),
            negative_slope=float(negative_slope),
            u_weighs_old=update == "keep",
            reset_before=reset == "before",
        )

    @classmethod
    def choose_reset(cls, op: str, order: str) -> "GruOptions":
        """Check the order of reset and update gate alone."""
        return _remembered(cls._choose_reset, op, order)

    @classmethod
    def _choose_reset(cls, op: str, order: str) -> "GruOptions":
        r, u = gate_order(op, order, "ru", "ru")
        return cls(reset_slice=r, update_slice=u)

    @property
    def slices(self) -> tuple[int, int, int]:
        """Where the slices of r, u and n lie."""
        return self.reset_slice, self.update_slice, self.candidate_slice

    def numbers(self) -> list[float]:
        """As the operators take them."""
        return list(map(float, self))


class LstmOptions(NamedTuple):
    """What an LSTM's update can be told."""

    input_slice: int = 0
    forget_slice: int = 1
    candidate_slice: int = 2
    output_slice: int = 3
    forget_bias: float = 0.0

    @classmethod
    def choose(cls, op: str, order: str, forget_bias: float) -> "LstmOptions":
        """Check the choices as users write them."""
        return _remembered(cls._choose, op, order, forget_bias)

    @classmethod
    def _choose(cls, op: str, order: str, forget_bias: float) -> "LstmOptions":
        i, f, g, o = gate_order(op, order, "ifog", "ifgo")
        check_number(op, "forget_bias", forget_bias)
        return cls(i, f, g, o, float(forget_bias))

    @classmethod
    def choose_memory(cls, op: str, order: str, forget_bias: float) -> "LstmOptions":
        """The same without an output gate."""
        return _remembered(cls._choose_memory, op, order, forget_bias)

    @classmethod
    def _choose_memory(cls, op: str, order: str, forget_bias: float) -> "LstmOptions":
        i, f, g = gate_order(op, order, "ifg", "ifg")
        check_number(op, "forget_bias", forget_bias)
        return cls(i, f, g, forget_bias=float(forget_bias))

    @property
    def slices(self) -> tuple[int, int, int, int]:
        """Where the slices of i, f, g and o lie."""
        gates = self.input_slice, self.forget_slice
        return *gates, self.candidate_slice, self.output_slice

    def numbers(self) -> list[float]:
        """As the operators take them."""
        return list(map(float, self))


class WarpOptions(NamedTuple):
    """What the warp of an image can be told."""

    flow_scale: float = 1.0
    padding: int = 0  # of PADDINGS

    @classmethod
    def choose(cls, op: str, flow_scale: float, padding_mode: str) -> "WarpOptions":
        """Check the choices as users write them."""
        check_number(op, "flow_scale", flow_scale)
        check_choice(op, "padding_mode", padding_mode, PADDINGS)
        return cls(float(flow_scale), PADDINGS.index(padding_mode))

    @property
    def padding_mode(self) -> str:
        """As users write it."""
        return PADDINGS[self.padding]

    def numbers(self) -> list[float]:
        """As the compiled derivative takes them."""
        return [float(field) for field in self]


class FlowConvOptions(NamedTuple):
    """What a flow convolution can be told."""

    flow_scale: float = 1.0

    def numbers(self) -> list[float]:
        """As the compiled derivative takes them."""
        return [float(self.flow_scale)]


Options = TypeVar("Options", FlowConvOptions, GruOptions, LstmOptions, WarpOptions)


def read(kind: type[Options], numbers: Sequence[float]) -> Options:
    """The options that an operator was given as numbers."""
    defaults = kind._field_defaults.values()
    pairs = zip(defaults, numbers, strict=True)
    return kind(*(type(default)(number) for default, number in pairs))


def check_names(compiled: Mapping[str, Sequence[str]]) -> None:
    """Raise an ImportError where the compiled operators have other fields."""
    for name, options in (("gru", GruOptions), ("lstm", LstmOptions)):
        if tuple(compiled[name]) != options._fields:
            raise ImportError(
                f"trajgru_ext: the options of {name} are {list(options._fields)} in "
                f"Python and {list(compiled[name])} in the compiled operators, which "
                "must be built again"
            )
