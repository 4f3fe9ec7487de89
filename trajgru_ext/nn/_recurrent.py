"""What the recurrent modules share: checks of their options, zoneout, last states."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.ops._arguments import check_number, check_tensors
from trajgru_ext.ops._overrides import leaf


def as_integer(value: Any) -> Any:
    """An integer of any kind, as numpy's, as Python's own; all else as it is."""
    # None by itself: older torch cannot compile operator.index of it.
    if value is None or isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def check_positive(kind: str, **sizes: Any) -> list[int]:
    """The sizes as integers; a ValueError for one that is not positive."""
    numbers = [as_integer(size) for size in sizes.values()]
    for name, size in zip(sizes, numbers, strict=True):
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{kind}: {name} must be positive, got {size!r}")
    return numbers


def check_odd(kind: str, **sizes: Any) -> list[int]:
    """The sizes as integers; a ValueError for one that is no odd number."""
    numbers = [as_integer(size) for size in sizes.values()]
    for name, size in zip(sizes, numbers, strict=True):
        if not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f"{kind}: {name} must be odd, got {size!r}")
    return numbers


def check_input_channels(kind: str, channels: Any) -> int:
    """The channels as an integer, 0 for no inputs; a ValueError for what is none."""
    number = as_integer(channels)
    if not isinstance(number, int) or number < 0:
        raise ValueError(
            f"{kind}: input_channels must not be below 0, got {channels!r}"
        )
    return number


def check_given(kind: str, **tensors: Any) -> None:
    """Raise a TypeError naming the first argument that is no Tensor.

    What stands for one, as while torch.fx traces, is taken.
    """
    for name, value in tensors.items():
        if not hasattr(type(value), "__torch_function__"):
            got = type(value).__name__
            raise TypeError(f"{kind}: {name} must be a Tensor, got {got}")
        if isinstance(value, Tensor):
            check_tensors(kind, **{name: value})


def own_parameters(module: nn.Module) -> Mapping[str, Tensor | None]:
    """A module's own, quicker than `parameters`; of a replica of DataParallel's, too.

    Such a replica has none, but copies of those of the module that it is made of.
    """
    former: Mapping[str, Tensor | None] | None
    former = vars(module).get("_former_parameters")
    return former or module._parameters


def any_tensor(module: nn.Module) -> Tensor:
    """A tensor of the module's, on its device and in its dtype."""
    found = _first_tensor(module)
    return torch.empty(0, device="cpu") if found is None else found


def _first_tensor(module: nn.Module) -> Tensor | None:
    """The same, or None; `modules` takes several times as long."""
    for tensor in (*own_parameters(module).values(), *module._buffers.values()):
        if tensor is not None:
            return tensor
    for inner in module._modules.values():
        found = None if inner is None else _first_tensor(inner)
        if found is not None:
            return found
    return None


def check_inputs(
    kind: str,
    name: str,
    inputs: Any,
    channels: int,
    any_channels: bool,
    beside: Tensor,
    letters: str,
) -> None:
    """Raise an error for inputs that a layer of these channels cannot read.

    any_channels: whether others than those that it was made for are for modules to
    judge. beside: one of the layer's parameters, whose device is wanted. letters: of
    the dimensions.
    """
    if inputs is None:
        return
    check_given(kind, **{name: inputs})
    if not isinstance(inputs, Tensor):
        return
    got = list(inputs.shape)
    if channels == 0:
        raise ValueError(
            f"{kind}: {name} must be None for input_channels=0, got a tensor of {got}"
        )
    if inputs.dim() != letters.count(",") + 1:
        raise ValueError(f"{kind}: {name} must be {letters}, got {got}")
    if not any_channels and inputs.shape[-3] != channels:
        form = letters.replace("C", str(channels))
        raise ValueError(
            f"{kind}: {name} must have {channels} channels, {form}, got {got}"
        )
    if inputs.device != beside.device:
        raise ValueError(
            f"{kind}: {name} must be on {beside.device}, where the parameters are, got "
            f"{inputs.device}"
        )


def check_zoneout(kind: str, zoneout: Any) -> None:
    """Raise an error for what is no probability."""
    check_number(kind, "zoneout", zoneout)
    if not 0 <= zoneout <= 1:
        raise ValueError(f"{kind}: zoneout must lie in [0, 1], got {zoneout}")


@leaf
def zoneout_mask(
    probability: float,
    inputs: Tensor | None,
    h: Tensor | None,
    features: int,
    steps: int | None,
) -> Tensor | None:
    """A mask [T, B, F, H, W] of elements that keep their old value, or None."""
    like = h if inputs is None else inputs
    if probability == 0:
        return None
    if like is None or like.dim() < 4 or (inputs is None and steps is None):
        return None  # the operator finds what is missing
    steps = steps if inputs is None else inputs.shape[0]
    sizes = (steps, like.shape[-4], features, *like.shape[-2:])
    mask = torch.empty(sizes, dtype=torch.bool, device=like.device)
    return mask.bernoulli_(probability)


@leaf
def own(outputs: Tensor) -> Tensor:
    """The outputs as a tensor that no backward pass needs: a person may change it."""
    return outputs.clone() if outputs.requires_grad else outputs


@leaf
def last_state(outputs: Tensor, h: Tensor | None) -> Tensor:
    """The state after all steps: a tensor of its own, that keeps no others alive."""
    if outputs.shape[0] > 0:
        return outputs[-1].clone()
    return outputs.new_zeros(outputs.shape[1:]) if h is None else h.clone()


@leaf
def state_of_layer(kind: str, layers: int, states: Any, k: int) -> Any:
    """The state that layer k begins with, of one a layer or None for all."""
    if states is None:
        return None
    listed = isinstance(states, (list, tuple))
    if not listed or len(states) != layers:
        got = len(states) if listed else type(states).__name__
        raise ValueError(
            f"{kind}: states must be a list of one a layer, {layers}, got {got}"
        )
    return states[k]


@leaf
def exchanged(sequence: Any) -> Any:
    """A sequence with steps and batch exchanged; None where there is none."""
    return None if sequence is None else sequence.transpose(0, 1)


@leaf
def given_only(*tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Those that are there."""
    return tuple(tensor for tensor in tensors if tensor is not None)


@leaf
def both_states(kind: str, state: Any) -> tuple[Tensor | None, Tensor | None]:
    """The hidden and the cell state, which may be left out."""
    if state is None:
        return None, None
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        got = type(state).__name__
        got += f" of {len(state)}" if isinstance(state, (tuple, list)) else ""
        raise TypeError(f"{kind}: state must be (h, c), got {got}")
    h, c = state
    return h, c


@leaf
def number_or(default: int, number: Any) -> Any:
    """The number as an integer; where it is None, the default."""
    return default if number is None else as_integer(number)
