"""Two versions of a module on the same arguments: how much their results differ."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

# Relative errors, in the Euclidean norm, that are round-off: float32 positions on an
# image of some hundred pixels, kept from -1 to 1, are off by 1e-5 of a pixel, and a
# sequence makes that more; sums over pixels cancel. A wrong formula is off by about 1.
_TOLERANCE = {
    torch.float64: 1e-8,
    torch.float32: 2e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 0.3,
}

Results = dict[str, Tensor | None]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Undo what a run leaves in a module: states, buffers, random numbers drawn."""
    inner = ("_parameters", "_buffers", "_modules")
    before = [
        (m, dict(vars(m)), {name: dict(vars(m)[name]) for name in inner})
        for m in module.modules()
    ]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for m, attributes, parts in before:
            vars(m).clear()
            vars(m).update(attributes)
            for name, part in parts.items():
                vars(m)[name].clear()
                vars(m)[name].update(part)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def run(
    function: Any, arguments: tuple[Any, ...], parameters: dict[str, Tensor]
) -> Results:
    """The results by place, and the gradients to parameters and arguments by name."""

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        copy = value.detach().clone()
        return copy.requires_grad_() if copy.is_floating_point() else copy

    torch.manual_seed(0)
    arguments = tree_map(fresh, arguments)
    outputs = [t for t in tree_flatten(function(*arguments))[0] if _is_real(t)]
    found = {f"result {k}": t.detach() for k, t in enumerate(outputs)}
    leaves = {f"argument {k}": t for k, t in enumerate(tree_flatten(arguments)[0])}
    leaves = {name: t for name, t in {**leaves, **parameters}.items() if _is_real(t)}
    leaves = {name: t for name, t in leaves.items() if t.requires_grad}
    outputs = [t for t in outputs if t.requires_grad]
    if torch.is_grad_enabled() and outputs and leaves:
        seeds = [torch.randn(t.shape).to(t) for t in outputs]
        every = list(leaves.values())
        got = torch.autograd.grad(outputs, every, seeds, allow_unused=True)
        names = (f"gradient to {name}" for name in leaves)
        found |= dict(zip(names, got, strict=True))
    return found


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def differences(got: Results, wanted: Results) -> list[str]:
    """What differs by more than round-off, the worst first."""
    if list(got) != list(wanted):
        return [f"results are {list(got)} instead of {list(wanted)}"]
    errors = {name: _error(got[name], wanted[name]) for name in got}
    wrong = [name for name, (error, bound) in errors.items() if not error <= bound]
    wrong.sort(key=lambda name: errors[name][0], reverse=True)
    return [f"{name} by {errors[name][0]:.2g}" for name in wrong]


def _error(got: Tensor | None, wanted: Tensor | None) -> tuple[float, float]:
    """The relative error, and how large it may be."""
    if got is None or wanted is None:
        # An unused parameter has no gradient, or one of 0.
        other = wanted if got is None else got
        return (0.0 if other is None or not other.any() else float("inf")), 0.0
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf"), 0.0
    bound = _TOLERANCE[got.dtype]
    difference = (got.double() - wanted.double()).norm()
    if difference == 0:
        return 0.0, bound
    return (difference / wanted.double().norm()).item(), bound
