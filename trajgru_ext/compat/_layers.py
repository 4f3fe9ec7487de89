"""Instances of published classes, found by their names, and our classes for them."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.compat import _compare
from trajgru_ext.compat._fast_classes import KEPT, Swap, fast_class, swapped
from trajgru_ext.compat._published import NAMES, PUBLISHED, misfit, twins_of
from trajgru_ext.nn import TrajGRU

_OF_MODULES = frozenset(vars(nn.Module()))
_HOOKS = [
    name
    for name in vars(nn.Module())
    if name.endswith("_hooks") and "state_dict" not in name
]


class LeftAlone(Exception):
    """Why a module is not replaced."""

    def __init__(self, why: str, warn: bool = False) -> None:
        super().__init__(why)
        self.warn = warn


def published_base(module: nn.Module) -> type | None:
    """The published class that the module may be an instance of, by its name."""
    bases = type(module).__mro__
    if any(base.__module__.partition(".")[0] == "trajgru_ext" for base in bases):
        return None  # is fast
    return next((base for base in bases if base.__name__ in NAMES), None)


def layer_swaps(module: nn.Module, recompute: str, probe: bool) -> list[Swap]:
    """The new classes of a module and of those inside it; or raise LeftAlone."""
    published: Any = published_base(module)
    hooked = [
        name
        for name, inner in module.named_modules()
        if inner is not module and any(vars(inner).get(hooks) for hooks in _HOOKS)
    ]
    if hooked:
        raise LeftAlone(f"hooks would no longer run in {', '.join(hooked)}")
    reasons = []
    for one in PUBLISHED:
        if one.name != published.__name__:
            continue
        try:
            twins = twins_of(one, module)
        except AttributeError:
            continue  # another class of this name
        except (IndexError, TypeError, ValueError) as error:
            reasons.append(str(error))
            continue
        for twin in twins:
            why = misfit(module, twin)
            swaps = [] if why else _plan(module, twin, recompute)
            if not why and probe and next(module.parameters()).is_meta:
                why = "it has no numbers to compare, on the meta device"
            elif not why and probe:
                why = _disagreement(module, swaps, one.sample)
            if not why:
                return swaps
            reasons.append(why)
    unknown = "it has the name of a published class, but not the attributes"
    raise LeftAlone("; ".join(dict.fromkeys(reasons)) or unknown)


def class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plan(module: nn.Module, twin: nn.Module, recompute: str) -> list[Swap]:
    """The classes of a module and of the cells in it, from those of its twin."""
    swaps = []
    for name, ours in twin.named_modules():
        if not type(ours).__module__.startswith("trajgru_ext."):
            continue
        theirs = module.get_submodule(name)
        _check_methods(f"{name} has" if name else "it has", theirs, type(ours))
        has_flows = isinstance(ours, TrajGRU)
        again = "gates" if recompute == "flows" and not has_flows else recompute
        values = {**vars(ours), **ours._parameters, "recompute": again}
        given = inspect.signature(theirs.forward).parameters.get("seq_len")
        if given is not None and isinstance(given.default, int):
            values["default_seq_len"] = given.default
        taken = _OF_MODULES | set(vars(theirs)) | set(theirs._parameters)
        attributes = {
            key: value
            for key, value in values.items()
            if key not in taken and not isinstance(value, Tensor)
        }
        swaps.append(Swap(theirs, fast_class(type(ours), type(theirs), attributes)))
    return swaps


def _check_methods(it: str, module: nn.Module, ours: type[nn.Module]) -> None:
    """Raise LeftAlone where more than the published methods, or others, would run."""
    published, kind = published_base(module), type(module)
    if published is None:
        raise LeftAlone(f"{it} a class of another name, {kind.__name__}", warn=True)
    own = [
        name
        for name, value in vars(published).items()
        if callable(value)
        and name != "__init__"
        and inspect.getattr_static(kind, name) is not value
    ]
    ours_alone = set(dir(ours)) - set(dir(nn.Module)) - set(KEPT)
    for base in kind.__mro__[: kind.__mro__.index(published) + 1]:
        hidden = vars(base).keys() & ours_alone
        own += [name for name in sorted(hidden) if not name.startswith("__")]
    if own:
        listed = ", ".join(dict.fromkeys(own))
        raise LeftAlone(f"{it} a class with its own {listed}", warn=True)
    for name, inner in module.named_modules():
        if "forward" in vars(inner):
            raise LeftAlone(f"{it} a forward of its own in {name or kind}", warn=True)
    takes = [list(inspect.signature(one.forward).parameters) for one in (kind, ours)]
    if takes[0] != takes[1]:
        got = ", ".join(takes[0][1:])
        raise LeftAlone(f"{it} a forward that takes ({got})")


def _disagreement(module: nn.Module, swaps: list[Swap], sample: Any) -> str | None:
    """How the numbers differ on small random data, with random parameters."""
    weight = next(module.parameters())
    generator = torch.Generator("cpu").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cpu").to(weight)

    arguments = sample(module, normal)
    values: dict[Tensor, Tensor] = {
        p: 0.2 * normal(*p.shape) for p in module.parameters()
    }
    for training in (True, False):
        results = []
        for some in ([], swaps):
            with _compare.unchanged(module), torch.no_grad(), swapped(some):
                _set_parameters(module, values)
                module.train(training)
                try:
                    for _ in range(2):
                        results.append(_compare.run(module.forward, arguments, {}))
                except Exception as error:
                    what = "its replacement" if some else "it"
                    return f"{what} does not run: {type(error).__name__}: {error}"
        first, again, fast, _ = results
        if wrong := _compare.differences(again, first):
            return f"its numbers change from call to call: {', '.join(wrong)}"
        if wrong := _compare.differences(fast, first):
            return f"its numbers are others: {', '.join(wrong)}"
    return None


def _set_parameters(module: nn.Module, values: dict[Tensor, Tensor]) -> None:
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                inner._parameters[name] = nn.Parameter(values[parameter])
