"""A module's forward with its gate updates replaced, and when it stands for it."""

import contextlib
import functools
import inspect
import itertools
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trajgru_ext.compat._fast_classes import fast_base, fast_class
from trajgru_ext.compat._gate_forms import (
    CANDIDATES,
    FUNCTIONS,
    SIGMOID,
    TANH,
    activation_of,
)
from trajgru_ext.compat._gate_reads import Read
from trajgru_ext.compat._gate_rewrites import Alone, compiled, rewrite
from trajgru_ext.compat._gate_traces import (
    Trace,
    Untraceable,
    copied,
    names_used,
    same,
    trace,
)

_MOST_WAYS = 32  # through a forward; others run the original

_MOST_OPTIONAL = 3  # arguments that may be None; each doubles the traces

_OF_MODULES = frozenset(vars(nn.Module()))


class Variant(NamedTuple):
    """The forward for arguments that take one way through it."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    """The arguments that are tensors."""
    lengths: tuple[int, ...]
    """For each 0 where it is a Tensor, or how long a sequence of them it is."""
    updates: tuple[str, ...]
    reads: tuple[Read, ...]

    def takes(self, given: dict[str, Any]) -> bool:
        """Whether those arguments are what they were taken for."""
        for name, length in zip(self.names, self.lengths, strict=True):
            value = given[name]
            if length and isinstance(value, (tuple, list)):
                if len(value) != length or not all(_is_tensor(one) for one in value):
                    return False
            elif not _is_tensor(value) or (length and value.shape[:1] != (length,)):
                return False
        return True


class Way(NamedTuple):
    """What chooses the way through a forward, beside the module's attributes."""

    mode: bool
    """Whether it trains; of no account where the forward does not ask."""
    constants: tuple[tuple[str, type, Any], ...]
    """The arguments that are None, numbers or texts; all others are tensors."""


class Plan:
    """All that takes the place of a module's forward."""

    def __init__(self, module: nn.Module, kind: Any, by_mode: bool) -> None:
        self.kind, self.by_mode = kind, by_mode
        self.forward = kind.forward
        self.parameters = _parameters(kind)
        self.variants: dict[Way, Variant | None] = {}
        own = vars(module)
        # A tensor is read at every call, whichever it is.
        self.attributes = {
            name: Tensor if isinstance(value, Tensor) else copied(value)
            for name, value in own.items()
            if name not in _OF_MODULES
        }
        self.there = {
            name: tuple(one is not None for one in own[name].values())
            for name in ("_parameters", "_buffers", "_modules")
        }
        self.activations: dict[str, Any] = {}
        """The modules inside that are no longer called, and what they compute."""

    def __deepcopy__(self, memo: Any) -> "Plan":
        return self  # its functions are told the module

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_plan, ()  # generated functions have no name to be found by

    def add(self, module: nn.Module, way: Way, probe: bool) -> None:
        """Trace a way; Alone or Untraceable is raised where it has none of ours."""
        self.variants[way] = None
        constants = {name: value for name, _, value in way.constants}
        names = tuple(name for name in self.parameters if name not in constants)
        before = [(one, one.training) for one in module.modules()]
        for one, mode in before:
            vars(one)["training"] = way.mode if self.by_mode else mode
        try:
            traced = trace(module, self.kind, names, constants)
        finally:
            for one, mode in before:
                vars(one)["training"] = mode
        try:
            what, swallowed = rewrite(traced.graph, module, probe)
            function = compiled(traced.graph)
        except Alone:
            raise
        except Exception as error:  # a graph may hold anything
            raise Alone(f"its graph is an odd one, {error}") from error
        if what:
            rest = tuple(what), traced.reads
            found = Variant(function, names, _lengths(traced), *rest)
            self.variants[way] = found
            for name in swallowed:
                self.activations[name] = activation_of(module.get_submodule(name))

    def way(self, module: nn.Module, given: dict[str, Any]) -> Way:
        """The way that some arguments take."""
        constants = [
            (name, type(value), value)
            for name, value in given.items()
            if _is_constant(value)
        ]
        return Way(module.training if self.by_mode else True, tuple(constants))

    def what(self) -> str:
        """The updates, each once."""
        variants = [one for one in self.variants.values() if one is not None]
        return "; ".join(dict.fromkeys(u for one in variants for u in one.updates))

    def variant(self, module: nn.Module, given: dict[str, Any]) -> Variant | None:
        """The forward for some arguments, or None where the original must run."""
        if not self.stands_for(module):
            return None
        way = self.way(module, given)
        if way not in self.variants and self._may_trace():
            with contextlib.suppress(Alone, Untraceable):
                self.add(module, way, probe=False)
        found = self.variants.get(way)
        if found is None or not found.takes(given):
            return None
        return found if all(read.holds(module) for read in found.reads) else None

    def stands_for(self, module: nn.Module) -> bool:
        """Whether the module is as it was when it was traced."""
        if self.kind.forward is not self.forward:
            return False
        own = vars(module)
        for name, value in self.attributes.items():
            now = own.get(name, _MISSING)
            if not (_is_tensor(now) if value is Tensor else same(now, value)):
                return False
        for name, there in self.there.items():
            if there != tuple(one is not None for one in own[name].values()):
                return False
        for name, function in self.activations.items():
            if activation_of(_inside(module, name)) != function:
                return False
        return True

    def _may_trace(self) -> bool:
        """Whether a new way may be traced now.

        While it is, calls of modules are recorded, in every thread.
        """
        alone = threading.current_thread() is threading.main_thread()
        few = len(self.variants) < _MOST_WAYS
        return few and alone and not torch.compiler.is_compiling()


def _no_plan() -> None:
    """What a plan is in a pickle: it is made again."""


_MISSING = object()


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _is_constant(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _inside(module: Any, path: str) -> Any:
    """The module of that path, or None."""
    for name in path.split("."):
        module = None if module is None else vars(module)["_modules"].get(name)
    return module


def plan(module: nn.Module, kind: type, probe: bool) -> Plan | None:
    """Find the gate updates in the class's forward on a module.

    None where there are no gates, and Alone is raised where there are others.
    """
    (base, *_) = (one for one in kind.__mro__ if "forward" in vars(one))
    if base.__module__.partition(".")[0] in ("torch", "trajgru_ext"):
        return None
    used = names_used(kind)
    if not _has_gates(module, used):
        return None
    if parametrize.is_parametrized(module):
        raise Alone("it is parametrised itself")
    if "forward" in vars(module):
        raise Alone("it has a forward of its own")
    if "type" in used:
        raise Alone("its forward asks for types")
    found, reasons = Plan(module, kind, "training" in used), []
    modes = (True, False) if found.by_mode else (True,)
    for mode, nones in itertools.product(modes, _choices(found.parameters)):
        constants = tuple(
            (name, type(default), default)
            for name, default in found.parameters.items()
            if name in nones or (default is not None and _is_constant(default))
        )
        try:
            found.add(module, Way(mode, constants), probe)
        except (Alone, Untraceable) as error:
            reasons.append(str(error))
    if found.what():
        return found
    if reasons:
        raise Alone(reasons[0])
    return None


def _has_gates(module: nn.Module, used: set[str]) -> bool:
    """Whether the forward may have a gate and a candidate, by the names it uses."""
    kinds = [activation_of(child) for child in module.children()]
    inside = {found[0] for found in kinds if found is not None}
    functions = {id(f): name for f, name in FUNCTIONS.items()}
    inside |= {functions.get(id(value), "") for value in vars(module).values()}
    names = used | inside | ({SIGMOID} if used & {"expit", "Sigmoid"} else set())
    names |= {TANH} if "Tanh" in used else set()
    return SIGMOID in names and bool(names & set(CANDIDATES))


_NEEDED = object()


def _parameters(kind: Any) -> dict[str, Any]:
    found = {}
    for name, one in list(inspect.signature(kind.forward).parameters.items())[1:]:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise Alone("its forward takes any number of arguments")
        found[name] = _NEEDED if one.default is one.empty else one.default
    return found


def _choices(parameters: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Which arguments may be None together, none of them first."""
    optional = [name for name, default in parameters.items() if default is None]
    if len(optional) > _MOST_OPTIONAL:
        optional = []
    for count in range(len(optional) + 1):
        yield from itertools.combinations(optional, count)


def _lengths(traced: Trace) -> tuple[int, ...]:
    """How many tensors each argument is taken apart into; 0 where it is not."""
    lengths = []
    for name in traced.tensors:
        node = next(n for n in traced.graph.nodes if n.target == name)
        items = [n.args[1] for n in node.users if n.target is operator.getitem]
        whole = [k for k in items if isinstance(k, int) and k >= 0]
        taken = whole and len(whole) == len(node.users) and name not in traced.asked
        lengths.append(max(whole) + 1 if taken else 0)
    return tuple(lengths)


class GateUpdates:
    """A module whose gate updates are our operators; all else runs as it did."""

    _plan: Plan | None = None
    _parts: tuple[type, Any, dict[str, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_parts" not in vars(cls):
            return  # one that is parametrised
        own = cls._parts[1]

        @functools.wraps(own.forward)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            plan = cls._plan
            given = None if plan is None else _given(plan.parameters, args, kwargs)
            if plan is not None and given is not None:
                variant = plan.variant(self, given)
                if variant is not None:
                    values = [given[name] for name in variant.names]
                    return variant.function(self, *values)
            return own.forward(self, *args, **kwargs)

        cls.forward = forward  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[misc]  # of the module's class
        module: Any = self
        kind = fast_base(type(self))
        if kind._plan is None or not kind._plan.stands_for(module):
            with contextlib.suppress(Alone):
                kind._plan = plan(module, kind._parts[1], probe=False)


def _given(
    parameters: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """The values of all arguments; None where the call is a wrong one."""
    if len(args) > len(parameters):
        return None
    given = {**parameters, **dict(zip(parameters, args, strict=False)), **kwargs}
    if len(given) > len(parameters) or any(v is _NEEDED for v in given.values()):
        return None
    named = list(parameters)[: len(args)]
    return None if any(name in kwargs for name in named) else given


def gate_class(kind: type, found: Plan) -> type:
    """The class of a module of a class, with its gate updates replaced."""
    return fast_class(GateUpdates, kind, {"_stands_for": kind, "_plan": found})
