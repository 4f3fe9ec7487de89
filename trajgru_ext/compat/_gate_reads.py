"""What a traced forward reads of modules, beside their tensors: it holds its values.

A graph has no reads of attributes: what they gave is in it. So they are noted while the
forward is traced, with their values, and compared at every call.
"""

import copy
import inspect
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_FIXED = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_MISSING = object()

_DEPTH = 4  # of functions that call each other, in which activations are looked for


class Read(NamedTuple):
    """A value that a graph holds."""

    path: str
    """Of the module inside; "" for the one that was traced."""
    name: str
    """Of the attribute; "" for the names of the modules in a list or dict of them."""
    value: Any

    def holds(self, module: nn.Module) -> bool:
        """Whether it would be read again."""
        inner: Any = module
        for name in self.path.split(".") if self.path else ():
            inner = None if inner is None else vars(inner)["_modules"].get(name)
        if inner is None:
            return False
        if not self.name:
            return bool(tuple(vars(inner)["_modules"]) == self.value)
        if self.value is _MISSING:  # a method, which nothing on the module hides
            return self.name not in vars(inner)
        now = getattr(inner, self.name, _MISSING)
        return type(now) is type(self.value) and bool(now == self.value)


class Unsteady(Exception):
    """What is read may be changed without a trace."""


@contextmanager
def noted() -> Iterator[list[tuple[nn.Module, str, Any]]]:
    """While it lasts, the reads that are not torch's own are put on the list."""
    reads: list[tuple[nn.Module, str, Any]] = []
    thread = threading.get_ident()

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("__") and threading.get_ident() == thread:
            reader = sys._getframe(1).f_globals.get("__name__", "")
            if reader.partition(".")[0] not in ("torch", "trajgru_ext"):
                reads.append((self, name, value))
        return value

    modules: Any = nn.Module
    modules.__getattribute__ = read
    try:
        yield reads
    finally:
        del modules.__getattribute__


def values_read(
    root: nn.Module, module: nn.Module, reads: list[tuple[nn.Module, str, Any]]
) -> tuple[Read, ...]:
    """What must stay as it is; Unsteady is raised where that cannot be seen.

    Args:
        root: the stand-in that was traced.
        module: the one it stands for.
        reads: what was noted.

    """
    paths = {id(inner): path for path, inner in module.named_modules()}
    paths[id(root)] = ""
    found = []
    for path, inner in module.named_modules():
        if isinstance(inner, nn.ModuleList | nn.ModuleDict):
            found.append(Read(path, "", tuple(inner._modules)))
        elif isinstance(inner, nn.ParameterList):
            found.append(Read(path, "_size", inner._size))
        elif isinstance(inner, nn.ParameterDict):
            found.append(Read(path, "_keys", dict(inner._keys)))
    for owner, name, value in reads:
        path = paths.get(id(owner))
        if path is None:
            raise Unsteady(f"it reads {name} of a module that is not inside it")
        of_class = inspect.getattr_static(type(owner), name, None)
        if isinstance(of_class, property) or isinstance(value, (Tensor, nn.Module)):
            continue
        if callable(value):
            hidden = name not in vars(owner)
            found += [Read(path, name, _MISSING)] if hidden else []
        elif not _is_fixed(value):
            what = f"{path}.{name}" if path else name
            raise Unsteady(f"it reads {what}, which may be changed in place")
        # Those of the root are compared already, but for the mode.
        elif path or name not in vars(owner) or name == "training":
            found.append(Read(path, name, value))
    unique = {(one.path, one.name): one for one in found}
    return tuple(unique.values())


def _is_fixed(value: Any) -> bool:
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(_is_fixed, value))
    if isinstance(value, dict):
        return all(map(_is_fixed, value.values()))
    return isinstance(value, _FIXED)


def functions_used(kind: type) -> list[types.FunctionType]:
    """A class's forward, and the functions of people that it calls."""
    methods = {
        name: value
        for base in reversed(kind.__mro__)
        if not base.__module__.startswith("torch.")
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType)
    }
    found: dict[types.FunctionType, None] = {}

    def visit(function: Any, depth: int) -> None:
        function = inspect.unwrap(function)
        if not isinstance(function, types.FunctionType) or function in found:
            return
        found[function] = None
        known, names = function.__globals__, _names(function)
        files = [known[n] for n in names if isinstance(known.get(n), types.ModuleType)]
        for name in names if depth else ():
            inside = [vars(file).get(name) for file in files]
            for called in (methods.get(name), known.get(name), *inside):
                origin = getattr(called, "__module__", None) or "torch"
                if origin.partition(".")[0] != "torch":
                    visit(called, depth - 1)

    for base in kind.__mro__:
        if base is not nn.Module and "forward" in vars(base):
            visit(vars(base)["forward"], _DEPTH)
    return list(found)


def _names(function: types.FunctionType) -> set[str]:
    codes, names = [function.__code__], set()
    for code in codes:
        names |= {*code.co_names}
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return names


def names_used(functions: list[types.FunctionType]) -> set[str]:
    """The names that functions use."""
    return set().union(*map(_names, functions))


class Outside:
    """The constants that functions read of their files and of what encloses them."""

    def __init__(self, functions: list[types.FunctionType]) -> None:
        self._globals: list[tuple[dict[str, Any], str, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        for function in functions:
            known = function.__globals__
            for name in _names(function) & known.keys():
                if _is_fixed(known[name]):
                    self._globals.append((known, name, copy.deepcopy(known[name])))
            for cell in function.__closure__ or ():
                value = _content(cell)
                if _is_fixed(value):
                    self._cells.append((cell, copy.deepcopy(value)))

    def holds(self) -> bool:
        """Whether they are what they were."""
        now = [(known.get(name, _MISSING), v) for known, name, v in self._globals]
        now += [(_content(cell), value) for cell, value in self._cells]
        return all(type(a) is type(b) and bool(a == b) for a, b in now)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return _MISSING
