"""Every public operator with whatever can be passed to it.

`make fuzz` runs both properties with many more cases than `make test`, at random.
"""

import inspect
import re
from typing import Any

import pytest
import torch
from accuracy import assert_as_exact
from fuzz_arguments import NAMES, Drawn, exact, spoiled
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_map

import trajgru_ext
from trajgru_ext import reference
from trajgru_ext.ops._catalog import OPERATORS

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("one_thread")]

SEEDS = st.integers(0, 2**62)
EVERY = pytest.mark.parametrize("name", NAMES)


def derivatives(
    module: Any, name: str, arguments: dict, seeds: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The results, and the gradients to all tensors but those of whole numbers."""
    leaves = []

    def leaf(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            leaves.append(value.detach().requires_grad_())
            return leaves[-1]
        return value

    results = OPERATORS[name].call(module, tree_map(leaf, arguments))
    # Without steps a result may depend on nothing.
    pairs = [(r, s) for r, s in zip(results, seeds, strict=True) if r.requires_grad]
    if not pairs:
        return list(results), [torch.zeros_like(one) for one in leaves]
    options = {"allow_unused": True, "materialize_grads": True}
    outputs, grads = zip(*pairs, strict=True)
    gradients = torch.autograd.grad(outputs, leaves, grads, **options)
    return [one.detach() for one in results], list(gradients)


@EVERY
@given(seed=SEEDS)
def test_values_and_gradients(backend, name, seed):
    """As the formula in float64 has them, wherever it is finite."""
    drawn = Drawn(seed, name)
    overflows = any(plant in ("large", "-large") for plant in drawn.plants)
    arguments = drawn.arguments()
    on_device = tree_map(
        lambda a: a.to(backend.device) if isinstance(a, Tensor) else a, arguments
    )
    with torch.no_grad():
        plain = OPERATORS[name].call(trajgru_ext, on_device)
    seeds = [
        drawn.numbers(*one.shape, dtype=one.dtype, kind="normal", plant=False)
        for one in plain
    ]
    # What the slope at NaN is nobody says.
    pairs = zip(seeds, plain, strict=True)
    seeds = [
        s.masked_fill(p.isnan().cpu(), 0) if p.isnan().any() else s for s, p in pairs
    ]
    results, gradients = derivatives(
        trajgru_ext, name, on_device, [seed.to(backend.device) for seed in seeds]
    )
    # What is computed for gradients changes nothing.
    for one, other in zip(results, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)

    def naive() -> list[Tensor]:
        as_read = tree_map(lambda a: exact(a, drawn.dtype), arguments)
        both = [exact(seed, drawn.dtype) for seed in seeds]
        values, slopes = derivatives(reference, name, as_read, both)
        return values + slopes

    # A sequence rounds the states between its steps, and on CUDA a product its factors.
    operator = OPERATORS[name]
    rounded = operator.recurrent or (operator.products and backend.name != "cpu")
    assert_as_exact(
        results + gradients,
        naive,
        values=len(results),
        dtype=drawn.dtype,
        rounded=rounded,
        overflows=overflows,
    )


@EVERY
@given(seed=SEEDS)
def test_wrong_arguments(name, seed):
    """They are computed with, or refused by an error that names them."""
    drawn = Drawn(seed, name)
    arguments = drawn.arguments()
    for key in drawn.random.choices(list(arguments), k=drawn.pick([1, 1, 2])):
        arguments[key] = spoiled(drawn, arguments[key])
    starred = OPERATORS[name].starred
    if starred is not None and not isinstance(arguments[starred], list):
        arguments[starred] = [arguments[starred]]
    try:
        OPERATORS[name].call(trajgru_ext, arguments)
    except (TypeError, ValueError) as error:
        parameters = inspect.signature(getattr(trajgru_ext, name)).parameters
        names = "|".join(parameters)  # a pair has two parts: ret_weight and ret_bias
        wanted = rf"{name}: .*\b({names})(_weight|_bias)?\b"
        assert re.match(wanted, str(error), re.DOTALL), error
