"""Published checkpoints into models: files, wrappers, and HKO-7's own names."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from trajgru_ext.compat._checkpoint_files import read
from trajgru_ext.compat._checkpoint_names import (
    is_counter,
    matching_prefixes,
    without_wrappers,
)
from trajgru_ext.compat._hko7_names import ours

Model = TypeVar("Model", bound=nn.Module)
Entries = Mapping[str, Any]
Source = str | os.PathLike[str] | Entries
Faults = dict[str, list[str]]  # what is wrong with which names

_LISTED = 8  # names in an error, of each kind


def load(
    source: Source | Sequence[Source], model: Model, *, key: str | None = None
) -> Model:
    """Copy a checkpoint's values into a model's parameters and buffers.

    Every entry must be there, fit, and be wanted, or nothing is changed. The entries
    may lie in mappings of any names ("state_dict", "model", "params_ema", "netG", ...),
    in one another, beside what is no checkpoint of this model, which is left alone.
    What leads all names ("model.", "net.generator.") does not matter, on either side,
    nor what DataParallel, DistributedDataParallel, AveragedModel, fully sharded modules
    and torch.compile put into them ("module.", "n_averaged", "_orig_mod."). Numbers,
    strings and other things beside the tensors do not matter where the model has
    nothing of their names.

    Names as HKO-7's MXNet code gives them, with or without "arg:" and "aux:", become
    those of the networks in `trajgru_ext.nn`, made with `coordinates=True`. Peepholes
    are 0 where Precipitation-Nowcasting's ConvLSTM lost them, and parameters where
    Convolutional_LSTM_PyTorch's made them.

    Args:
        source: a path ending in ".npz", read by numpy without pickles; one in
            ".safetensors" (`pip install trajgru_ext[safetensors]`); any other path,
            read by `torch.load` with `weights_only=True`, so that no code in it runs,
            numpy's numbers and arrays included; or a mapping of names to tensors or
            arrays. A list of these is read as one, as of HKO-7's encoder_net and
            forecaster_net, each saved by `numpy.savez(path, **{k: v.asnumpy() for
            k, v in mxnet.nd.load(params).items()})`.
        model: keeps its dtypes and devices.
        key: name of the mapping to read, as "params_ema", where several would fit, or
            what leads the names to read, as "generator" for those of a Lightning
            module's `self.generator`; what else there is is left alone.

    Returns:
        The model.

    Raises:
        ImportError: a file is of safetensors, which are not installed.
        OSError: a file is not there or cannot be opened.
        TypeError: a source is neither a path nor a mapping, or a file holds none.
        ValueError: a file is not of a kind above, or only code in it could read it;
            there are no tensors; several mappings fit and `key` chooses none of them,
            or there is none of this key; or names are missing, unexpected, there twice,
            not of tensors, or of other sizes: all that is wrong in one error.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat import load
        >>> from trajgru_ext.nn import ConvLSTM
        >>> trained = ConvLSTM(1, 8)
        >>> torch.save({"epoch": 7, "state_dict": trained.state_dict()}, "trained.pt")
        >>> model = load("trained.pt", ConvLSTM(1, 8))

    """
    target = _Target(model)
    parts = list(source) if isinstance(source, list | tuple) else [source]
    mappings = [_mapping(part) for part in parts]
    nests = [list(_nests(mapping)) for mapping in mappings]
    if not nests or not all(nests):
        empty = next((m for m, n in zip(mappings, nests, strict=True) if not n), {})
        kinds = [f"{name} ({type(value).__name__})" for name, value in empty.items()]
        rest = f": {_listed(kinds)}" if kinds else ""
        raise ValueError(f"load: source must hold tensors, got none{rest}")
    chosen = [_chosen(found, target, key, len(parts) == 1) for found in nests]
    values, faults = target.values([nest.entries for nest in chosen])
    if any(faults.values()):
        lines = [f"{kind} ({len(v)}): {_listed(v)}" for kind, v in faults.items() if v]
        if len(nests) == 1 and (keys := _fitting_keys(nests[0], target)):
            lines.append(f"what fits has key={' or key='.join(map(repr, keys))}")
        inside = "".join(f"[{part!r}]" for part in chosen[0].path)
        it = f"source{inside if len(parts) == 1 else ''}"
        kind = type(model).__name__
        raise ValueError("\n  ".join([f"load: {it} must fit {kind}, got", *lines]))
    # All names have been compared; torch asks for extra states too.
    model.load_state_dict(values, strict=False)
    return model


class _Nest(NamedTuple):
    """A mapping that holds tensors, and the keys that lead to it."""

    path: tuple[str, ...]
    entries: Entries


class _Target:
    """A model, and how entries become values of its parameters and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        state = model.state_dict()
        self.own = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        self.full_names = {without_wrappers(name): name for name in self.own}

    def values(self, parts: Sequence[Entries]) -> tuple[dict[str, Tensor], Faults]:
        """The values of all parts by the model's names, and all that is wrong."""
        values: dict[str, Tensor] = {}
        faults: Faults = {"no tensors": [], "there twice": []}
        for part in parts:
            for name, value in self._named(part):
                if name in values:
                    faults["there twice"].append(name)
                elif isinstance(value, Tensor | int | float):
                    values[name] = torch.as_tensor(value)
                else:
                    faults["no tensors"].append(f"{name} ({type(value).__name__})")
        own = dict(self.own)
        for name, module in self.model.named_modules(remove_duplicate=False):
            prefix = f"{name}." if name else ""
            if hasattr(module, "complete_checkpoint"):
                module.complete_checkpoint(values, prefix)
            if hasattr(module, "added_by"):
                own.update(module.added_by(values, prefix))
        return values, faults | _misfits(own, values)

    def fits(self, entries: Entries, whole: bool = True) -> bool:
        """Whether nothing is wrong; as a part, it need not have all."""
        _, faults = self.values([entries])
        return not any(v for kind, v in faults.items() if whole or kind != "missing")

    def common(self, entries: Entries) -> int:
        """How many of the model's names there are."""
        return sum(name in self.own for name, _ in self._named(entries))

    def _named(self, entries: Entries) -> Iterator[tuple[str, Any]]:
        """The entries by the model's names, and under others the tensors."""
        named = {k: without_wrappers(name) for k, name in ours(entries).items()}
        tensors = [named[k] for k, v in entries.items() if isinstance(v, Tensor)]
        theirs, mine = matching_prefixes(tensors, self.full_names)
        for key, value in entries.items():
            name = named[key].removeprefix(theirs)
            if mine + name in self.full_names:
                yield self.full_names[mine + name], value
            elif isinstance(value, Tensor) and not is_counter(named[key], theirs):
                yield name, value


def _misfits(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Faults:
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


def _chosen(
    nests: Sequence[_Nest], target: _Target, key: str | None, whole: bool
) -> _Nest:
    """The nest to read: the one that fits, or that comes nearest to it."""
    if key is not None:
        inside = list(_inside(nests, key))
        if not inside:
            there = _listed(_keys(nests)) or "None, as there is but one"
            raise ValueError(f"load: key must be one of {there}, got {key!r}")
        nests = inside
    fitting = (
        nests
        if len(nests) == 1
        else [nest for nest in nests if target.fits(nest.entries, whole)]
    )
    if len(fitting) > 1:
        kind = type(target.model).__name__
        names = _listed(["/".join(nest.path) or "the outermost" for nest in fitting])
        example = fitting[-1].path[-1]
        raise ValueError(
            f"load: source must hold one mapping that fits {kind}, got {len(fitting)}: "
            f"{names}; choose one, as by key={example!r}"
        )
    if fitting:
        return fitting[0]
    return max(nests, key=lambda n: (target.common(n.entries), len(n.entries)))


def _inside(nests: Sequence[_Nest], key: str) -> Iterator[_Nest]:
    """The nests of this key, and of the others the entries that it leads."""
    for nest in nests:
        if key in nest.path:
            yield nest
            continue
        plain = {without_wrappers(k): v for k, v in nest.entries.items()}
        led = {k: v for k, v in plain.items() if k.startswith(f"{key}.")}
        if any(isinstance(value, Tensor) for value in led.values()):
            inner = {k.removeprefix(f"{key}."): v for k, v in led.items()}
            yield _Nest((*nest.path, key), inner)


def _keys(nests: Sequence[_Nest]) -> list[str]:
    """What may choose among the nests, or among the entries of one."""
    found = [part for nest in nests for part in nest.path]
    for nest in nests:
        firsts = [without_wrappers(name).partition(".") for name in nest.entries]
        found += [first for first, dot, _ in firsts if dot]
    return list(dict.fromkeys(found))


def _fitting_keys(nests: Sequence[_Nest], target: _Target) -> list[str]:
    """The keys with which one nest fits."""
    inside = {key: list(_inside(nests, key)) for key in _keys(nests)}
    return [
        key
        for key, some in inside.items()
        if sum(target.fits(nest.entries) for nest in some) == 1
    ]


def _mapping(source: Any) -> Mapping[Any, Any]:
    wanted = "source must be a path or"
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        source, wanted = read(path), f"{path} must hold"
    if not isinstance(source, Mapping):
        kind = type(source).__name__
        raise TypeError(f"load: {wanted} a mapping of names to tensors, got {kind}")
    return source


def _nests(
    source: Mapping[Any, Any], path: tuple[str, ...] = (), around: tuple[int, ...] = ()
) -> Iterator[_Nest]:
    """The mappings that hold tensors, from the outermost on."""
    entries = {str(name): _plain(value) for name, value in source.items()}
    if any(isinstance(value, Tensor) for value in entries.values()):
        yield _Nest(path, entries)
    around = (*around, id(source))
    for name, value in source.items():
        # What has numbers for names is an optimiser's; a cycle holds what holds it.
        inner = isinstance(name, str) and isinstance(value, Mapping)
        if inner and id(value) not in around:
            yield from _nests(value, (*path, name), around)


def _plain(value: Any) -> Any:
    """An array of numbers as a tensor, numpy's numbers as Python's, all else as is."""
    if isinstance(value, Tensor) or not hasattr(value, "__array__"):
        return value
    import numpy  # noqa: PLC0415 - which is not needed otherwise

    if isinstance(value, numpy.generic):
        return value.item()
    try:
        return torch.tensor(numpy.asarray(value))  # a copy, as it may be read-only
    except (TypeError, ValueError):
        return value  # an array of objects


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
