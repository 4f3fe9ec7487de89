"""ConvLSTM as automan000/Convolutional_LSTM_PyTorch has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.ops import conv_lstm

_GATES = "ifco"  # c is the candidate
_PEEPHOLES = ("Wci", "Wcf", "Wco")


class ConvLSTMCell(nn.Module):
    """One step; the parameters are a convolution a gate of the input and of the state.

    Args:
        input_channels: of the inputs.
        hidden_channels: of the states; any number, where the original takes even ones.
        kernel_size: of all convolutions, odd.

    The original makes its peepholes, of 0, in its first forward pass, for images of one
    size from then on: parameters `Wci`, `Wcf` and `Wco` `[1, F, H, W]` on a CPU, and on
    a GPU tensors that are not in its checkpoints and stay 0. Here there are none, with
    the same result, until a checkpoint is loaded that has them; to a cell that has them
    they are 0 where a checkpoint does not. `recompute`, "none" or "gates", is that of
    `conv_lstm`.

    """

    recompute = "none"
    Wci: Tensor | None
    Wcf: Tensor | None
    Wco: Tensor | None

    def __init__(
        self, input_channels: int, hidden_channels: int, kernel_size: int
    ) -> None:
        super().__init__()
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_features = len(_GATES)
        self.padding = (kernel_size - 1) // 2
        sizes = {"kernel_size": kernel_size, "padding": self.padding}
        for gate in _GATES:
            of_x = nn.Conv2d(input_channels, hidden_channels, **sizes)
            of_h = nn.Conv2d(hidden_channels, hidden_channels, bias=False, **sizes)
            self.add_module(f"Wx{gate}", of_x)
            self.add_module(f"Wh{gate}", of_h)
        for name in _PEEPHOLES:
            self.register_parameter(name, None)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """From the input and the states, all `[B, channels, H, W]`, the new (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        outputs, c = self.sequence(x[None], h, c)
        return outputs[0], c

    def sequence(
        self, inputs: Tensor, h: Tensor | None, c: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run over `[T, B, C, H, W]`: the states h after every step, and the last c."""

        def joined(name: str, kind: str) -> Tensor:
            convs = [getattr(self, f"{name}{gate}") for gate in _GATES]
            return torch.cat([getattr(conv, kind) for conv in convs])

        weights = joined("Wx", "weight"), joined("Wh", "weight"), joined("Wx", "bias")
        peephole = None if self.Wci is None else (self.Wci, self.Wcf, self.Wco)
        options = {"order": "ifgo", "recompute": self.recompute}
        return conv_lstm(inputs, h, c, *weights, peephole=peephole, **options)

    def init_hidden(
        self, batch_size: int, hidden: int, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """States (h, c) of 0, on the device and in the dtype of the weights."""
        zeros = self.Wxi.weight.new_zeros(batch_size, hidden, *shape)
        return zeros, zeros.clone()

    def added_by(self, state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
        """The parameters, of 0, that a checkpoint has and the cell does not."""
        names = [f"{prefix}{name}" for name in _PEEPHOLES]
        found = [state[n] for n in names if isinstance(state.get(n), Tensor)]
        if self.Wci is not None or not found:
            return {}
        sizes = (1, self.hidden_channels, *found[0].shape[2:])
        return {name: self.Wxi.weight.new_zeros(sizes) for name in names}

    def add_peepholes(self, state: Mapping[str, Any], prefix: str = "") -> None:
        """Make the parameters of `added_by`."""
        for name, zeros in self.added_by(state, prefix).items():
            setattr(self, name.removeprefix(prefix), nn.Parameter(zeros))

    def complete_checkpoint(self, state: dict[str, Any], prefix: str = "") -> None:
        """Add the cell's peepholes, of 0, to a checkpoint of it that has none."""
        names = {f"{prefix}{name}": self._parameters.get(name) for name in _PEEPHOLES}
        if f"{prefix}Wxi.weight" in state and not names.keys() & state.keys():
            zeros = {n: torch.zeros_like(p) for n, p in names.items() if p is not None}
            state.update(zeros)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.complete_checkpoint(state_dict, prefix)
        self.add_peepholes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvLSTM(nn.Module):
    """Layers that all see one image at every step.

    Args:
        input_channels: of the image.
        hidden_channels: of the states of every layer.
        kernel_size: of all convolutions, odd.
        step: how many steps there are.
        effective_step: the steps whose outputs are returned, counted from 0.

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: Sequence[int],
        kernel_size: int,
        step: int = 1,
        effective_step: Sequence[int] = (1,),
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, step=step)
        self.input_channels = [input_channels, *hidden_channels]
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_layers = len(hidden_channels)
        self.step = step
        self.effective_step = effective_step
        sizes = zip(self.input_channels, hidden_channels, strict=False)
        for k, size in enumerate(sizes):
            self.add_module(f"cell{k}", ConvLSTMCell(*size, kernel_size))

    def forward(self, input: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Run the layers.

        Args:
            input: `[B, C, H, W]`, any size.

        Returns:
            The last layer's h `[B, F, H, W]` after each effective step, and its last
            (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        states = input.expand(self.step, *input.shape)
        for k in range(self.num_layers):
            states, c = getattr(self, f"cell{k}").sequence(states, None, None)
        outputs = [states[t] for t in range(self.step) if t in self.effective_step]
        return outputs, (states[-1], c)
