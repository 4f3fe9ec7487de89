"""A module's forward with its gate updates replaced, and when it stands for it."""

import contextlib
import functools
import itertools
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trajgru_ext.compat._activations import (
    CANDIDATES,
    FUNCTIONS,
    SIGMOID,
    TANH,
    activation_of,
)
from trajgru_ext.compat._fast_classes import fast_base, fast_class
from trajgru_ext.compat._gate_arguments import arguments_of
from trajgru_ext.compat._gate_proxies import Untraceable
from trajgru_ext.compat._gate_reads import (
    Outside,
    Read,
    functions_used,
    names_used,
)
from trajgru_ext.compat._gate_rewrites import Alone, compiled, rewrite
from trajgru_ext.compat._gate_sizes import MOST_ANSWERS, Answers, OtherWay
from trajgru_ext.compat._gate_traces import (
    Trace,
    copied,
    same,
    trace,
)
from trajgru_ext.ops._arguments import recorded_by_jit

_MOST_WAYS = 32  # through a forward; others run the original

_MOST_OPTIONAL = 3  # arguments that may be None; each doubles the traces

# What a forward may ask beside its arguments: it is traced in a mode of its own.
_MODES = {
    *("is_autocast_enabled", "is_autocast_cpu_enabled", "get_autocast_dtype"),
    *("get_autocast_gpu_dtype", "get_autocast_cpu_dtype"),
    *("is_grad_enabled", "is_inference_mode_enabled"),
}

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
    answers: Answers

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
    more: int
    """How many there are beside the named ones."""
    answers: Answers = ()
    """To the first questions about sizes; the others have usual ones."""


class Plan:
    """All that takes the place of a module's forward."""

    def __init__(
        self, module: nn.Module, kind: Any, outside: Outside, by_mode: bool
    ) -> None:
        self.kind, self.outside, self.by_mode = kind, outside, by_mode
        self.forward = kind.forward
        self.arguments = arguments_of(kind)
        # By plain tuples: torch.compile of torch 2.9 cannot hash others.
        self.variants: dict[tuple[Any, ...], Variant | None] = {}
        self.answers: dict[tuple[Any, ...], Answers] = {}
        """Those of the last call, by the way without them."""
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
        self.variants[tuple(way)] = None
        constants = {name: value for name, _, value in way.constants}
        every = *self.arguments.defaults, *self.arguments.more(way.more)
        names = tuple(name for name in every if name not in constants)
        before = [(one, one.training) for one in module.modules()]
        for one, mode in before:
            vars(one)["training"] = way.mode if self.by_mode else mode
        try:
            traced = trace(module, self.kind, names, constants, way.answers)
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
            rest = tuple(what), traced.reads, traced.answers
            found = Variant(function, names, _lengths(traced), *rest)
            self.variants[tuple(way)] = found
            for name in swallowed:
                self.activations[name] = activation_of(module.get_submodule(name))

    def way(self, module: nn.Module, given: dict[str, Any]) -> Way:
        """The way that some arguments take."""
        constants = [
            (name, type(value), value)
            for name, value in given.items()
            if _is_constant(value)
        ]
        more = len(given) - len(self.arguments.defaults)
        mode = module.training if self.by_mode else True
        return Way(mode, tuple(constants), more)

    def what(self) -> str:
        """The updates, each once."""
        variants = [one for one in self.variants.values() if one is not None]
        return "; ".join(dict.fromkeys(u for one in variants for u in one.updates))

    def run(self, module: nn.Module, given: dict[str, Any]) -> tuple[Any] | None:
        """What the forward gives, or None where the original must run."""
        if recorded_by_jit() or not self.stands_for(module):
            return None
        usual = self.way(module, given)
        key = tuple(usual)
        way = usual._replace(answers=self.answers.get(key, ()))
        for _ in range(MOST_ANSWERS):
            found = self._variant(module, way, given)
            if found is None:
                return None
            try:
                result = found.function(module, *[given[name] for name in found.names])
            except OtherWay as other:
                if not other.args:
                    return None
                number, answer = other.args
                way = usual._replace(answers=(*found.answers[:number], answer))
            else:
                if found.answers:
                    self.answers[key] = way.answers
                return (result,)
        return None

    def _variant(
        self, module: nn.Module, way: Way, given: dict[str, Any]
    ) -> Variant | None:
        """The forward for some arguments, or None where the original must run."""
        key = tuple(way)
        if key not in self.variants and self._may_trace():
            with contextlib.suppress(Alone, Untraceable):
                self.add(module, way, probe=False)
        found = self.variants.get(key)
        if found is None or not found.takes(given):
            return None
        return found if all(read.holds(module) for read in found.reads) else None

    def stands_for(self, module: nn.Module) -> bool:
        """Whether the module is as it was when it was traced."""
        if self.kind.forward is not self.forward:
            return False
        # torch.compile would watch all that is in a file, and has compiled its values.
        if not torch.compiler.is_compiling() and not self.outside.holds():
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
        if torch.compiler.is_compiling() or len(self.variants) >= _MOST_WAYS:
            return False
        return threading.current_thread() is threading.main_thread()


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
    """Find gate updates, and calls of conv2d, in the class's forward on a module.

    None where there are none, and Alone is raised where there are other gates.
    """
    (base, *_) = (one for one in kind.__mro__ if "forward" in vars(one))
    if base.__module__.partition(".")[0] in ("torch", "trajgru_ext"):
        return None
    functions = functions_used(kind)
    used = names_used(functions)
    has_gates = _has_gates(module, used)
    if not has_gates and "conv2d" not in used:
        return None
    reasons = [
        why
        for why, there in (
            ("it is parametrised itself", parametrize.is_parametrized(module)),
            ("it has a forward of its own", "forward" in vars(module)),
            ("its forward asks for types", "type" in used),
            ("its forward asks for gradients or autocast", bool(used & _MODES)),
        )
        if there
    ]
    if reasons:
        _leave_alone(reasons, has_gates)
        return None
    found = Plan(module, kind, Outside(functions), "training" in used)
    modes = (True, False) if found.by_mode else (True,)
    defaults, counts = (
        found.arguments.defaults,
        (1, 2) if found.arguments.rest else (0,),
    )
    for more, mode, nones in itertools.product(counts, modes, _choices(defaults)):
        if found.what() and more > counts[0]:
            break
        constants = tuple(
            (name, type(default), default)
            for name, default in defaults.items()
            if name in nones or (default is not None and _is_constant(default))
        )
        try:
            found.add(module, Way(mode, constants, more), probe)
        except (Alone, Untraceable) as error:
            reasons.append(str(error))
    if found.what():
        return found
    _leave_alone(reasons, has_gates)
    return None


def _leave_alone(reasons: list[str], has_gates: bool) -> None:
    """Raise Alone for the first reason, where somebody may look for one."""
    if reasons and has_gates:
        raise Alone(reasons[0])


def _has_gates(module: nn.Module, used: set[str]) -> bool:
    """Whether the forward may have a gate and a candidate, by the names it uses."""
    kinds = [activation_of(child) for child in module.children()]
    inside = {found[0] for found in kinds if found is not None}
    functions = {id(f): name for f, name in FUNCTIONS.items()}
    inside |= {functions.get(id(value), "") for value in vars(module).values()}
    names = used | inside | ({SIGMOID} if used & {"expit", "Sigmoid"} else set())
    names |= {TANH} if "Tanh" in used else set()
    return SIGMOID in names and bool(names & set(CANDIDATES))


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
        users = [n for n in node.users if n.target is not len]
        items = [n.args[1] for n in users if n.target is operator.getitem]
        whole = [k for k in items if isinstance(k, int) and k >= 0]
        taken = whole and len(whole) == len(users) and name not in traced.asked
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
            given = None if plan is None else plan.arguments.given(args, kwargs)
            if plan is not None and given is not None:
                found = plan.run(self, given)
                if found is not None:
                    return found[0]
            return own.forward(self, *args, **kwargs)

        cls.forward = forward  # type: ignore[attr-defined]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[misc]  # of the module's class
        module: Any = self
        kind = fast_base(type(self))
        if kind._plan is None or not kind._plan.stands_for(module):
            with contextlib.suppress(Alone):
                kind._plan = plan(module, kind._parts[1], probe=False)


def gate_class(kind: type, found: Plan) -> type:
    """The class of a module of a class, with its gate updates replaced."""
    return fast_class(GateUpdates, kind, {"_stands_for": kind, "_plan": found})
