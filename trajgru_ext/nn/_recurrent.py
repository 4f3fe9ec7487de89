"""What the recurrent modules share: checks of their options, zoneout, last states."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._arguments import check_number, check_tensors


def check_positive(kind: str, **sizes: Any) -> None:
    """Raise a ValueError for a size that is not a positive integer."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{kind}: {name} must be positive, got {size!r}")


def check_input_channels(kind: str, channels: Any) -> None:
    """Raise a ValueError for what is no number of channels; 0 means no inputs."""
    if not isinstance(channels, int) or channels < 0:
        raise ValueError(
            f"{kind}: input_channels must not be below 0, got {channels!r}"
        )


def check_inputs(kind: str, channels: int, inputs: Any) -> None:
    """Raise an error for inputs of a layer that has none."""
    if inputs is None or channels > 0:
        return
    check_tensors(kind, inputs=inputs)
    raise ValueError(
        f"{kind}: inputs must be None for input_channels=0, got a tensor of "
        f"{list(inputs.shape)}"
    )


def check_zoneout(kind: str, zoneout: Any) -> None:
    """Raise an error for what is no probability."""
    check_number(kind, "zoneout", zoneout)
    if not 0 <= zoneout <= 1:
        raise ValueError(f"{kind}: zoneout must lie in [0, 1], got {zoneout}")


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


def last_state(outputs: Tensor, h: Tensor | None) -> Tensor:
    """The state after all steps: a tensor of its own, that keeps no others alive."""
    if outputs.shape[0] > 0:
        return outputs[-1].clone()
    return outputs.new_zeros(outputs.shape[1:]) if h is None else h.clone()
