"""Steps of a recurrent layer whose modules are called as they are."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._as_built import hooked
from trajgru_ext.nn.conv2d import convolved
from trajgru_ext.ops._overrides import leaf
from trajgru_ext.ops._sequences import number_of_steps, past_the_end, without_padding

# From the number of a step, its input or None, and the state or None, the new state.
Step = Callable[[int, Tensor | None, Any], Any]


def call(owner: nn.Module, name: str, image: Tensor, channels: int) -> Tensor:
    """What a module inside makes of an image: one of the same size.

    Raises:
        TypeError, ValueError: it makes something else.

    """
    kind = type(owner).__name__
    result: Any = result_of(getattr(owner, name), image)
    if hasattr(type(result), "__torch_function__") and not isinstance(result, Tensor):
        proxy: Tensor = result  # while torch.fx traces; it has no sizes
        return proxy
    if not isinstance(result, Tensor):
        got = type(result).__name__
        raise TypeError(f"{kind}: {name} must return a Tensor, got {got}")
    wanted = (image.shape[0], channels, *image.shape[2:])
    if result.shape != wanted:
        raise ValueError(
            f"{kind}: {name} must return {list(wanted)} of {list(image.shape)}, got "
            f"{list(result.shape)}"
        )
    return result


def result_of(module: Any, image: Tensor) -> Any:
    """What a module makes of an image, a plain convolution by `conv2d`."""
    kind = type(module)
    if kind is nn.Conv2d and not hooked(module):
        return convolved(module, image, module.weight, module.bias)
    if kind is nn.Sequential and not hooked(module):
        for inner in module:
            image = result_of(inner, image)
        return image
    return module(image)


def zero_if_none(
    kind: str, channels: int, state: Tensor | None, *sized: Tensor | None
) -> Tensor:
    """The state, or where it is None one of 0 as large as the first that is given."""
    if state is not None:
        return state
    image = next((one for one in sized if one is not None), None)
    if image is None:
        raise ValueError(f"{kind}: inputs or states must be given, got None for both")
    batch, _, *size = image.shape[-4:]
    return image.new_zeros(batch, channels, *size)


@leaf
def wide_enough(state: Tensor, *gates: Tensor) -> Tensor:
    """The state in a dtype that holds those of the gates, which modules choose."""
    dtype = state.dtype
    if all(one.dtype == dtype for one in gates):
        return state
    for one in gates:
        dtype = torch.promote_types(dtype, one.dtype)
    return state.to(dtype)


def refuse_tracing(kind: str, *values: Any) -> None:
    """Raise a TypeError where torch.fx traces, which records no such steps."""
    for one in values:
        # None by itself: older torch cannot compile a look into its type.
        if one is None or isinstance(one, Tensor):
            continue
        if hasattr(type(one), "__torch_function__"):
            raise TypeError(
                f"{kind}: torch.fx cannot trace the steps of a layer in which modules "
                "are altered (see computes()); use torch.export, or trace it as built"
            )


def run_steps(
    kind: str,
    step: Step,
    inputs: Tensor | None,
    state: Any,
    lengths: Tensor | Sequence[int] | None = None,
    steps: int | None = None,
) -> tuple[Tensor, Any]:
    """Take all steps: the states `[T, B, F, H, W]`, of several the first, and the last.

    Of a cell that is not ours the state may be None, but then there must be a step.
    """
    refuse_tracing(kind, inputs, steps, _first(state))
    steps = number_of_steps(kind, inputs, steps)
    if steps < 0:
        raise ValueError(f"{kind}: steps must not be below 0, got {steps}")
    first = _first(state)
    sized = first if inputs is None else inputs
    if sized is None:
        raise ValueError(f"{kind}: inputs or states must be given, got None for both")
    if steps == 0:
        if first is None:
            raise ValueError(f"{kind}: inputs must have a step where states are None")
        return first.new_zeros(0, *first.shape), state
    past = past_the_end(kind, lengths, (steps, sized.shape[-4]), sized)
    inputs = without_padding(inputs, past)
    outputs = []
    for t in range(steps):
        new = step(t, None if inputs is None else inputs[t], state)
        state = new if past is None else _unless(past[t], state, new)
        outputs.append(_first(state))
    return torch.stack(outputs), state


def _first(state: Any) -> Any:
    return state if state is None or isinstance(state, Tensor) else state[0]


def _unless(past: Tensor, old: Any, new: Any) -> Any:
    """The new state, but the old where its sample is past its end."""
    if not isinstance(new, Tensor):
        before = [None] * len(new) if old is None else old
        return tuple(_unless(past, *pair) for pair in zip(before, new, strict=True))
    return torch.where(past, torch.zeros_like(new) if old is None else old, new)
