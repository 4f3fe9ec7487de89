"""ConvLSTM as automan000/Convolutional_LSTM_PyTorch has it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.ops import conv_lstm

_GATES = "ifco"  # c is the candidate


class ConvLSTMCell(nn.Module):
    """One step; the parameters are a convolution a gate of the input and of the state.

    Args:
        input_channels: of the inputs.
        hidden_channels: of the states; any number, where the original takes even ones.
        kernel_size: of all convolutions, odd.

    The original's peepholes are set to 0 at every forward pass, are no parameters and
    not in its checkpoints: here there are none, with the same result. `recompute`,
    "none" or "gates", is that of `conv_lstm`.

    """

    recompute = "none"

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
        options = {"order": "ifgo", "recompute": self.recompute}
        return conv_lstm(inputs, h, c, *weights, **options)

    def init_hidden(
        self, batch_size: int, hidden: int, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """States (h, c) of 0, on the device and in the dtype of the weights."""
        zeros = self.Wxi.weight.new_zeros(batch_size, hidden, *shape)
        return zeros, zeros.clone()


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
