"""Questions about sizes that a forward asks while it is traced, as loops and ifs do.

The graph goes the way of one answer. So it asks again when it runs, before anything
else, and where the answer is another one the forward is traced with that.
"""

import dis
import operator
import types
from typing import Any

from torch import fx

Answers = tuple[int | bool, ...]

MOST_ANSWERS = 32  # in one forward

_LONGEST = 64  # loop over a size

_GUESS = 2  # for a size, before there is a tensor

_DIMENSIONS = 4  # of an image

_OPERATORS = {
    getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "floordiv", "mod", "neg", "pow", "truediv"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "getitem"),
    )
}
_SIZES = ("shape", "ndim", "size", "dim", "ndimension", "numel", "nelement")


class OtherWay(Exception):
    """Raised in a graph that does not stand for the forward of these arguments.

    Its arguments are the number of the question and the answer, if it was one.
    """


class Unasked(Exception):
    """What is asked for is no size of an argument."""


class Questions:
    """Those of one trace, with the answers known beforehand."""

    def __init__(self, known: Answers) -> None:
        self._known = known
        self._asked: list[fx.Node] = []
        self.answers: Answers = ()
        self.refused = False

    def answer(self, node: fx.Node, kind: type) -> Any:
        """The answer to go on with, a bool or an int; Unasked where there is none."""
        number = len(self.answers)
        if not is_size(node) or number == MOST_ANSWERS:
            self._refuse()
        known = number < len(self._known)
        answer = kind(self._known[number] if known else _guess(node, kind))
        if kind is int and answer > _LONGEST:
            self._refuse()
        graph = node.graph
        self._asked.append(graph.call_function(_ask, (node, number, answer)))
        self.answers = (*self.answers, answer)
        return answer

    def _refuse(self) -> None:
        self.refused = True  # whatever the forward makes of the error
        raise Unasked("it depends on a tensor's values, or on many or large sizes")

    def count(self, node: fx.Node) -> int | None:
        """How many items an argument or sizes have; None where it is none of these."""
        if not (is_size(node) or _is_argument(node)):
            return None
        return int(self.answer(node.graph.call_function(len, (node,)), int))

    def put_first(self, graph: fx.Graph) -> None:
        """Move the questions before all else, so that nothing runs twice."""
        wanted: set[fx.Node] = set()
        nodes = list(self._asked)
        for node in nodes:
            if node.op != "placeholder" and node not in wanted:
                wanted.add(node)
                nodes += node.all_input_nodes
        *_, place = (node for node in graph.nodes if node.op == "placeholder")
        for node in [node for node in graph.nodes if node in wanted]:
            place.append(node)
            place = node


def _ask(size: Any, number: int, answer: int | bool) -> None:
    if isinstance(answer, bool):
        found: int | bool = True if size else False  # noqa: SIM210 - a symbol's, too
    else:
        found = int(size)
    if found != answer:
        raise OtherWay(number, found)


def asserted(value: Any) -> None:
    """What a forward asserts; where it does not hold the original says so."""
    if not value:
        raise OtherWay


def is_asserted(frame: types.FrameType) -> bool:
    """Whether a frame raises an AssertionError if what it now asks for is not true.

    It goes on if that is true; as it asks again when it runs, a graph may suppose so.
    """
    code = list(dis.get_instructions(frame.f_code))
    places = {one.offset: place for place, one in enumerate(code)}
    place = places[frame.f_lasti]
    # From Python 3.13 on a comparison may itself ask, whose result is then a bool.
    if code[place].opname in ("TO_BOOL", "COMPARE_OP"):
        place += 1
    jump = code[place]
    if "JUMP" in jump.opname and jump.opname.endswith("IF_TRUE"):
        place += 1
    elif "JUMP" in jump.opname and jump.opname.endswith("IF_FALSE"):
        place = places[jump.argval]
    # On the way from a chain of comparisons.
    while code[place].opname in ("JUMP_FORWARD", "POP_TOP"):
        forward = code[place].opname == "JUMP_FORWARD"
        place = places[code[place].argval] if forward else place + 1
    return code[place].opname == "LOAD_ASSERTION_ERROR"


def _is_argument(node: Any) -> bool:
    """Whether it is an argument or a tensor of the module, or a part of it."""
    if node.op in ("placeholder", "get_attr"):
        return True
    part = node.target is operator.getitem or (
        node.target is getattr and node.args[1] == "data"
    )
    return part and _is_argument(node.args[0]) and len(node.all_input_nodes) == 1


def is_size(node: Any) -> bool:
    """Whether a node is a number, or some, that follow from the sizes of arguments."""
    alone = len(node.all_input_nodes) == 1
    if node.target is len:
        return _is_argument(node.args[0]) or is_size(node.args[0])
    if node.op in ("call_function", "call_method") and _name(node) in _SIZES:
        return alone and _is_argument(node.args[0])
    if node.op != "call_function" or node.target not in _OPERATORS:
        return False
    return bool(node.all_input_nodes) and all(map(is_size, node.all_input_nodes))


def _name(node: Any) -> Any:
    return node.args[1] if node.target is getattr else node.target


def _guess(node: Any, kind: type) -> Any:
    """An answer for images, where no argument is there yet."""
    if kind is bool:
        return bool(node.target not in (operator.ne, *_ORDERS))
    if node.target is len:
        (sizes,) = node.args
        if _is_argument(sizes):
            return _GUESS
        part = sizes.args[1] if sizes.target is operator.getitem else slice(None)
        try:
            return len(range(_DIMENSIONS)[part])
        except TypeError:  # of a part that is not known
            return _DIMENSIONS
    return _DIMENSIONS if _name(node) in ("ndim", "dim", "ndimension") else _GUESS


_ORDERS = (operator.lt, operator.le, operator.gt, operator.ge)
