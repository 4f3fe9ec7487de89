"""sxjscience/HKO-7: TrajGRU and ConvGRU networks from their parameters alone.

The original is in MXNet; the names are those of our networks' parameters. The ConvLSTM
network of Shi et al. 2015, with which HKO-7 compares, is here as well.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ports.precipitation_nowcasting import traj_gru as traj_gru_over_time
from ports.updates import gru_reset_after, leaky, lstm_with_peepholes

Parameters = dict[str, Tensor]


def part(parameters: Parameters, prefix: str) -> Parameters:
    """Those below a module."""
    size = len(prefix) + 1
    return {k[size:]: v for k, v in parameters.items() if k.startswith(f"{prefix}.")}


def same(image: Tensor, conv: Parameters, dilation: int = 1) -> Tensor:
    """The convolution whose result has the size of the image."""
    padding = dilation * (conv["weight"].shape[-1] // 2)
    options = {"padding": padding, "dilation": dilation}
    return functional.conv2d(image, conv["weight"], conv.get("bias"), **options)


def traj_gru(p: Parameters, x: Tensor | None, h: Tensor) -> Tensor:
    """A step."""
    names = {name.split(".")[0] for name in p}
    convs = {name: functools.partial(same, conv=part(p, name)) for name in names}
    inputs = None if x is None else x[None]
    return traj_gru_over_time(SimpleNamespace(**convs), inputs, h, 1)[1]


def conv_gru(dilation: int = 1) -> Callable[..., Tensor]:
    """A step, with a dilated convolution of the state."""

    def step(p: Parameters, x: Tensor | None, h: Tensor) -> Tensor:
        p = part(p, "cell_list.0")
        i2h = None if x is None else same(x, part(p, "i2h"))
        return gru_reset_after(i2h, same(h, part(p, "h2h"), dilation), h)

    return step


def conv_lstm(p: Parameters, x: Tensor | None, state: Tensor) -> Tensor:
    """A step, with the slices i, f, o, g and peepholes."""
    p = part(p, "cell_list.0")
    h, c = state.chunk(2, 1)
    both = h if x is None else torch.cat([x, h], 1)
    i, f, o, g = same(both, part(p, "conv")).chunk(4, 1)
    peepholes = p["Wci"], p["Wcf"], p["Wco"]
    return torch.cat(lstm_with_peepholes((i, f, g, o), c, peepholes), 1)


@dataclass(frozen=True)
class Plan:
    """What a network is beside its parameters.

    A state is one tensor; for ConvLSTM h and c along the channels.
    """

    step: Callable[..., Tensor]
    features: tuple[int, ...]
    down: Callable[[int, Parameters, Any], Any]
    up: Callable[[int, Parameters, Any], Any]
    head: Callable[[Parameters, list[Any]], Any]
    cells: bool = False

    def hidden(self, state: Tensor) -> Tensor:
        """What a level shows of its state."""
        return state.chunk(2, 1)[0] if self.cells else state

    def run(self, parameters: Parameters, frames: Tensor, steps: int) -> Tensor:
        """Frame by frame through all levels."""
        states = [None] * len(self.features)
        for frame in frames:
            x = frame
            for k, features in enumerate(self.features):
                x = self.down(k, part(parameters, f"down.{k}"), x)
                if states[k] is None:
                    count = (1 + self.cells) * features
                    states[k] = x.new_zeros(x.shape[0], count, *x.shape[2:])
                layer = part(parameters, f"encoder.{k}")
                states[k] = self.step(layer, x, states[k])
                x = self.hidden(states[k])
        outputs = []
        for _ in range(steps):
            x = None
            for k in reversed(range(len(self.features))):
                layer = part(parameters, f"forecaster.{k}")
                if x is not None:
                    x = self.up(k, part(parameters, f"up.{k}"), x)
                states[k] = self.step(layer, x, states[k])
                x = self.hidden(states[k])
            hidden = [self.hidden(state) for state in states]
            outputs.append(self.head(part(parameters, "head"), hidden))
        return torch.stack(outputs)


def hko7(
    step: Callable[..., Tensor],
    features: tuple[int, ...],
    first: tuple[int, int],
    down: tuple[tuple[int, int], ...],
    up: tuple[tuple[int, int], ...],
) -> Plan:
    """A network of HKO-7; strides and paddings of its first and other convolutions."""
    downs = (first, *down)

    def below(k, p, x):
        return leaky(functional.conv2d(x, p["0.weight"], p["0.bias"], *downs[k]))

    def above(k, p, x):
        return leaky(functional.conv_transpose2d(x, p["0.weight"], None, *up[k]))

    def head(p, hidden):
        x = functional.conv_transpose2d(hidden[0], p["0.weight"], None, *first)
        x = leaky(functional.conv2d(leaky(x), p["2.weight"], p["2.bias"], padding=1))
        return functional.conv2d(x, p["4.weight"], p["4.bias"])

    return Plan(step, features, below, above, head)


def patches(features: tuple[int, ...]) -> Plan:
    """The ConvLSTM network of 2015, on patches of 4 x 4 pixels."""

    def head(p, hidden):
        x = functional.conv2d(torch.cat(hidden, 1), p["0.weight"], p["0.bias"])
        return functional.pixel_shuffle(x, 4)

    def down(k, _, x):
        return functional.pixel_unshuffle(x, 4) if k == 0 else x

    return Plan(conv_lstm, features, down, lambda k, p, x: x, head, cells=True)
