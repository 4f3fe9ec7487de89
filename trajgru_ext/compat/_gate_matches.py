"""Which gate updates the forms of a graph's nodes are."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import fx

from trajgru_ext.compat._activations import (
    CANDIDATES,
    SIGMOID,
    TANH,
)
from trajgru_ext.compat._gate_forms import (
    Activated,
    Forms,
    Slice,
    Sum,
    Whole,
    plus,
    times,
)
from trajgru_ext.compat._gate_updates import (
    Gates,
    Terms,
    Update,
    gru_call,
    lstm_call,
    memory_call,
    output_call,
    reset_call,
)


class Unlike(Exception):
    """Why what looks like a gate update is none of ours."""


class _Layout(NamedTuple):
    order: str
    """The gates, as they lie."""
    terms: dict[fx.Node, Gates]


def find(forms: Forms) -> tuple[list[Update], list[str]]:
    """The updates of the first step, the last first; or why others are none.

    A memory alone is looked for where there are no whole updates, of which it is part.
    """
    reasons: dict[str, None] = {}
    for looks in ((_lstm, _gru), (_memory,)):
        for node, form in forms.of.items():
            for look in looks:
                try:
                    if found := look(forms, node, form):
                        return found, []
                except Unlike as unlike:
                    reasons[str(unlike)] = None
    if not reasons:
        reasons = dict.fromkeys(_unknown(forms))
    return [], list(reasons)


def _unknown(forms: Forms) -> Iterator[str]:
    """What is said of gates whose update has no other resemblance to ours."""
    for form in forms.of.values():
        if len(form) > 1 and any(len(product) > 1 for product in form):
            every = [number for product in form for number in product]
            gates = [n for n in every if _activated(forms, n, SIGMOID)]
            candidates = [n for n in every if _activated(forms, n, *CANDIDATES)]
            if gates and candidates:
                yield "its gates are neither an LSTM's nor a GRU's"


def _activated(forms: Forms, number: int, *functions: str) -> Activated | None:
    factor = forms[number]
    fits = isinstance(factor, Activated) and factor.function in functions
    return factor if fits else None  # type: ignore[return-value]  # fits says so


def _argument(forms: Forms, number: int) -> Sum:
    factor = forms[number]
    assert isinstance(factor, Activated)
    return dict(factor.argument)


def _pair(forms: Forms, product: tuple[int, ...], function: str) -> tuple[int, int]:
    """Of two factors the sigmoid and the other, an activation or none; or Unlike."""
    if len(product) == 2:
        for gate, other in (product, product[::-1]):
            if _activated(forms, gate, SIGMOID):
                there = _activated(forms, other, function)
                if there if function else not isinstance(forms[other], Activated):
                    return gate, other
    raise Unlike("a product is not of a gate and what it weighs")


def _node(forms: Forms, number: int) -> fx.Node:
    nodes = forms.nodes({(number,): 1.0})
    if not nodes:
        raise Unlike("a tensor is only there in parts")
    return nodes[0]


def _layout(sums: dict[str, Sum], forms: Forms) -> _Layout:
    """How gates that are each a sum of slices lie in the tensors; or raise Unlike."""
    slices: dict[str, dict[fx.Node, Slice]] = {}
    for gate, form in sums.items():
        slices[gate] = {}
        for product, coefficient in form.items():
            factor = forms[product[0]] if len(product) == 1 else None
            if isinstance(factor, Whole):
                raise Unlike("its gates do not lie in one tensor, but come separately")
            if not isinstance(factor, Slice) or coefficient != 1:
                raise Unlike(f"its {gate} gate adds more than slices of tensors")
            if factor.node in slices[gate]:
                raise Unlike(f"its {gate} gate adds two slices of one tensor")
            slices[gate][factor.node] = factor
    tensors = list(next(iter(slices.values())))
    if not tensors or any(set(of) != set(tensors) for of in slices.values()):
        raise Unlike("its gates are slices of different tensors")
    orders, terms = set(), {}
    for node in tensors:
        order, gates = _order({gate: of[node] for gate, of in slices.items()})
        orders.add(order)
        terms[node] = gates
    if len(orders) != 1:
        raise Unlike("its gates lie in different orders in different tensors")
    return _Layout(orders.pop(), terms)


def _order(slices: dict[str, Slice]) -> tuple[str, Gates]:
    """The order of the gates in a tensor, and where they lie; or raise Unlike."""
    gates = sorted(slices, key=lambda gate: slices[gate].start)
    lengths = {slices[gate].length for gate in gates}
    to_the_last = slices[gates[-1]].length is None
    if to_the_last:
        lengths = {slices[gate].length for gate in gates[:-1]}
    if len(lengths) != 1 or None in lengths:
        raise Unlike("its gates are not slices of one length")
    length: Any = lengths.pop()
    start = slices[gates[0]].start
    if [slices[gate].start for gate in gates] != [
        start + k * length for k in range(len(gates))
    ]:
        raise Unlike("its gates do not lie one after the other")
    return "".join(gates), Gates(start, length, len(gates), to_the_last)


def _in_two(terms: dict[fx.Node, Gates]) -> list[dict[fx.Node, Gates]]:
    """Terms as two: the operators add these. Biases, of other sizes, come first."""
    each = sorted(terms.items(), key=lambda term: term[0].op != "get_attr")
    of_sizes = [node for node, _ in each if node.op != "get_attr"]
    if len(of_sizes) < 2:
        return [dict(each)]
    return [dict(each[:-1]), dict(each[-1:])]


def _terms(parts: list[dict[fx.Node, Gates]]) -> list[Terms | None]:
    found = [Terms(tuple(part.values())) if part else None for part in parts]
    return [*found, None][:2]


class _Remembered(NamedTuple):
    """What c' is made of: the number of c, and the sums of the gates i, f and g."""

    c: int
    sums: dict[str, Sum]


def _remembered(forms: Forms, memory: Sum) -> _Remembered:
    """C' = sigma(f) c + sigma(i) tanh(g); or raise Unlike."""
    if len(memory) != 2 or set(memory.values()) != {1.0}:
        raise Unlike("its new memory is not f c + i g")
    weighed = [one for one in memory if any(_activated(forms, n, TANH) for n in one)]
    kept = [one for one in memory if one not in weighed]
    if len(kept) != 1:
        raise Unlike("its candidate is not the tanh of a sum")
    i, g = _pair(forms, weighed[0], TANH)
    f, c = _pair(forms, kept[0], "")
    gates = {"i": i, "f": f, "g": g}
    return _Remembered(c, {k: _argument(forms, n) for k, n in gates.items()})


def _memory(forms: Forms, node: fx.Node, form: Sum) -> list[Update]:
    """An LSTM's new memory, whatever is made of it."""
    if len(form) != 2 or any(len(product) != 2 for product in form):
        return []
    numbers = [number for product in form for number in product]
    gates = {number for number in numbers if _activated(forms, number, SIGMOID)}
    if len(gates) != 2 or not any(_activated(forms, n, TANH) for n in numbers):
        return []
    c, sums = _remembered(forms, form)
    forget_bias = sums["f"].pop((), 0.0)
    layout = _layout(sums, forms)
    parts = _in_two(layout.terms)
    x, h = _terms(parts)
    assert x is not None
    what = f"lstm_memory, order {layout.order}"
    what += f", forget_bias {forget_bias:g}" if forget_bias else ""
    leaves = [_node(forms, c), *(n for part in parts for n in part)]
    call = memory_call(x, h, layout.order, forget_bias)
    return [Update(what, leaves, [forms.nodes(form)], call, layout.terms)]


def _lstm(forms: Forms, node: fx.Node, form: Sum) -> list[Update]:
    """H' = sigma(o) tanh(c'), c' = sigma(f) c + sigma(i) tanh(g)."""
    if len(form) != 1:
        return []
    ((product, coefficient),) = form.items()
    if len(product) != 2 or coefficient != 1:
        return []
    activated = [_activated(forms, number, TANH) for number in product]
    if not any(activated) or not any(_activated(forms, n, SIGMOID) for n in product):
        return []
    out, tanh = _pair(forms, product, TANH)
    memory = _argument(forms, tanh)
    if all(len(one) < 2 for one in memory):
        return []  # the product of i and g, or of o and what a module makes
    remembered = _remembered(forms, memory)
    c, sums = remembered.c, remembered.sums
    sums["o"] = _argument(forms, out)
    forget_bias = sums["f"].pop((), 0.0)
    peepholes = [
        _peephole(forms, sums, "i", {(c,): 1.0}),
        _peephole(forms, sums, "f", {(c,): 1.0}),
        _peephole(forms, sums, "o", memory),
    ]
    layout = _layout(sums, forms)
    parts = _in_two(layout.terms)
    weights = [None if w is None else _node(forms, w) for w in peepholes]
    given = [w for w in weights if w is not None]
    if given and len(given) != 3:
        raise Unlike("not all of its gates i, f and o see the memory")
    x, h = _terms(parts)
    assert x is not None
    what = f"lstm_gates, order {layout.order}"
    what += f", forget_bias {forget_bias:g}" if forget_bias else ""
    what += ", peepholes" if given else ""
    leaves = [_node(forms, c), *given, *(n for part in parts for n in part)]
    call = lstm_call(x, h, bool(given), layout.order, forget_bias)
    outputs = [forms.nodes(form), forms.nodes(memory)]
    if not outputs[1]:
        raise Unlike("its new memory is only there in parts")
    return [Update(what, leaves, outputs, call, layout.terms)]


def _peephole(forms: Forms, sums: dict[str, Sum], gate: str, memory: Sum) -> int | None:
    """Take from a gate's sum what is a weight times the memory: the weight."""
    first = next(iter(memory))
    for product in sums[gate]:
        rest = list(product)
        for number in first:
            if number in rest:
                rest.remove(number)
        if len(rest) == 1 and len(product) == len(first) + 1:
            seen = times({(rest[0],): 1.0}, memory)
            if all(sums[gate].get(one) == value for one, value in seen.items()):
                if not isinstance(forms[rest[0]], Whole):
                    raise Unlike(f"its {gate} gate weighs the memory by a gate")
                sums[gate] = plus(sums[gate], seen, -1.0)
                return rest[0]
    return None


class _Blend(NamedTuple):
    """h' from an update gate u, a candidate n and the old state h, by number."""

    u: int
    n: int
    h: int
    update: str


def _blends(forms: Forms, form: Sum) -> Iterator[_Blend]:
    """H' = u h + (1 - u) n, or the other way round."""
    if len(form) != 3 or sorted(map(len, form)) != [1, 2, 2]:
        return
    alone, less, more = sorted(form, key=lambda one: (len(one), form[one]))
    if [form[one] for one in (alone, less, more)] != [1.0, -1.0, 1.0]:
        return
    (first,) = alone
    for u in set(less) & set(more):
        second = more[more.index(u) - 1]
        if less != tuple(sorted((u, first))) or not _activated(forms, u, SIGMOID):
            continue
        for n, h, update in ((first, second, "keep"), (second, first, "replace")):
            one, other = forms[n], forms[h]
            if isinstance(one, Activated) and not isinstance(other, Activated):
                yield _Blend(u, n, h, update)


def _gru(forms: Forms, node: fx.Node, form: Sum) -> list[Update]:
    for blend in _blends(forms, form):
        candidate = forms[blend.n]
        assert isinstance(candidate, Activated)
        if candidate.function == SIGMOID or candidate.slope < 0:
            raise Unlike("its candidate is neither of tanh nor of a rectifier")
        options = candidate.function, candidate.slope, blend.update
        try:
            return [_reset_after(forms, blend, options, form)]
        except Unlike:
            pass
        output = _output(forms, blend, options, form)
        try:
            return [output, _reset_before(forms, blend)]
        except Unlike:
            return [output]
    return []


def _shown(options: tuple[Any, ...]) -> str:
    activation, slope, update = options
    slope = f" {slope:g}" if activation == "leaky_relu" else ""
    return f"{activation}{slope}, update {update}"


def _reset_after(
    forms: Forms, blend: _Blend, options: tuple[Any, ...], form: Sum
) -> Update:
    """N = activation(x_n + r h_n)."""
    candidate = _argument(forms, blend.n)
    products = [one for one in candidate if len(one) == 2]
    gates = {n for one in products for n in one if _activated(forms, n, SIGMOID)}
    if len(gates) != 1 or any(candidate[one] != 1 for one in products):
        raise Unlike("its candidate has no reset gate")
    (r,) = gates
    of_state: Sum = {(one[one.index(r) - 1],): 1.0 for one in products if r in one}
    of_inputs = {one: v for one, v in candidate.items() if one not in products}
    sums = {"r": _argument(forms, r), "u": _argument(forms, blend.u)}
    layout = _layout({**sums, "n": plus(of_inputs, of_state)}, forms)
    by_state = {forms[one[0]].node for one in of_state}  # type: ignore[union-attr]
    parts = [
        {node: of for node, of in layout.terms.items() if (node in by_state) == state}
        for state in (False, True)
    ]
    x, h = _terms(parts)
    leaves = [_node(forms, blend.h), *(n for part in parts for n in part)]
    call = gru_call(x, h, layout.order, *options)
    what = f"gru_gates, order {layout.order}, {_shown(options)}"
    return Update(what, leaves, [forms.nodes(form)], call, layout.terms)


def _output(forms: Forms, blend: _Blend, options: tuple[Any, ...], form: Sum) -> Update:
    candidates = forms.nodes(_argument(forms, blend.n))
    if not candidates:
        raise Unlike("its candidate is only there in parts")
    leaves = [_node(forms, blend.h), _node(forms, blend.u), candidates[0]]
    what = f"gru_output, {_shown(options)}"
    return Update(what, leaves, [forms.nodes(form)], output_call(*options), {})


def _reset_before(forms: Forms, blend: _Blend) -> Update:
    """R h, which a module that computes the candidate reads."""
    update = _argument(forms, blend.u)
    for reset, form in forms.resets(blend.h):
        if reset != blend.u:
            sums = {"r": _argument(forms, reset), "u": update}
            layout = _layout(sums, forms)
            parts = _in_two(layout.terms)
            x, h = _terms(parts)
            assert x is not None
            leaves = [_node(forms, blend.h), *(n for part in parts for n in part)]
            outputs = [forms.nodes({(blend.u,): 1.0}), forms.nodes(form)]
            what = f"gru_reset, order {layout.order}"
            call = reset_call(x, h, layout.order)
            return Update(what, leaves, outputs, call, layout.terms)
    raise Unlike("its state is not reset")
