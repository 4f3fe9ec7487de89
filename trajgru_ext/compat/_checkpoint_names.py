"""What is put before a model's names by all that a model may be wrapped in."""

import re
from collections.abc import Collection

# Parts that torch.compile, fully sharded and checkpointed modules put anywhere.
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_PARALLEL = "module"  # of DataParallel, DistributedDataParallel and AveragedModel
_COUNTER = "n_averaged"  # that AveragedModel has beside its module


def without_wrappers(name: str) -> str:
    """The name without the parts that may be anywhere in it."""
    return _WRAPPERS.sub("", name)


def is_counter(name: str, prefix: str) -> bool:
    """Whether a name is that of the counter beside the module of this prefix."""
    beside = name.removesuffix(_COUNTER)
    return beside != name and prefix.startswith(f"{beside}{_PARALLEL}.")


def matching_prefixes(names: Collection[str], own: Collection[str]) -> tuple[str, str]:
    """What leads all names of a checkpoint, and what all of a model's own instead.

    Of the sequences of whole parts that all names begin with, those without which the
    most names are in both, and the shortest such. Beside `module.`, only one of the two
    has such a prefix, as else `layers.0.` would become `layers.1.`
    """
    pairs = [
        (theirs, ours)
        for ours in _prefixes(own)
        for theirs in _prefixes(names)
        if not (_is_named(theirs) and _is_named(ours))
    ]
    every = set(own)

    def common(pair: tuple[str, str]) -> int:
        theirs, ours = pair
        return sum(ours + name.removeprefix(theirs) in every for name in names)

    return max(pairs, key=common)  # the first of the best


def _prefixes(names: Collection[str]) -> list[str]:
    """None, one, two, ... of the parts that all names begin with, but a counter's."""
    found = [""]
    while True:
        prefix = found[-1]
        counter = prefix + _COUNTER
        inside = [n for n in names if n.startswith(prefix) and n != counter]
        parts = {n.removeprefix(prefix).partition(".")[:2] for n in inside}
        if len(parts) != 1:
            return found
        ((first, dot),) = parts
        if not dot or (counter in names and first != _PARALLEL):
            return found
        found.append(f"{prefix}{first}.")


def _is_named(prefix: str) -> bool:
    return any(part != _PARALLEL for part in prefix.split(".")[:-1])
