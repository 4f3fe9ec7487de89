"""Two versions of a module on the same arguments: how much their results differ."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

# Relative errors, in the Euclidean norm, that are round-off: float32 positions on an
# image of some hundred pixels, kept from -1 to 1, are off by 1e-5 of a pixel, and a
# sequence makes that more. A wrong formula is off by about 1.
_TOLERANCE = {
    torch.float64: 1e-8,
    torch.float32: 2e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 0.3,
}

# How much larger they may be: gradients come back through the sequence, jump where a
# position passes a pixel, and cancel in sums over pixels. Those of the published
# network for 480 x 480 pixels, in float32, are off by a hundredth.
_OF_GRADIENTS = 20

Results = dict[str, Any]  # tensors, no gradients, and the structure of what is returned


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
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the original's own calls
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
    function: Any, arguments: tuple[Any, ...], parameters: Mapping[str, Tensor]
) -> Results:
    """The results by place, and the gradients to parameters and arguments by name."""

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        copy = value.detach().clone()
        return copy.requires_grad_() if copy.is_floating_point() else copy

    torch.manual_seed(0)
    arguments = tree_map(fresh, arguments)
    returned, structure = tree_flatten(function(*arguments))
    outputs = [t for t in returned if _is_real(t)]
    found = {f"result {k}": t.detach() for k, t in enumerate(outputs)}
    found["structure"] = structure
    leaves = {f"argument {k}": t for k, t in enumerate(tree_flatten(arguments)[0])}
    leaves = {name: t for name, t in {**leaves, **parameters}.items() if _is_real(t)}
    leaves = {name: t for name, t in leaves.items() if t.requires_grad}
    outputs = [t for t in outputs if t.requires_grad]
    if torch.is_grad_enabled() and outputs and leaves:
        grad_outputs = [torch.randn(t.shape, device="cpu").to(t) for t in outputs]
        every = list(leaves.values())
        got = torch.autograd.grad(outputs, every, grad_outputs, allow_unused=True)
        names = (f"gradient to {name}" for name in leaves)
        found |= dict(zip(names, got, strict=True))
    return found


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def differences(got: Results, wanted: Results) -> list[str]:
    """What differs by more than round-off, the worst first."""
    if got["structure"] != wanted["structure"]:
        return [f"the results are {got['structure']}, not {wanted['structure']}"]
    if "result 0" not in wanted:
        return ["there are no tensors in the results to compare"]
    names = [name for name in wanted if name != "structure"]
    if names != [name for name in got if name != "structure"]:
        return ["other tensors have gradients"]
    errors = {name: _error(name, got[name], wanted[name]) for name in names}
    wrong = [name for name, (error, bound) in errors.items() if not error <= bound]
    wrong.sort(key=lambda name: errors[name][0], reverse=True)
    return [f"{name} by {errors[name][0]:.2g}" for name in wrong]


def _error(name: str, got: Tensor | None, wanted: Tensor | None) -> tuple[float, float]:
    """The relative error, and how large it may be."""
    if got is None or wanted is None:
        # An unused parameter has no gradient, or one of 0.
        other = wanted if got is None else got
        return (0.0 if other is None or not other.any() else float("inf")), 0.0
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf"), 0.0
    bound = _TOLERANCE.get(got.dtype, max(_TOLERANCE.values()))
    if name.startswith("gradient"):
        bound = min(_OF_GRADIENTS * bound, max(_TOLERANCE.values()))
    difference = (got.double() - wanted.double()).norm()
    if difference == 0:
        return 0.0, bound
    return (difference / wanted.double().norm()).item(), bound
