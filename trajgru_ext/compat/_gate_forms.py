"""The arithmetic of a graph in a normal form: sums of products.

However a gate update is written, its nodes have the same form: `h + z * (n - h)` and
`(1 - z) * h + z * n` are both h - z h + z n. The factors of a product are tensors that
something else makes, equal slices of their channels, and activations of sums.
"""

import itertools
import operator
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from trajgru_ext.compat._activations import (
    FUNCTIONS,
    IDENTITY,
    LEAKY_RELU,
    SIGMOID,
    activation_of,
)

# A product's factors by number, in order; a sum's products and their coefficients.
Product = tuple[int, ...]
Sum = dict[Product, float]

_MOST_PRODUCTS = 64  # longer sums are no gates


class Whole(NamedTuple):
    """A tensor that the arithmetic begins with."""

    node: fx.Node


class Slice(NamedTuple):
    """Some of a tensor's channels, counted or as a part of all."""

    node: fx.Node
    start: int | Fraction
    length: int | Fraction | None
    """None: to the last."""


class Activated(NamedTuple):
    """An activation of a sum."""

    function: str
    slope: float
    argument: frozenset[tuple[Product, float]]


Factor = Whole | Slice | Activated

_METHODS = ("sigmoid", "tanh", "relu")
_ARITHMETIC: dict[Any, str] = {
    **{f: "add" for f in (operator.add, torch.add, "add")},
    **{f: "sub" for f in (operator.sub, torch.sub, torch.subtract, "sub")},
    **{f: "mul" for f in (operator.mul, torch.mul, torch.multiply, "mul")},
    **{f: "neg" for f in (operator.neg, torch.neg, "neg")},
    **{f: "rsub" for f in (torch.rsub, "rsub")},
    **{f: "lerp" for f in (torch.lerp, "lerp")},
    **{f: "addcmul" for f in (torch.addcmul, "addcmul")},
}
_OPERANDS = {"neg": 1, "lerp": 3, "addcmul": 3}


def channels_of(node: fx.Node, module: nn.Module) -> int | None:
    """How many channels a node's result has, where a layer's settings tell."""
    if node.op != "call_module":
        return None
    inner: Any = module.get_submodule(str(node.target))
    while isinstance(inner, nn.Sequential) and len(inner):
        inner = inner[-1]
    names = ("out_channels", "num_channels", "num_features")
    counts = [getattr(inner, name, None) for name in names]
    return next((count for count in counts if isinstance(count, int)), None)


class Forms:
    """The forms of a graph's nodes.

    whole_states: whether arithmetic of tensors that are neither sliced nor activated is
    left as it is. A state that is masked is then one factor, but sums of gates are too.
    """

    def __init__(
        self, graph: fx.Graph, module: nn.Module, whole_states: bool = False
    ) -> None:
        self._module, self._whole_states = module, whole_states
        self._factors: list[Factor] = []
        self._numbers: dict[Factor, int] = {}
        self._parts: dict[fx.Node, list[Sum]] = {}
        self.of: dict[fx.Node, Sum] = {}
        self.understood: set[fx.Node] = set()
        """The nodes that are arithmetic, and compute nothing else."""
        self._nodes: dict[frozenset[tuple[Product, float]], list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "output":
                continue
            form = self._form(node)
            if form is None and node not in self._parts:
                form = self.factor(Whole(node))
            else:
                self.understood.add(node)
            if form is not None:
                self.of[node] = form
                self._nodes.setdefault(key(form), []).append(node)

    def __getitem__(self, number: int) -> Factor:
        """The factor of a number."""
        return self._factors[number]

    def nodes(self, form: Sum) -> list[fx.Node]:
        """The nodes that compute a sum."""
        return self._nodes.get(key(form), [])

    def resets(self, state: int) -> Iterator[tuple[int, Sum]]:
        """The gates that the state alone is multiplied by, and the products."""
        for form in self.of.values():
            ((product, coefficient), *more) = form.items() or [((), 0.0)]
            if not more and coefficient == 1 and len(product) == 2 and state in product:
                gate = product[product.index(state) - 1]
                factor = self[gate]
                if isinstance(factor, Activated) and factor.function == SIGMOID:
                    yield gate, form

    def factor(self, factor: Factor) -> Sum:
        """The sum that is just a factor."""
        number = self._numbers.setdefault(factor, len(self._factors))
        if number == len(self._factors):
            self._factors.append(factor)
        return {(number,): 1.0}

    def _form(self, node: fx.Node) -> Sum | None:
        target: Any = node.target
        if node.op == "call_module":
            return self._module_call(node)
        if node.op not in ("call_function", "call_method"):
            return None
        kinds = (
            (self._function, FUNCTIONS.keys() | set(_METHODS)),
            (self._arithmetic, _ARITHMETIC.keys()),
            (self._item, {operator.getitem}),
        )
        for rule, targets in kinds:
            if target in targets:
                return rule(node)
        return self._sliced(node)

    def _module_call(self, node: fx.Node) -> Sum | None:
        found = activation_of(self._module.get_submodule(str(node.target)))
        if found is None or len(node.args) != 1 or node.kwargs:
            return None
        return self._activated(*found, node.args[0])

    def _activated(self, function: str, slope: float, argument: Any) -> Sum | None:
        form = self._operand(argument)
        if function == IDENTITY:
            return form
        return None if form is None else self._activation(function, slope, form)

    def _activation(self, function: str, slope: float, form: Sum) -> Sum:
        return self.factor(Activated(function, slope, key(form)))

    def _function(self, node: fx.Node) -> Sum | None:
        function = FUNCTIONS.get(node.target) or str(node.target)
        options = dict(node.kwargs)
        options.pop("inplace", None)
        args = [options.pop("input")] if "input" in options else []
        args += node.args
        slope = 0.0
        if function == LEAKY_RELU:
            given = args[1] if len(args) > 1 else options.pop("negative_slope", 0.01)
            if not isinstance(given, (int, float)):
                return None
            slope, args = float(given), args[:1]
        # More arguments: whether in place, which the trace has seen to, or unknown.
        if options or len(args) != 1:
            return None
        return self._activated(function, slope, args[0])

    def _arithmetic(self, node: fx.Node) -> Sum | None:
        name = _ARITHMETIC[node.target]
        operands = [self._operand(one) for one in node.args]
        wanted = _OPERANDS.get(name, 2)
        if node.kwargs or len(operands) != wanted or None in operands:
            return None
        found = _COMBINED[name](*operands)
        factors = {type(self[number]) for product in found for number in product}
        left = len(found) > _MOST_PRODUCTS or (
            self._whole_states and factors == {Whole}
        )
        return None if left else found

    def _operand(self, value: Any) -> Sum | None:
        if isinstance(value, fx.Node):
            return self.of.get(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {(): float(value)} if value else {}
        return None

    def _item(self, node: fx.Node) -> Sum | None:
        base, index = node.args
        if not isinstance(base, fx.Node):
            return None
        if base in self._parts:
            parts = self._parts[base]
            known = isinstance(index, int) and -len(parts) <= index < len(parts)
            return parts[index] if known else None  # type: ignore[index]  # an int
        bounds = _channels_in(index)
        return None if bounds is None else self._slice(self._base(base), *bounds)

    def _sliced(self, node: fx.Node) -> Sum | None:
        """Take a tensor's channels apart: the parts are of the node's items."""
        name = getattr(node.target, "__name__", node.target)
        if name not in ("chunk", "split", "tensor_split", "narrow"):
            return None
        if node.op == "call_function" and node.target not in _SLICING:
            return None
        names = {"narrow": ("dim", "start", "length")}.get(name, (None, "dim"))
        args = dict(zip(names, node.args[1:], strict=False))
        for given, value in node.kwargs.items():
            args[given if given in names else None] = value
        if args.get("dim") not in (1, -3) or not isinstance(node.args[0], fx.Node):
            return None
        base = self._base(node.args[0])
        if name == "narrow":
            start, length = args.get("start"), args.get("length")
            whole = isinstance(start, int) and isinstance(length, int) and start >= 0
            return self._slice(base, start, length) if whole else None
        size = args.get(None)
        parts: list[Sum | None] | None
        if isinstance(size, int) and name != "split":
            parts = self._chunks(base, size)
        elif name == "tensor_split":
            parts = self._cut(base, size)
        else:
            parts = self._splits(base, size, node)
        if parts and all(part is not None for part in parts):
            self._parts[node] = [part for part in parts if part is not None]
        return None

    def _chunks(self, base: Sum, count: int) -> list[Sum | None]:
        length = Fraction(1, count)
        return [self._slice(base, k * length, length) for k in range(count)]

    def _cut(self, base: Sum, places: Any) -> list[Sum | None] | None:
        """The parts between some places, and what is after the last."""
        if not isinstance(places, (list, tuple)):
            return None
        if not all(isinstance(one, int) and one > 0 for one in places):
            return None
        pairs = itertools.pairwise([0, *places])
        parts = [self._slice(base, start, end - start) for start, end in pairs]
        return [*parts, self._slice(base, max(places), None)]

    def _splits(self, base: Sum, size: Any, node: fx.Node) -> list[Sum | None] | None:
        if isinstance(size, int):
            items = [
                one.args[1] for one in node.users if one.target is operator.getitem
            ]
            count = max((k for k in items if isinstance(k, int)), default=-1) + 1
            sizes = [size] * count
        elif isinstance(size, (list, tuple)):
            sizes = list(size)
        else:
            return None
        if not all(isinstance(one, int) and one > 0 for one in sizes):
            return None
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        pairs = zip(starts, sizes, strict=True)
        return [self._slice(base, start, length) for start, length in pairs]

    def _base(self, node: fx.Node) -> Sum:
        return self.of.get(node) or self.factor(Whole(node))

    def _slice(self, form: Sum, start: Any, length: Any) -> Sum | None:
        """The channels of a sum, which are the sum of the channels.

        A term that is broadcast has too few; but slices are only ever put together
        again, so this matters to nobody.
        """
        found: Sum = {}
        for product, coefficient in form.items():
            one: Sum | None = {(): 1.0}
            if product:
                one = self._slice_of_factor(self[product[0]], start, length)
            if one is None or len(product) > 1:
                return None
            found = plus(found, one, coefficient)
        return found

    def _slice_of_factor(self, factor: Factor, start: Any, length: Any) -> Sum | None:
        if isinstance(factor, Activated):
            inner = self._slice(dict(factor.argument), start, length)
            if inner is None:
                return None
            return self._activation(factor.function, factor.slope, inner)
        if isinstance(factor, Slice):
            of_all = isinstance(length, Fraction)
            if factor.length is None or (of_all is False and length is None):
                return None
            if of_all:
                start, length = start * factor.length, length * factor.length
                if isinstance(factor.length, int):
                    if Fraction(start).denominator * Fraction(length).denominator != 1:
                        return None
                    start, length = int(start), int(length)
            elif isinstance(factor.length, Fraction):
                return None
            start = factor.start + start
        elif length is None:
            channels = channels_of(factor.node, self._module)
            length = None if channels is None else channels - start
        return self.factor(Slice(factor.node, start, length))


_SLICING = (torch.chunk, torch.split, torch.tensor_split, torch.narrow)


def _channels_in(index: Any) -> tuple[int, int | None] | None:
    """The first channel and the number of them in `[:, a:b]`; None: to the last."""
    if not isinstance(index, tuple) or len(index) < 2:
        return None
    first, channels, *rest = index
    everything = slice(None)
    if first != everything or any(one not in (everything, ...) for one in rest):
        return None
    if not isinstance(channels, slice) or channels.step not in (None, 1):
        return None
    start, stop = channels.start or 0, channels.stop
    counted = isinstance(start, int) and isinstance(stop, int | None)
    if not counted or start < 0 or (stop is not None and stop <= start):
        return None
    return start, None if stop is None else stop - start


def key(form: Sum) -> frozenset[tuple[Product, float]]:
    """A sum as what dictionaries take."""
    return frozenset(form.items())


def plus(one: Sum, other: Sum, factor: float = 1.0) -> Sum:
    """One sum and `factor` times another."""
    found = dict(one)
    for product, coefficient in other.items():
        found[product] = found.get(product, 0.0) + factor * coefficient
    return {product: value for product, value in found.items() if value}


def times(one: Sum, other: Sum) -> Sum:
    """The product of two sums."""
    found: Sum = {}
    for a, x in one.items():
        for b, y in other.items():
            product = tuple(sorted(a + b))
            found[product] = found.get(product, 0.0) + x * y
    return {product: value for product, value in found.items() if value}


_COMBINED: dict[str, Callable[..., Sum]] = {
    "add": plus,
    "sub": lambda a, b: plus(a, b, -1.0),
    "rsub": lambda a, b: plus(b, a, -1.0),
    "mul": times,
    "neg": lambda a: times(a, {(): -1.0}),
    "lerp": lambda a, b, w: plus(a, times(w, plus(b, a, -1.0))),
    "addcmul": lambda a, b, c: plus(a, times(b, c)),
}
