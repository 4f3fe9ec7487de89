"""The graph of what a module's own `forward` computes, its modules being leaves.

A graph stands for the forward only for arguments that take the same way through it. So
a proxy is said to be a Tensor, which callers check, and questions about sizes and
assertions are asked again; what else depends on a value, draws random numbers, changes
a tensor in place, keeps states between calls or switches gradients or autocast cannot
be traced.
"""

import inspect
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from trajgru_ext.compat._gate_forms import channels_of
from trajgru_ext.compat._gate_proxies import Untraceable, Value, proxies_are_tensors
from trajgru_ext.compat._gate_reads import Read, Unsteady, noted, values_read
from trajgru_ext.compat._gate_sizes import (
    Answers,
    Questions,
    Unasked,
)

_CHANGES = ("iadd", "isub", "imul", "itruediv", "ipow", "setitem")
_IN_PLACE = {*_CHANGES, *(f"__{name}__" for name in _CHANGES)}

# No person's code chooses this dtype, so that one that chooses another is noticed.
_MARKED = torch.float64

# Calls with sizes of arguments, which these do not take from proxies by themselves.
_MADE = (torch.zeros, torch.ones, torch.full, torch.empty, torch.randn, torch.rand)

# Of these a call changes nothing, and draws no random numbers.
_WITHOUT_STATE = (
    *(nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.Sequential, nn.Identity),
    *(nn.Sigmoid, nn.Tanh, nn.ReLU, nn.LeakyReLU),
)

_SIZE = "size"  # of a split, or the number of chunks, which have other names


class Trace(NamedTuple):
    """A graph, and what an argument must be for it to stand for the forward."""

    graph: fx.Graph
    tensors: tuple[str, ...]
    """The arguments that must be Tensors, or sequences of them."""
    asked: frozenset[str]
    """Those whose class was asked for: Tensors."""
    constants: dict[str, Any]
    """Those that must have these values."""
    reads: tuple[Read, ...]
    """What else of the module it holds."""
    answers: Answers
    """To what it asks of the arguments' sizes."""


class _Tracer(fx.Tracer):
    """Leaves every module as it is, and refuses what a graph cannot hold."""

    proxy_buffer_attributes = True

    def __init__(
        self, names: tuple[str, ...], constants: dict[str, Any], known: Answers
    ) -> None:
        super().__init__(autowrap_functions=_MADE)
        self._autowrap_search.append(torch)
        self.names, self.constants = names, constants
        self.questions = Questions(known)
        self.asked: set[fx.Node] = set()
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    # While it traces, the calls and attributes of modules in other threads come here.
    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        if m is self.root:
            raise Untraceable("it calls itself")
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def may_run_again(self) -> bool:
        """Whether nothing that was called so far leaves a trace of its call."""
        called = [node.target for node in self.graph.find_nodes(op="call_module")]
        modules = (
            m for path in called for m in self.root.get_submodule(path).modules()
        )
        return all(type(m) in _WITHOUT_STATE for m in modules)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Value(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != _TRACED_IN:
            raise Untraceable("it switches gradients or autocast on or off")
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, Tensor) and not self._is_of_module(a):
            raise Untraceable("it makes tensors of a fixed size or value")
        return super().create_arg(a)

    def to_bool(self, obj: Any) -> bool:
        try:
            return bool(self.questions.answer(obj.node, bool))
        except Unasked:
            return super().to_bool(obj)

    def iter(self, obj: Any) -> Iterator[Any]:
        count = self.count(obj.node)
        return (
            super().iter(obj) if count is None else iter(obj[k] for k in range(count))
        )

    def count(self, node: fx.Node) -> int | None:
        """How many items a node has, where this is known or may be asked."""
        parts = self.parts(node)
        return self.questions.count(node) if parts is None else parts

    def parts(self, node: Any) -> int | None:
        """How many parts of a layer's channels a node is, where this is known."""
        name = getattr(node.target, "__name__", node.target)
        if name not in ("chunk", "split") or node.args[0].op == "placeholder":
            return None
        given = {
            **dict(zip((_SIZE, "dim"), node.args[1:], strict=False)),
            **node.kwargs,
        }
        dim, size = given.pop("dim", 0), next(iter(given.values()), None)
        count: Any = size
        if isinstance(size, (list, tuple)):
            count = len(size)
        elif name == "split":
            channels = channels_of(node.args[0], self.root)
            count = -(-channels // size) if channels and isinstance(size, int) else None
        return count if dim in (1, -3) and isinstance(count, int) else None

    def _is_of_module(self, tensor: Tensor) -> bool:
        own = (*self.root.parameters(), *self.root.buffers(), *self.tensor_attrs)
        return any(tensor is one for one in own)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        proxies = {n: self.create_proxy("placeholder", n, (), {}) for n in self.names}
        values = {**proxies, **self.constants}
        positional, named = [], {}
        for name, one in list(inspect.signature(root_fn).parameters.items())[1:]:
            if one.kind is one.KEYWORD_ONLY:
                named[name] = values[name]
            elif one.kind is one.VAR_POSITIONAL:
                positional += [values[n] for n in values if n.startswith(f"{name}__")]
            elif one.kind is not one.VAR_KEYWORD:
                positional.append(values[name])

        def called(root: Any) -> Any:
            return root_fn(root, *positional, **named)

        return called, [self.root]


def _modes() -> tuple[Any, ...]:
    devices = [
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
    ]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *devices


_TRACED_IN = (True, False, (True, _MARKED), (True, _MARKED))


@contextmanager
def _traced_modes() -> Iterator[None]:
    """Modes of which a change is noticed, whatever the code changes them to."""
    before = _modes()[2:]
    try:
        for device in ("cpu", "cuda"):
            torch.set_autocast_enabled(device, True)
            torch.set_autocast_dtype(device, _MARKED)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for device, (enabled, dtype) in zip(("cpu", "cuda"), before, strict=True):
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)


def _random_states() -> list[Any]:
    states: list[Any] = [random.getstate(), torch.get_rng_state().tolist()]
    numpy = sys.modules.get("numpy")
    return states if numpy is None else [*states, str(numpy.random.get_state())]


def trace(
    module: nn.Module,
    kind: type,
    names: tuple[str, ...],
    constants: dict[str, Any],
    known: Answers,
) -> Trace:
    """Trace the forward of the class on a module; or raise Untraceable.

    names: the arguments that are tensors; constants: the others; known: the answers to
    the first questions about sizes.
    """
    # What the forward sets is set on this, which shares only the modules inside.
    made: Any = kind
    root = made.__new__(made)
    vars(root).update({name: copied(value) for name, value in vars(module).items()})
    before = {name: copied(value) for name, value in vars(root).items()}
    inner = [(m, dict(vars(m))) for m in module.modules() if m is not module]
    tracer, numbers = _Tracer(names, constants, known), _random_states()
    try:
        with _traced_modes(), proxies_are_tensors(), torch.random.fork_rng(devices=[]):
            with noted() as reads:
                graph = tracer.trace(root)
            drawn = _random_states() != numbers
    except Untraceable:
        raise
    except Exception as error:
        what = str(error).partition("\n")[0].partition(". ")[0]
        why = f"its forward cannot be traced, {type(error).__name__}: {what}"
        raise Untraceable(why) from error
    finally:
        random.setstate(numbers[0])
        kept = [_restored(one, attributes) for one, attributes in inner]
    if drawn:
        raise Untraceable("it draws random numbers")
    if tracer.questions.refused:
        raise Untraceable("it depends on a tensor's values")
    after = vars(root)
    kept += [before.keys() != after.keys()]
    if any(kept) or not all(same(before[name], after[name]) for name in before):
        raise Untraceable("it keeps something from call to call")
    _check_in_place(graph, module)
    tracer.questions.put_first(graph)
    try:
        values = values_read(root, module, reads)
    except Unsteady as unsteady:
        raise Untraceable(str(unsteady)) from None
    asked = frozenset(n.target for n in tracer.asked if n.op == "placeholder")
    answers = tracer.questions.answers
    return Trace(graph, names, asked, constants, values, answers)  # type: ignore[arg-type]


def _restored(module: nn.Module, attributes: dict[str, Any]) -> bool:
    """Give a module back its attributes: whether some were others."""
    own = vars(module)
    names = own.keys() | attributes.keys()
    unset = object()
    if all(own.get(name, unset) is attributes.get(name, unset) for name in names):
        return False
    own.clear()
    own.update(attributes)
    return True


def copied(value: Any) -> Any:
    """The value, or a copy of one that may be changed in place."""
    if type(value) is dict:
        return {name: copied(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(one) for one in value)
    return set(value) if type(value) is set else value


def same(one: Any, other: Any) -> bool:
    """Whether two values are; tensors and objects are compared by identity."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = [(one.get(key, other), value) for key, value in other.items()]
        return len(one) == len(other) and all(same(*pair) for pair in pairs)
    if isinstance(one, (list, tuple)):
        pairs = list(zip(one, other, strict=False))
        return len(one) == len(other) and all(same(*pair) for pair in pairs)
    return isinstance(one, (bool, int, float, str, set)) and bool(one == other)


def _check_in_place(graph: fx.Graph, module: nn.Module) -> None:
    """Raise Untraceable where a node changes what another one reads."""
    for node in graph.nodes:
        called = node.op in ("call_function", "call_method")
        name = getattr(node.target, "__name__", node.target) if called else ""
        named = (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE
        changes = node.kwargs.get("inplace") or "out" in node.kwargs
        if node.op == "call_module":
            inner: Any = module.get_submodule(node.target)
            while isinstance(inner, nn.Sequential) and len(inner):
                inner = inner[0]
            changes = changes or getattr(inner, "inplace", False)
        shared = any(len(argument.users) > 1 for argument in node.all_input_nodes)
        if named or "out" in node.kwargs or (changes and shared):
            raise Untraceable("it changes a tensor in place")
