"""What the ConvLSTM and ConvGRU modules share: layers above each other."""

# Unions in inner functions stay unevaluated: torch 2.9 cannot compile them.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trajgru_ext.nn._as_built import (
    Built,
    ByWeights,
    all_hooked,
    change,
    kind_of,
)
from trajgru_ext.nn._by_modules import run_steps, zero_if_none
from trajgru_ext.nn._plain_steps import PlainSteps
from trajgru_ext.nn._recurrent import (
    any_tensor,
    as_integer,
    check_given,
    check_inputs,
    check_positive,
    exchanged,
    state_of_layer,
)
from trajgru_ext.ops._arguments import recorded_by_jit
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops._sequences import RECOMPUTE

Pair = int | tuple[int, int]


class Setting(NamedTuple):
    """What the cells of all kinds are made with, beside their sizes."""

    kernel_size: Pair
    dilation: Pair
    bias: bool
    device: Any
    dtype: Any


def both(kind: str, name: str, value: Any) -> tuple[int, int]:
    """A number along height and width, from one or two."""
    value = as_integer(value)
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{kind}: {name} must be one number or two, got {value!r}")
    height, width = check_positive(kind, **{f"{name}[{k}]": pair[k] for k in (0, 1)})
    return height, width


def convolution(
    kind: str, setting: Setting, inputs: int, outputs: int, name: str = "kernel_size"
) -> nn.Conv2d:
    """A convolution that keeps the size: the operators read its parameters.

    name: of the argument that its kernel comes from.
    """
    kernel = both(kind, name, setting.kernel_size)
    dilation = both(kind, "dilation", setting.dilation)
    if any(size % 2 == 0 for size in kernel):
        raise ValueError(f"{kind}: {name} must be odd, got {setting.kernel_size}")
    down, across = (d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        padding=(down, across),
        dilation=dilation,
        bias=setting.bias,
        device=setting.device,
        dtype=setting.dtype,
    )


class Cell(PlainSteps):
    """A cell: one step, and whole sequences, of an input and a state."""

    def _one_step(self, input: Tensor | None) -> Tensor | None:
        """The input as a sequence of one step."""
        if input is None:
            return None
        check_given(type(self).__name__, input=input)
        return input[None]

    def _check_inputs(
        self, name: str, inputs: Tensor | None, any_channels: bool
    ) -> None:
        """Raise an error for inputs that do not fit; name: "input" for one step."""
        if inputs is None:
            return
        letters = "[T, B, C, H, W]"
        if name == "input":
            inputs, letters = inputs[0], "[B, C, H, W]"
        kind, channels = type(self).__name__, self.input_channels
        check_inputs(
            kind, name, inputs, channels, any_channels, any_tensor(self), letters
        )

    def _complete(self, inputs: Tensor | None, state: Any) -> Any:
        """The state, 0 where it is None and as large as the inputs."""
        raise NotImplementedError

    def _joined(self, input: Tensor | None, h: Tensor) -> Tensor:
        """What a convolution over input and state reads; no input is 0."""
        if self.input_channels == 0:
            return h
        kind, channels = type(self).__name__, self.input_channels
        return torch.cat([zero_if_none(kind, channels, input, h), h], 1)


def per_layer(kind: str, name: str, value: Any, layers: int) -> list[Any]:
    """One value a layer, from a list of them or one for all."""
    if not isinstance(value, list):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(
            f"{kind}: {name} must be one or a list of num_layers={layers}, got {value}"
        )
    return value


def layer_sizes(
    kind: str,
    channels: int,
    hidden: Any,
    kernel_size: Any,
    layers: int,
    name: str = "hidden_channels",
) -> list[tuple[int, int, Any]]:
    """Of every layer the channels of its inputs, those of its state, and its kernel."""
    every = [as_integer(one) for one in per_layer(kind, name, hidden, layers)]
    kernels = [
        tuple(as_integer(size) for size in one)
        if isinstance(one, tuple)
        else as_integer(one)
        for one in per_layer(kind, "kernel_size", kernel_size, layers)
    ]
    inputs = [as_integer(channels), *every]
    return list(zip(inputs, every, kernels, strict=False))


class Layers(ByWeights):
    """Layers above each other, each a cell that can run a whole sequence.

    `cell_list` holds them; a subclass makes them. A cell that is not as its constructor
    made it is called, `cell(input, state)`, step by step; so is one of another class,
    which returns the new state, or several of which the first is the output.
    """

    inputs_name = "inputs"  # of the argument

    def __init__(
        self,
        cells: Sequence[ByWeights],
        batch_first: bool,
        return_all_layers: bool,
        recompute: str,
    ) -> None:
        super().__init__()
        check_choice(type(self).__name__, "recompute", recompute, RECOMPUTE)
        self.cell_list = nn.ModuleList(cells)
        self.batch_first = batch_first
        self.return_all_layers = return_all_layers
        self.recompute = recompute
        self._cell_kind = type(cells[0])

    def _options(self) -> str:
        return f"batch_first={self.batch_first}, recompute={self.recompute!r}"

    def _change(self) -> str | None:
        for name, cell in vars(self.cell_list)["_modules"].items():
            if why := self._change_of(cell):
                return f"cell_list.{name}{why}"
        return None

    def _change_of(self, cell: Any) -> str | None:
        """What of a cell is not as its constructor made it, or None."""
        if hooked := all_hooked():
            return f" has hooks: {hooked}"
        kind = kind_of(cell)
        if kind is not self._cell_kind:
            return f" is a {kind.__name__}, not a {self._cell_kind.__name__}"
        made: Built = cell._built
        return change(cell, made)

    def _layers(
        self,
        inputs: Tensor | None,
        states: Sequence[Any] | None,
        lengths: Tensor | Sequence[int] | None,
        steps: int | None,
    ) -> tuple[Tensor | list[Tensor], list[Any]]:
        last: Any
        outputs, last = self._run(inputs, states, lengths, steps)
        if self.batch_first:
            outputs = [one.transpose(0, 1) for one in outputs]
        if recorded_by_jit():  # which records no list of tuples
            last = tuple(last)
        return outputs if self.return_all_layers else outputs[-1], last

    def _run(
        self,
        inputs: Tensor | None,
        states: Sequence[Any] | None,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
    ) -> tuple[list[Tensor], list[Any]]:
        """The outputs `[T, B, ...]` of all layers, and their last states."""
        kind = type(self).__name__
        layers = len(self.cell_list)
        states = [state_of_layer(kind, layers, states, k) for k in range(layers)]
        if inputs is not None:
            self._check_first(inputs)
            inputs = exchanged(inputs) if self.batch_first else inputs
        steps = as_integer(steps)
        outputs, last = [], []
        cells: list[Any] = list(self.cell_list)
        raw = vars(self.cell_list)["_modules"].values()
        for cell, same, state in zip(cells, raw, states, strict=True):
            if self._change_of(same) is None:
                options = {"lengths": lengths, "recompute": self.recompute}
                inputs, after = cell.sequence(inputs, state, steps=steps, **options)
            else:
                inputs, after = self._call_steps(cell, inputs, state, lengths, steps)
            outputs.append(inputs)
            last.append(after)
        return outputs, last

    def _check_first(self, inputs: Tensor) -> None:
        """Raise an error for inputs that the first layer cannot read."""
        kind, name = type(self).__name__, self.inputs_name
        cell: Any = next(iter(self.cell_list))
        letters = "[B, T, C, H, W]" if self.batch_first else "[T, B, C, H, W]"
        other = self._change_of(cell) is not None
        channels = getattr(cell, "input_channels", -1)
        check_inputs(kind, name, inputs, channels, other, any_tensor(cell), letters)

    def _call_steps(
        self,
        cell: Any,
        inputs: Tensor | None,
        state: Any,
        lengths: Tensor | Sequence[int] | None,
        steps: int | None,
    ) -> tuple[Tensor, Any]:
        """Call a cell at every step."""

        def step(_: int, input: Tensor | None, state: Any) -> Any:
            return self._call_cell(cell, input, state)

        kind = type(self).__name__
        state = self._state_of(cell, inputs, state)
        return run_steps(kind, step, inputs, state, lengths, steps)

    def _call_cell(self, cell: Any, input: Tensor | None, state: Any) -> Any:
        return cell(input, state)

    def _state_of(self, cell: Any, inputs: Tensor | None, state: Any) -> Any:
        """The state that a cell begins with; one that is not ours may get None."""
        return cell._complete(inputs, state) if isinstance(cell, Cell) else state
