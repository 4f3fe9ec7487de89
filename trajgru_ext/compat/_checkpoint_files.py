"""Checkpoints' files to mappings, without running any code that they may hold."""

import os
import re
from collections.abc import Callable
from typing import Any

import torch

_NUMBERS = re.compile("[<>=|]?[biufc][0-9]+")  # numpy's codes of their dtypes


def read(path: str) -> Any:
    """What a file holds; its kind is told by the end of its name.

    Raises:
        ImportError: the package that reads such files is not installed.
        OSError: the file is not there or cannot be opened.
        ValueError: it is of another kind, or only code in it could read it.

    """
    ends = os.path.splitext(path)[1].lower()
    kind, reader = _READERS.get(ends, _READERS[""])
    try:
        return reader(path)
    except (OSError, ImportError):
        raise
    except Exception as error:  # what readers raise for bad files has no common base
        got = _what(path, error)
        raise ValueError(f"load: {path} must be a file of {kind}, got {got}") from error


def _what(path: str, error: Exception) -> str:
    """What a file is that torch refuses, and how to save its tensors alone."""
    code = re.search(r"GLOBAL (\S+)", str(error))  # as torch names what it refuses
    if code:
        inside = f"torch.load({path!r}, weights_only=False)"
        return (
            f"one that calls {code[1]}; if you trust its code, let it run once to save "
            f"the state dict alone: torch.save({inside}['state_dict'], ...), or what "
            f"holds the tensors in there, or .state_dict() of a whole module"
        )
    if "TorchScript" in str(error):
        state = f"torch.jit.load({path!r}).state_dict()"
        return f"a TorchScript archive; save its state dict: torch.save({state}, ...)"
    return type(error).__name__


def _of_torch(path: str) -> Any:
    allowed = torch.serialization.get_safe_globals()
    names = [a[1] if isinstance(a, tuple) else a.__module__ for a in allowed]
    # Somebody who has allowed numpy's own constructors gets those.
    ours = [] if any(n.startswith("numpy") for n in names) else _STAND_INS
    with torch.serialization.safe_globals(ours):
        return torch.load(path, map_location="cpu", weights_only=True)


def _of_numpy(path: str) -> dict[str, Any]:
    import numpy  # noqa: PLC0415 - which is not needed otherwise

    with numpy.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _of_safetensors(path: str) -> dict[str, Any]:
    try:
        from safetensors.torch import load_file  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise ImportError(
            f"load: {path}: reading it needs the package safetensors: "
            "pip install 'trajgru_ext[safetensors]'"
        ) from error
    return load_file(path)


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "": ("torch.save with tensors and plain containers alone", _of_torch),
    ".npz": ("numpy.savez with arrays of numbers alone", _of_numpy),
    ".safetensors": ("safetensors", _of_safetensors),
}


# Files of torch.save may hold numpy's numbers and arrays beside tensors. numpy's own
# constructors can be made to run on memory that is not theirs (a dtype that says that
# it has no objects, though it has), so these take their places, for numbers alone.


class _Dtype:
    """Instead of `numpy.dtype`."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise ValueError(f"numpy's dtype {code} is not one of numbers")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":  # big-endian
            self.code = ">" + self.code.lstrip("<>=|")


class _Array:
    """Instead of `numpy.ndarray`."""

    def __init__(self) -> None:
        self.values: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        values = _numbers(dtype, content)
        self.values = values.reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.values if dtype is None else self.values.astype(dtype)


def _new_array(kind: type, *_: Any) -> _Array:
    """Instead of `numpy._core.multiarray._reconstruct`."""
    return _Array()


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    """Instead of `numpy._core.multiarray.scalar`: a number of Python."""
    (number,) = _numbers(dtype, content).tolist()
    return number


def _numbers(dtype: _Dtype, content: bytes) -> Any:
    import numpy  # noqa: PLC0415 - which is not needed otherwise

    kind = numpy.dtype(dtype.code)
    return numpy.frombuffer(content, kind).astype(kind.newbyteorder("="))


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")  # before numpy 2 and since
        for name, function in (("scalar", _scalar), ("_reconstruct", _new_array))
    ),
]
