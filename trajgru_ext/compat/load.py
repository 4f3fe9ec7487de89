"""Published checkpoints into models: files, wrappers, and HKO-7's own names."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trajgru_ext.compat._hko7_names import ours

Model = TypeVar("Model", bound=nn.Module)
Source = str | os.PathLike | Mapping[str, Any]

_NESTS = ("state_dict", "model_state_dict", "model")
_LISTED = 8  # names in an error, of each kind


def load(source: Source | Sequence[Source], model: Model) -> Model:
    """Copy a checkpoint's values into a model's parameters and buffers.

    Every entry must be there, fit, and be wanted, or nothing is changed. What
    DataParallel, DistributedDataParallel and torch.compile put before names ("module.",
    "_orig_mod.") does not matter, on either side. Names as HKO-7's MXNet code gives
    them, with or without "arg:" and "aux:", become those of the networks in
    `trajgru_ext.nn`, made with `coordinates=True`. The peepholes that
    Precipitation-Nowcasting's ConvLSTM lost are 0.

    Args:
        source: a path ending in ".npz", read by numpy without pickles; any other path,
            read by `torch.load` with `weights_only=True`, so that no code in it runs;
            or a mapping of names to tensors or arrays, perhaps under "state_dict",
            "model_state_dict" or "model", what lies beside which is left alone. A list
            of these is read as one, as of HKO-7's encoder_net and forecaster_net, each
            saved by `numpy.savez(path, **{k: v.asnumpy() for k, v in
            mxnet.nd.load(params).items()})`.
        model: keeps its dtypes and devices.

    Returns:
        The model.

    Raises:
        OSError: a file is not there or cannot be opened.
        TypeError: a source is neither a path nor a mapping, or a file holds none.
        ValueError: a file is not of a kind above; there are no tensors; or names are
            missing, unexpected, there twice, not of tensors, or of other sizes: all
            that is wrong in one error.

    """
    parts = source if isinstance(source, list | tuple) else [source]
    found, faults = _merged([_named(_entries(one)) for one in parts])
    if not found:
        rest = f": {_listed(faults['no tensors'])}" if faults["no tensors"] else ""
        raise ValueError(f"load: source must hold tensors, got none{rest}")
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    in_model = dict(zip(_plain_names(own), own, strict=True))
    values = {in_model.get(name, name): value for name, value in found.items()}
    for name, module in model.named_modules(remove_duplicate=False):
        if hasattr(module, "complete_checkpoint"):
            module.complete_checkpoint(values, f"{name}." if name else "")
    faults |= _misfits(own, values)
    if any(faults.values()):
        lines = [f"{kind} ({len(v)}): {_listed(v)}" for kind, v in faults.items() if v]
        kind = type(model).__name__
        raise ValueError("\n  ".join([f"load: source must fit {kind}, got", *lines]))
    model.load_state_dict(values)
    return model


def _misfits(
    own: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> dict[str, list[str]]:
    """What a model's own tensors and the values do not agree in, by kind."""
    missing = [f"{k} {list(v.shape)}" for k, v in own.items() if k not in values]
    unexpected = [f"{k} {list(v.shape)}" for k, v in values.items() if k not in own]
    pairs = [(k, v.shape, values[k].shape) for k, v in own.items() if k in values]
    resized = [
        f"{name} must be {list(wanted)}, got {list(got)}"
        for name, wanted, got in pairs
        if got != wanted
    ]
    return {"missing": missing, "unexpected": unexpected, "of other sizes": resized}


def _entries(source: Any) -> Mapping[str, Any]:
    """What a source holds, out of the nests that it may be in."""
    wanted = "source must be a path or"
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        source, wanted = _read(path), f"{path} must hold"
    if not isinstance(source, Mapping):
        kind = type(source).__name__
        raise TypeError(f"load: {wanted} a mapping of names to tensors, got {kind}")
    inner = [source[nest] for nest in _NESTS if isinstance(source.get(nest), Mapping)]
    return _entries(inner[0]) if inner else source


def _read(path: str) -> Any:
    kind, reader = "torch.save with tensors and plain containers alone", _of_torch
    if path.endswith(".npz"):
        kind, reader = "numpy.savez with arrays of numbers alone", _of_numpy
    try:
        return reader(path)
    except (OSError, ImportError):
        raise
    except Exception as error:  # what readers raise for bad files has no common base
        code = re.search(r"GLOBAL (\S+)", str(error))  # as torch names what it refuses
        got = f"one that calls {code[1]}" if code else type(error).__name__
        raise ValueError(f"load: {path} must be a file of {kind}, got {got}") from error


def _of_torch(path: str) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _of_numpy(path: str) -> dict[str, Any]:
    import numpy  # noqa: PLC0415 - which is not needed otherwise

    with numpy.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _named(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The entries under names without wrappers' parts, and under ours for HKO-7's."""
    return ours(dict(zip(_plain_names(entries), entries.values(), strict=True)))


def _plain_names(names: Iterable[Any]) -> list[str]:
    """The names without what wrappers of a model put into them."""
    names = [str(name).replace("_orig_mod.", "") for name in names]
    while names and all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return names


def _merged(
    parts: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The tensors of all parts, and what is wrong with the others, by kind."""
    values: dict[str, Tensor] = {}
    faults: dict[str, list[str]] = {"no tensors": [], "there twice": []}
    for part in parts:
        for name, value in part.items():
            tensor = _tensor(value)
            if tensor is None:
                faults["no tensors"].append(f"{name} ({type(value).__name__})")
            elif name in values:
                faults["there twice"].append(name)
            else:
                values[name] = tensor
    return values, faults


def _tensor(value: Any) -> Tensor | None:
    """A tensor of a tensor or an array, or None."""
    if isinstance(value, Tensor):
        return value
    if not hasattr(value, "__array__"):
        return None
    try:
        return torch.tensor(value)  # a copy: an array may be read-only
    except TypeError:
        return None  # of objects


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
