"""What the ConvLSTM and ConvGRU modules share: layers above each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.ops._arguments import check_tensors
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
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{kind}: {name} must be one number or two, got {value!r}")
    check_positive(kind, **{f"{name}[{k}]": pair[k] for k in (0, 1)})
    return tuple(pair)


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
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        padding=tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True)),
        dilation=dilation,
        bias=setting.bias,
        device=setting.device,
        dtype=setting.dtype,
    )


def one_step(cell: nn.Module, input: Tensor | None) -> Tensor | None:
    """The input as a sequence of one step."""
    if input is None:
        return None
    check_tensors(type(cell).__name__, input=input)
    return input[None]


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
    every = per_layer(kind, name, hidden, layers)
    kernels = per_layer(kind, "kernel_size", kernel_size, layers)
    return list(zip([channels, *every], every, kernels, strict=False))


class Layers(nn.Module):
    """Layers above each other, each a cell that can run a whole sequence.

    `cell_list` holds them; a subclass makes them.
    """

    def __init__(
        self,
        cells: Sequence[nn.Module],
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

    def extra_repr(self) -> str:
        return f"batch_first={self.batch_first}, recompute={self.recompute!r}"

    def _layers(
        self,
        inputs: Tensor | None,
        states: Sequence[Any] | None,
        lengths: Tensor | Sequence[int] | None,
        steps: int | None,
    ) -> tuple[Tensor | list[Tensor], list[Any]]:
        outputs, last = self._run(inputs, states, lengths, steps)
        if self.batch_first:
            outputs = [one.transpose(0, 1) for one in outputs]
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
        if states is None:
            states = [None] * len(self.cell_list)
        listed = isinstance(states, list | tuple)
        if not listed or len(states) != len(self.cell_list):
            got = len(states) if listed else type(states).__name__
            raise ValueError(
                f"{kind}: states must be a list of one a layer, "
                f"{len(self.cell_list)}, got {got}"
            )
        if self.batch_first and inputs is not None:
            check_tensors(kind, inputs=inputs)
            inputs = inputs.transpose(0, 1)
        options = {"lengths": lengths, "recompute": self.recompute}
        outputs, last = [], []
        for cell, state in zip(self.cell_list, states, strict=True):
            inputs, after = cell.sequence(inputs, state, steps=steps, **options)
            outputs.append(inputs)
            last.append(after)
        return outputs, last
