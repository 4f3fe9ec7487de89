"""Calls of our operators in the place of gate updates in a graph."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from trajgru_ext.compat import _compare
from trajgru_ext.compat._activations import (
    IDENTITY,
    LEAKY_RELU,
    RELU,
    SIGMOID,
    TANH,
    activation_of,
)
from trajgru_ext.compat._gate_forms import (
    Forms,
    channels_of,
)
from trajgru_ext.compat._gate_matches import find
from trajgru_ext.compat._gate_updates import Update
from trajgru_ext.ops.conv2d import conv2d

_BATCH, _FEATURES, _SIZE = 2, 3, (5, 6)  # of what updates are tried on
_MOST_UPDATES = 64  # of steps in one forward

_FUNCTIONS: dict[str, Any] = {
    SIGMOID: torch.sigmoid,
    TANH: torch.tanh,
    RELU: torch.relu,
    LEAKY_RELU: functional.leaky_relu,
    IDENTITY: lambda value: value,
}

_OTHERS = "its gates read what is none of their tensors"


class Alone(Exception):
    """Why a module with gates is left alone."""


def rewrite(
    graph: fx.Graph, module: nn.Module, probe: bool
) -> tuple[list[str], set[str]]:
    """Put operators in a graph: what they are, and the activations in them.

    Raises Alone where there are gates, but none or not only such as operators have, and
    no convolutions either.
    """
    what: list[str] = []
    refused = ""
    swallowed: set[str] = set()
    while len(what) < _MOST_UPDATES:
        forms = Forms(graph, module)
        updates, reasons = find(forms)
        if not updates:
            forms = Forms(graph, module, whole_states=True)
            updates, _ = find(forms)
        if not updates:
            refused = "" if what else "; ".join(reasons)
            break
        for update in updates:
            swallowed |= _rewrite(graph, forms, update, module, probe)
        what += [update.what for update in reversed(updates)]
        swallowed |= _without_unused(graph, forms)
        try:
            graph.lint()
        except RuntimeError as error:
            raise Alone("its gates need what is made of its new states") from error
    if _replace_convolutions(graph):
        what.append(conv2d.__name__)
    elif refused:
        raise Alone(refused)
    return what, swallowed


def _replace_convolutions(graph: fx.Graph) -> bool:
    """Call our function for PyTorch's: whether there was one."""
    calls = graph.find_nodes(op="call_function", target=functional.conv2d)
    for node in calls:
        node.target = conv2d
    return bool(calls)


def compiled(graph: fx.Graph) -> Any:
    """The function of self and the arguments that a graph is."""
    for node in graph.nodes:
        # Else the code would register torch's functions for all later traces.
        node.meta.pop("is_wrapped", None)
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<trajgru_ext.accelerate>", "exec"), names)
    return names["forward"]


def _rewrite(
    graph: fx.Graph, forms: Forms, update: Update, module: nn.Module, probe: bool
) -> set[str]:
    """Put a call of the operator in the place of the nodes of an update."""
    update = _each_once(update)
    plain, swallowed = _plain(update, forms, module)
    if probe:
        _try(update, plain, module)
    call = update.call

    def gates(*tensors: Tensor) -> Any:
        found = call(tensors)
        return plain(None, *tensors) if found is None else found

    order = {node: place for place, node in enumerate(graph.nodes)}
    arguments = [node for node in graph.nodes if node.op == "placeholder"]
    last = max([*update.leaves, *arguments[-1:]], key=order.__getitem__)
    with graph.inserting_after(last):
        result = graph.call_function(gates, tuple(update.leaves))
    after = result
    for k, nodes in enumerate(update.outputs):
        with graph.inserting_after(after):
            after = graph.call_function(_item, (result, k))
        for node in nodes:
            node.replace_all_uses_with(after)
    return swallowed


def _each_once(update: Update) -> Update:
    """The update with each leaf once: a weight may be that of two gates."""
    leaves = list(dict.fromkeys(update.leaves))
    places = [leaves.index(leaf) for leaf in update.leaves]
    call = update.call
    return update._replace(
        leaves=leaves, call=lambda tensors: call([tensors[k] for k in places])
    )


def _item(results: Any, k: int) -> Any:
    return results[k]


def _plain(update: Update, forms: Forms, module: nn.Module) -> tuple[Any, set[str]]:
    """The nodes of an update as a function of what they read."""
    graph, swallowed = fx.Graph(), set()
    copies: dict[fx.Node, fx.Node] = {}
    for k, leaf in enumerate(update.leaves):
        value = graph.placeholder(f"t{k}")
        copies |= dict.fromkeys(forms.nodes(forms.of[leaf]), value)

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node.op == "call_module":
                found = activation_of(module.get_submodule(str(node.target)))
                if found is None:
                    raise Alone(_OTHERS)
                function, slope = found
                swallowed.add(str(node.target))
                args = [copied(one) for one in node.all_input_nodes]
                more = (slope,) if function == LEAKY_RELU else ()
                copies[node] = graph.call_function(_FUNCTIONS[function], (*args, *more))
            elif node.op in ("call_function", "call_method"):
                for one in node.all_input_nodes:
                    copied(one)
                copies[node] = graph.node_copy(node, copies.__getitem__)
            else:
                raise Alone(_OTHERS)
        return copies[node]

    graph.output(tuple(copied(nodes[0]) if nodes else None for nodes in update.outputs))
    return compiled(graph), swallowed


def _without_unused(graph: fx.Graph, forms: Forms) -> set[str]:
    """Erase the arithmetic that nothing reads any more: the names of its modules."""
    modules = set()
    for node in reversed(list(graph.nodes)):
        unused = not node.users and node.op not in ("placeholder", "output")
        if unused and (node in forms.understood or node.op == "get_attr"):
            if node.op == "call_module":
                modules.add(str(node.target))
            graph.erase_node(node)
    return modules


def _try(update: Update, plain: Any, module: nn.Module) -> None:
    """Raise Alone where an update does not compute what the nodes do."""
    tensors = _samples(update, module)
    if update.call(tensors) is None:
        raise Alone("its gates or states are of other sizes")
    results = []
    for function in (lambda *t: plain(None, *t), lambda *t: update.call(t)):
        try:
            with (
                torch.random.fork_rng(),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                results.append(_compare.run(function, tuple(tensors), {}))
        except Exception as error:
            raise Alone(f"its gates do not run: {error}") from error
    if wrong := _compare.differences(results[1], results[0]):
        raise Alone(f"its numbers are others: {', '.join(wrong)}")


def _samples(update: Update, module: nn.Module) -> list[Tensor]:
    """Random tensors for the leaves, in float64, of the sizes that they must have."""
    generator = torch.Generator("cpu").manual_seed(0)
    shapes = {
        node: tuple(_attribute(module, node).shape)
        for node in update.leaves
        if node.op == "get_attr"
    }
    features, size = _FEATURES, _SIZE
    for node, gates in update.gates.items():
        channels = channels_of(node, module)
        if node in shapes and len(shapes[node]) in (3, 4) and shapes[node][-3] > 1:
            channels = shapes[node][-3]
        if isinstance(gates.length, int):
            features = gates.length
        elif channels is not None:
            features = int(channels * gates.length)
    for node, shape in shapes.items():
        if node not in update.gates and len(shape) in (3, 4):
            features, *sides = shape[-3:]
            size = size if sides == [1, 1] else (sides[0], sides[1])
    tensors = []
    for node in update.leaves:
        shape = (_BATCH, _channels(update, node, features, module), *size)
        shape = shapes.get(node, shape)
        tensors.append(
            torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        )
    return tensors


def _attribute(module: nn.Module, node: fx.Node) -> Tensor:
    parent, _, name = str(node.target).rpartition(".")
    found: Tensor = getattr(module.get_submodule(parent), name)
    return found


def _channels(update: Update, node: fx.Node, features: int, module: nn.Module) -> int:
    gates = update.gates.get(node)
    if gates is None:
        return features
    known = channels_of(node, module)
    if known is not None:
        return known
    if isinstance(gates.length, int):
        return int(gates.start) + gates.how_many * features
    return int(features / gates.length)
