"""Gate updates that a graph was found to have, as calls of our operators.

The tensors come from a graph that says nothing of their sizes and dtypes, so each
update first asks whether the operator takes them.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from trajgru_ext import _build
from trajgru_ext.ops._gates import one_sum
from trajgru_ext.ops.gru_gates import gru_gates
from trajgru_ext.ops.gru_output import gru_output
from trajgru_ext.ops.gru_reset import gru_reset
from trajgru_ext.ops.lstm_gates import lstm_gates
from trajgru_ext.ops.lstm_memory import lstm_memory

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# The update for some tensors, or None where the operator does not take them.
Call = Callable[[Sequence[Tensor]], tuple[Tensor, ...] | None]


class Gates(NamedTuple):
    """Gates one after the other in the channels of a tensor."""

    start: int | Fraction
    length: int | Fraction
    """Of one gate, in channels or as a part of all."""
    how_many: int
    to_the_last: bool
    """Whether the last gate has all other channels, however many they are."""

    def of(self, tensor: Tensor, features: int) -> Tensor | None:
        """The gates' channels, if those of each gate are so many."""
        channels = tensor.shape[1]
        if channels == 1:
            return tensor  # a bias that is broadcast
        start, length = self.start, self.length
        if isinstance(length, Fraction):
            start, length = start * channels, length * channels
        wanted = self.how_many * features
        end = start + wanted
        if (
            length != features
            or end > channels
            or (self.to_the_last and end < channels)
        ):
            return None
        return tensor if wanted == channels else tensor.narrow(1, int(start), wanted)


class Terms(NamedTuple):
    """Tensors of gates that are added: how many, and the channels of each."""

    gates: tuple[Gates, ...]

    def sum(self, tensors: Sequence[Tensor], state: Tensor) -> Tensor | None:
        """The sum, or None where it does not fit the state."""
        total: Any = None
        for gates, tensor in zip(self.gates, tensors, strict=True):
            part = gates.of(tensor, state.shape[1])
            if part is None:
                return None
            total = part if total is None else total + part
        sizes = [*state.shape]
        sizes[1] *= self.gates[0].how_many
        fits = list(total.shape) == sizes and _fits(total, state)
        return total if fits else None


class Update(NamedTuple):
    """A gate update in a graph: what it reads, what it makes, and the call for it."""

    what: str
    leaves: list[fx.Node]
    outputs: list[list[fx.Node]]
    """For each result the nodes that compute it."""
    call: Call
    gates: dict[fx.Node, Gates]
    """Where those of the leaves that hold gates have them; the others are states,
    and weights of the module."""


def _devices() -> frozenset[str]:
    """The types of devices that the operators have kernels for."""
    has: Any = torch._C._dispatch_has_kernel_for_dispatch_key
    extension: str = torch._C._get_privateuse1_backend_name()
    keys = {"cpu": "CPU", extension: "PrivateUse1"}
    if not _build.no_cuda_kernels:
        keys["cuda"] = "CUDA"
    there = [d for d, key in keys.items() if has("trajgru_ext::lstm_gates", key)]
    return frozenset([*there, "meta"])


def _fits(tensor: Tensor, state: Tensor) -> bool:
    """Whether the state's dtype holds a tensor's, and they lie on one device."""
    same = tensor.device == state.device
    return same and torch.promote_types(tensor.dtype, state.dtype) == state.dtype


def _images(tensors: Sequence[Tensor], devices: frozenset[str]) -> list[Tensor] | None:
    """All as images, if they are and the first is a state that the operators take.

    Of others the batch may be left out, as of weights that are broadcast.
    """
    state = tensors[0]
    known = state.dtype in _DTYPES and state.device.type in devices
    if not known or state.dim() != 4 or any(t.dim() not in (3, 4) for t in tensors):
        return None
    return [t if t.dim() == 4 else t.unsqueeze(0) for t in tensors]


def lstm_call(
    x: Terms, h: Terms | None, peephole: bool, order: str, forget_bias: float
) -> Call:
    """The call for c, the peepholes, and the terms of x_gates and h_gates."""
    first, devices = 4 if peephole else 1, _devices()

    def call(tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        images = _images(tensors, devices)
        if images is None:
            return None
        c, weights = images[0], images[1:first]
        sizes = [1, *c.shape[1:]], [1, c.shape[1], 1, 1]
        if any(list(w.shape) not in sizes or not _fits(w, c) for w in weights):
            return None
        if any(w.shape != weights[0].shape for w in weights):
            return None
        gates = _two_sums(x, h, images[first:], c)
        if gates is None:
            return None
        given = one_sum(*gates)
        return lstm_gates(*given, c, tuple(weights) or None, order, forget_bias)

    return call


def memory_call(x: Terms, h: Terms | None, order: str, forget_bias: float) -> Call:
    """The call of `lstm_memory` for c and the terms of x_gates and h_gates."""

    def update(*operands: Any) -> tuple[Tensor, ...]:
        *gates, c = operands
        return (lstm_memory(*one_sum(*gates), c, order, forget_bias),)

    return _of_two_sums(x, h, update)


def _two_sums(
    x: Terms | None, h: Terms | None, tensors: Sequence[Tensor], state: Tensor
) -> tuple[Tensor | None, Tensor | None] | None:
    count = 0 if x is None else len(x.gates)
    sums = (
        None if x is None else x.sum(tensors[:count], state),
        None if h is None else h.sum(tensors[count:], state),
    )
    lacking = [s is None and t is not None for s, t in zip(sums, (x, h), strict=True)]
    return None if any(lacking) else sums


def gru_call(x: Terms | None, h: Terms | None, order: str, *options: Any) -> Call:
    """The call of `gru_gates` for the state and the terms of x_gates and h_gates."""

    def update(*operands: Any) -> tuple[Tensor, ...]:
        x_gates, h_gates, state = operands
        return (gru_gates(x_gates, h_gates, state, order, *options),)

    return _of_two_sums(x, h, update)


def reset_call(x: Terms, h: Terms | None, order: str) -> Call:
    """The call of `gru_reset` for the state and the terms of x_gates and h_gates."""

    def update(*operands: Any) -> tuple[Tensor, ...]:
        *gates, state = operands
        return gru_reset(*one_sum(*gates), state, order)

    return _of_two_sums(x, h, update)


def _of_two_sums(
    x: Terms | None, h: Terms | None, update: Callable[..., tuple[Tensor, ...]]
) -> Call:
    devices = _devices()

    def call(tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        images = _images(tensors, devices)
        if images is None:
            return None
        state, *terms = images
        gates = _two_sums(x, h, terms, state)
        return None if gates is None else update(*gates, state)

    return call


def output_call(*options: Any) -> Call:
    """The call of `gru_output` for the state, the update gate and the candidate."""
    devices = _devices()

    def call(tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        images = _images(tensors, devices)
        if images is None:
            return None
        state, u, candidate = images
        if not all(t.shape == state.shape and _fits(t, state) for t in images):
            return None
        return (gru_output(u.to(state.dtype), candidate, state, *options),)

    return call
