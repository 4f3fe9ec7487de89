"""One call that makes a model of published classes run on our operators."""

import inspect
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trajgru_ext.compat import _compare
from trajgru_ext.compat._precipitation_networks import Stage
from trajgru_ext.compat._published import NAMES, PUBLISHED, misfit, stages, twins_of
from trajgru_ext.nn import TrajGRU
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE

_OF_MODULES = frozenset(vars(nn.Module()))
_HOOKS = [
    name
    for name in vars(nn.Module())
    if name.endswith("_hooks") and "state_dict" not in name
]


@dataclass
class Report:
    """What `accelerate` did, by the modules' names: "" is the model itself."""

    replaced: dict[str, str] = field(default_factory=dict)
    """The class of `trajgru_ext.compat` that a module now is."""

    left_alone: dict[str, str] = field(default_factory=dict)
    """Why a module that looks like a published class is as it was."""

    def __str__(self) -> str:
        lines = [f"{name or 'the model'}: {to}" for name, to in self.replaced.items()]
        lines += [
            f"{name or 'the model'}: left alone, {why}"
            for name, why in self.left_alone.items()
        ]
        return "\n".join(lines) or "no published class was found"


class _Accelerated:
    """Marks a class that `accelerate` made of one of ours and a published one."""

    _parts: tuple[type, type, dict[str, Any]]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        reduced = super().__reduce_ex__(protocol)
        assert not isinstance(reduced, str)
        return _instance, type(self)._parts, *reduced[2:]


def _class(ours: type, published: type, attributes: dict[str, Any]) -> type:
    """Our class on a module of the published one, with our class's attributes."""
    parts = (ours, published, attributes)
    names = {**attributes, "_parts": parts, "_stands_for": ours}
    bases = (_Accelerated, ours, published)
    kind = types.new_class(
        published.__name__, bases, exec_body=lambda ns: ns.update(names)
    )
    kind.__module__, kind.__qualname__ = published.__module__, published.__qualname__
    return kind


def _instance(ours: type, published: type, attributes: dict[str, Any]) -> nn.Module:
    kind: Any = _class(ours, published, attributes)
    module: nn.Module = kind.__new__(kind)
    return module


class _Swap(NamedTuple):
    """A module, and the class that it gets."""

    module: nn.Module
    kind: Any  # of `_class`


def accelerate(
    model: nn.Module,
    *,
    verify: Any = None,
    recompute: str = "none",
    probe: bool = True,
) -> Report:
    """Make every published recurrent layer in a model a fast one, in place.

    Instances of the layers that `trajgru_ext.compat` has are found anywhere in the
    model by their class name, attributes, and the names, shapes and settings of their
    parameters and layers; the packages they come from need not be importable. Each
    keeps its identity, its parameters, submodules, hooks, mode, device and dtype, and
    is still an instance of its class: only what its `forward` runs changes, to that of
    `trajgru_ext.compat`, whose documentation says where originals are faulty.
    Optimisers, `state_dict`, `copy.deepcopy` and pickles go on as before. Of
    Precipitation-Nowcasting's `Encoder` and `Forecaster` the convolutions run on images
    whose channels are together, which is faster.

    A module is left alone where it is a subclass with methods of its own (with a
    warning), where something inside has hooks, where it cannot be run here, or where
    its numbers are others. For the latter it is run on small random data with random
    parameters, unless `probe` is False. What is hooked, wrapped, replaced, pruned or
    reparametrised inside a layer afterwards makes it call its modules, as the original
    does, step by step; its `computes()` says so. Pickles need this package too.

    Args:
        model: any module; it may itself be such a layer.
        verify: a sample of the model's input, or a tuple of its arguments. The model
            is first run on it as it was and made fast, forward and backward, in its
            mode and with its hooks, and stays as it was where results or gradients
            differ by more than round-off.
        recompute: what the backward pass computes again to save memory: "none", "gates"
            or "flows" (of layers without flows: the gates); see `trajgru_ext.traj_gru`.
            With either, those convolutions too.
        probe: whether each module is compared with its replacement before it is
            replaced.

    Returns:
        A `Report`: what was replaced, what was recognised and left alone, and why.

    Raises:
        TypeError: model is no module.
        ValueError: with `verify` the results differ (the worst are named), or
            recompute is none of those.

    """
    op = "accelerate"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: model must be a Module, got {type(model).__name__}")
    check_choice(op, "recompute", recompute, RECOMPUTE)
    fast = [_Swap(m, type(m)) for m in model.modules() if isinstance(m, _Accelerated)]
    restore(model)  # another call may choose otherwise
    try:
        report, swaps = _find(op, model, recompute, probe)
        if verify is not None and swaps:
            _verify(op, model, swaps, verify)
    except BaseException:
        _commit(fast)
        raise
    _commit(swaps)
    return report


def _find(
    op: str, model: nn.Module, recompute: str, probe: bool
) -> tuple[Report, list[_Swap]]:
    report, swaps, inside = Report(), [], set()
    for name, module in model.named_modules():
        for child, stage in stages(module).items():
            kind = _class(Stage, nn.Sequential, {"recompute": recompute})
            swaps.append(_Swap(stage, kind))
            report.replaced[f"{name}.{child}" if name else child] = _name(Stage)
        published = _published_base(module)
        if published is None or module in inside:
            continue
        try:
            found = _swaps(module, published, recompute, probe)
        except _LeftAlone as left:
            report.left_alone[name] = str(left)
            if left.warn:
                what = f"{op}: {name or 'the model'} is left alone: {left}"
                warnings.warn(what, stacklevel=3)
            continue
        report.replaced[name] = _name(found[0].kind._parts[0])
        swaps += found
        inside.update(module.modules())
    return report, swaps


def restore(model: nn.Module) -> list[str]:
    """Undo `accelerate`: every module of the model is of its own class again.

    Args:
        model: a module.

    Returns:
        The names of the modules that it had replaced, those inside of others too.

    """
    fast = [(n, m) for n, m in model.named_modules() if isinstance(m, _Accelerated)]
    for _, module in fast:
        module.__class__ = type(module)._parts[1]
    return [name for name, _ in fast]


class _LeftAlone(Exception):
    """Why a module is not replaced."""

    def __init__(self, why: str, warn: bool = False) -> None:
        super().__init__(why)
        self.warn = warn


def _published_base(module: nn.Module) -> type | None:
    """The published class that the module may be an instance of, by its name."""
    bases = type(module).__mro__
    if any(base.__module__.partition(".")[0] == "trajgru_ext" for base in bases):
        return None  # is fast
    return next((base for base in bases if base.__name__ in NAMES), None)


def _swaps(
    module: nn.Module, published: type, recompute: str, probe: bool
) -> list[_Swap]:
    """The new classes of a module and of those inside it; or raise _LeftAlone."""
    hooked = [
        name
        for name, inner in module.named_modules()
        if inner is not module and any(vars(inner).get(hooks) for hooks in _HOOKS)
    ]
    if hooked:
        raise _LeftAlone(f"hooks would no longer run in {', '.join(hooked)}")
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
    raise _LeftAlone("; ".join(dict.fromkeys(reasons)) or unknown)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _plan(module: nn.Module, twin: nn.Module, recompute: str) -> list[_Swap]:
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
        swaps.append(_Swap(theirs, _class(type(ours), type(theirs), attributes)))
    return swaps


def _check_methods(it: str, module: nn.Module, ours: type[nn.Module]) -> None:
    """Raise _LeftAlone where more than the published methods, or others, would run."""
    published, kind = _published_base(module), type(module)
    if published is None:
        raise _LeftAlone(f"{it} a class of another name, {kind.__name__}", warn=True)
    own = [
        name
        for name, value in vars(published).items()
        if callable(value)
        and name != "__init__"
        and inspect.getattr_static(kind, name) is not value
    ]
    for base in kind.__mro__[: kind.__mro__.index(published)]:
        hidden = vars(base).keys() & (set(dir(ours)) - set(dir(nn.Module)))
        own += [name for name in sorted(hidden) if not name.startswith("__")]
    if own:
        listed = ", ".join(dict.fromkeys(own))
        raise _LeftAlone(f"{it} a class with its own {listed}", warn=True)
    for name, inner in module.named_modules():
        if "forward" in vars(inner):
            raise _LeftAlone(f"{it} a forward of its own in {name or kind}", warn=True)
    takes = [list(inspect.signature(one.forward).parameters) for one in (kind, ours)]
    if takes[0] != takes[1]:
        got = ", ".join(takes[0][1:])
        raise _LeftAlone(f"{it} a forward that takes ({got})")


def _commit(swaps: list[_Swap]) -> None:
    for module, kind in swaps:
        module.__class__ = kind


@contextmanager
def _swapped(swaps: list[_Swap]) -> Iterator[None]:
    _commit(swaps)
    try:
        yield
    finally:
        for module, kind in swaps:
            module.__class__ = kind._parts[1]


def _disagreement(module: nn.Module, swaps: list[_Swap], sample: Any) -> str | None:
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
            with _compare.unchanged(module), torch.no_grad(), _swapped(some):
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


def _verify(op: str, model: nn.Module, swaps: list[_Swap], sample: Any) -> None:
    """Raise a ValueError where the model computes something else with the swaps."""
    arguments = sample if isinstance(sample, tuple) else (sample,)
    parameters = dict(model.named_parameters())
    results = []
    for some in ([], swaps):
        with _compare.unchanged(model), torch.enable_grad(), _swapped(some):
            results.append(_compare.run(model, arguments, parameters))
    if wrong := _compare.differences(results[1], results[0]):
        more = "" if len(wrong) <= 5 else f", and {len(wrong) - 5} more"
        raise ValueError(
            f"{op}: the model must compute what it did, got other numbers, relative "
            f"differences: {', '.join(wrong[:5])}{more}"
        )
