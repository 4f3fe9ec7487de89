"""Networks in plain PyTorch, step over step, from their parameters alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

Parameters = dict[str, torch.Tensor]


def part(parameters: Parameters, prefix: str) -> Parameters:
    """Those below a module."""
    size = len(prefix) + 1
    return {k[size:]: v for k, v in parameters.items() if k.startswith(f"{prefix}.")}


def same(image, conv, dilation=1):
    padding = dilation * (conv["weight"].shape[-1] // 2)
    options = {"padding": padding, "dilation": dilation}
    return functional.conv2d(image, conv["weight"], conv.get("bias"), **options)


def leaky(image):
    return functional.leaky_relu(image, 0.2)


def warp(image, flow):
    """By `grid_sample`, which reads where the flow points."""
    height, width = image.shape[-2:]
    options = {"dtype": image.dtype}
    x = torch.arange(width, **options) + flow[:, 0]
    y = torch.arange(height, **options)[:, None] + flow[:, 1]
    grid = [2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1]
    return functional.grid_sample(image, torch.stack(grid, 3), align_corners=True)


def gru(x, hh, h):
    parts = [0, 0, 0] if x is None else x.chunk(3, 1)
    r, u, m = (sum(pair) for pair in zip(parts, (*hh.chunk(3, 1)[:2], 0), strict=True))
    m = leaky(m + r.sigmoid() * hh.chunk(3, 1)[2])
    return u.sigmoid() * h + (1 - u.sigmoid()) * m


def traj_gru(p, x, h):
    hidden = same(h, part(p, "h2f_conv1"))
    if x is not None:
        hidden = hidden + same(x, part(p, "i2f_conv1"))
    flows = same(leaky(hidden), part(p, "flows_conv"))
    warped = torch.cat([warp(h, -flow) for flow in flows.split(2, 1)], 1)
    i2h = None if x is None else same(x, part(p, "i2h"))
    return gru(i2h, same(warped, part(p, "ret")), h)


def conv_gru(dilation: int = 1) -> Callable:
    def step(p, x, h):
        p = part(p, "cell_list.0")
        i2h = None if x is None else same(x, part(p, "i2h"))
        return gru(i2h, same(h, part(p, "h2h"), dilation), h)

    return step


def conv_lstm(p, x, state):
    p = part(p, "cell_list.0")
    h, c = state.chunk(2, 1)
    both = h if x is None else torch.cat([x, h], 1)
    i, f, o, g = same(both, part(p, "conv")).chunk(4, 1)
    i, f = i + p["Wci"] * c, f + p["Wcf"] * c
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return torch.cat([(o + p["Wco"] * c).sigmoid() * c.tanh(), c], 1)


@dataclass(frozen=True)
class Plan:
    """What a network is beside its parameters.

    A state is one tensor; for ConvLSTM h and c along the channels.
    """

    step: Callable[..., torch.Tensor]
    features: tuple[int, ...]
    down: Callable[[int, Parameters, Any], Any]
    up: Callable[[int, Parameters, Any], Any]
    head: Callable[[Parameters, list[Any]], Any]
    cells: bool = False

    def hidden(self, state):
        return state.chunk(2, 1)[0] if self.cells else state

    def run(self, parameters, frames, steps):
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


def hko7(step, features, first, down, up) -> Plan:
    """With the strides and paddings of the networks of HKO-7."""
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


def patches(features) -> Plan:
    """The ConvLSTM network."""

    def head(p, hidden):
        x = functional.conv2d(torch.cat(hidden, 1), p["0.weight"], p["0.bias"])
        return functional.pixel_shuffle(x, 4)

    def down(k, _, x):
        return functional.pixel_unshuffle(x, 4) if k == 0 else x

    return Plan(conv_lstm, features, down, lambda k, p, x: x, head, cells=True)
