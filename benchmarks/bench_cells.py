"""Cells called step by step, against plain cells and against a sequence's own steps.

Float32 on the CPU, ten steps from a state of 0, contiguous images. "ours" calls a cell
of `trajgru_ext.nn` at every step, as a decoder does that feeds its forecasts back. The
other sides: the same formula in plain PyTorch, step by step; and "inside a sequence",
all ten steps in one call of the cell's `sequence`, which need not wait for each state.
Forward is inference, without gradients; forward+backward is that of the sum of all
states, to the inputs and to all parameters. Every side's results are first compared
with those of float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from measure import Side, arguments, machine, medians, print_table, write
from ported_layers import (
    PortedConvGRU,
    PortedConvLSTM,
    PortedGatedConvs,
    PortedTrajGRU,
)
from torch import Tensor, nn
from training import train_step

from trajgru_ext.nn import ConvGRUCell, ConvLSTMCell, TrajGRU, TrajGRUCell

STEPS = 10
# Batch, channels of inputs and state, side of the image, kernel.
SIZES = [(1, 8, 8, 3), (1, 16, 16, 3), (1, 32, 32, 3), (4, 128, 16, 5)]


class Steps(nn.Module):
    """A cell over time, one call a step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        state, outputs = None, []
        for input in inputs:
            state = self.cell(input, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs)


class Sequence(nn.Module):
    """The same in one call."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        return self.cell.sequence(inputs)[0]


class Layer(nn.Module):
    """The layer that has a cell's parameters; a TrajGRU's cell has no `sequence`."""

    def __init__(self, cell: TrajGRUCell) -> None:
        super().__init__()
        kernel = cell.i2h.kernel_size[0]
        sizes = cell.input_channels, cell.hidden_channels, cell.links
        self.layer = TrajGRU(*sizes, kernel_size=kernel)
        self.layer.load_state_dict(cell.state_dict())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)[0]


def ported(kind: Callable[[Any], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """What makes a plain rendering of a cell, from one of a layer."""

    def make(cell: nn.Module) -> nn.Module:
        layer = nn.Module()
        layer.cell_list = [cell]
        return kind(layer)

    return make


# Options of the cell, its plain rendering, its sequence.
CELLS = {
    "ConvLSTMCell": (ConvLSTMCell, {}, ported(PortedConvLSTM), Sequence),
    "ConvGRUCell, reset before": (
        ConvGRUCell,
        {"reset": "before", "update": "replace"},
        ported(PortedConvGRU),
        Sequence,
    ),
    "ConvGRUCell, reset after": (
        ConvGRUCell,
        {"activation": "leaky_relu"},
        ported(PortedGatedConvs),
        Sequence,
    ),
    "TrajGRUCell": (TrajGRUCell, {"zero_flows": False}, PortedTrajGRU, Layer),
}


def make(name: str, size: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A cell and its inputs."""
    torch.manual_seed(0)
    batch, channels, side, kernel = size
    kind, options, _, _ = CELLS[name]
    cell = kind(channels, channels, kernel_size=kernel, **options)
    return cell, torch.randn(STEPS, batch, channels, side, side, requires_grad=True)


def check(name: str, side: str, got: list[Tensor], wanted: list[Tensor]) -> None:
    """Stop where a side is wrong.

    A sum that rounding takes across the kink of a leaky relu, or a flow across a whole
    coordinate, has another slope there.
    """
    kinked = "before" not in name and "LSTM" not in name
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm()
        if not error < (5e-3 if kinked else 2e-5):
            raise SystemExit(f"{name}, {side} is wrong: relative error {error}")


def bench(name: str, size: tuple[int, ...], rounds: int) -> list[dict]:
    """Both passes of one cell at one size."""
    _, _, plain, sequence = CELLS[name]
    cell, inputs = make(name, size)
    models = {
        "ours": Steps(cell),
        "eager PyTorch": plain(cell),
        "inside a sequence": sequence(cell),
    }
    seed = torch.ones_like(inputs)
    exact, doubles = make(name, size)
    doubles = doubles.detach().double().requires_grad_()
    wanted = train_step(plain(exact.double()), doubles, seed.double())
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for side, model in models.items():

        def infer(model: nn.Module = model) -> Tensor:
            with torch.no_grad():
                return model(inputs)

        def train(model: nn.Module = model) -> list[Tensor]:
            return train_step(model, inputs, seed)

        check(name, side, [infer(), *train()[1:]], wanted)
        forward[side], training[side] = infer, train
    records = []
    for mode, sides in (("forward", forward), ("forward+backward", training)):
        times = {side: ms / STEPS for side, ms in medians(sides, rounds).items()}
        print_table(f"{name}, {size}, {mode}, a step", times, "ours")
        ratios = {side: ms / times["ours"] for side, ms in times.items()}
        record = {"cell": name, "size": size, "mode": mode}
        records.append(record | {"milliseconds": times, "times_ours": ratios})
    return records


def main() -> None:
    """Run all cells and sizes."""
    options = arguments(__doc__, "cells")
    print(machine())
    records = []
    for name in CELLS:
        for size in SIZES:
            records += bench(name, size, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
