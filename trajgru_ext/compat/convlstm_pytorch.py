"""ConvLSTM as ndrplz/ConvLSTM_pytorch has it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext import nn
from trajgru_ext.nn._conv_rnn import Layers, layer_sizes
from trajgru_ext.nn._recurrent import any_tensor, check_given, check_positive
from trajgru_ext.ops._overrides import leaf

Kernel = tuple[int, int]


class ConvLSTMCell(nn.ConvLSTMCell):
    """One step of the original's ConvLSTM, its gates in the order i, f, o, g.

    Args:
        input_dim: channels of the inputs.
        hidden_dim: channels of the states.
        kernel_size: (height, width), odd; the original takes even ones and fails.
        bias: whether the convolution has a bias.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convlstm_pytorch import ConvLSTMCell
        >>> cell = ConvLSTMCell(3, 8, (3, 3), bias=True)
        >>> h, c = cell(torch.randn(2, 3, 16, 16), cell.init_hidden(2, (16, 16)))

    """

    def __init__(
        self, input_dim: int, hidden_dim: int, kernel_size: Kernel, bias: bool
    ) -> None:
        super().__init__(input_dim, hidden_dim, kernel_size, bias=bias)
        self.input_dim = self.input_channels
        self.hidden_dim = self.hidden_channels
        self.kernel_size = kernel_size
        self.padding = self.conv.padding
        self.bias = bias

    def forward(  # type: ignore[override]  # the original's names
        self, input_tensor: Tensor, cur_state: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """From the input `[B, C, H, W]` and (h, c) the new (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.lstm_gates`.

        """
        check_given(type(self).__name__, input_tensor=input_tensor)
        h, c = cur_state
        return self._step(0, input_tensor, (h, c))

    def init_hidden(
        self, batch_size: int, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """States (h, c) of 0, on the device and in the dtype of the weight."""
        like = any_tensor(self)
        sizes = (batch_size, self.hidden_dim, *image_size)
        return like.new_zeros(sizes), like.new_zeros(sizes)


class ConvLSTM(Layers):
    """Layers of ConvLSTM over a sequence.

    Args:
        input_dim: channels of the inputs.
        hidden_dim: channels of the states, for all layers or a list.
        kernel_size: (height, width), odd, for all layers or a list.
        num_layers: how many layers there are.
        batch_first: whether the inputs are `[B, T, ...]` instead of `[T, B, ...]`; the
            outputs always are.
        bias: whether the convolutions have biases.
        return_all_layers: whether all layers' outputs and states are returned.

    Unlike the original it takes states to begin with.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convlstm_pytorch import ConvLSTM
        >>> model = ConvLSTM(3, [16, 8], (3, 3), 2, batch_first=True)
        >>> outputs, states = model(torch.randn(2, 5, 3, 16, 16))
        >>> outputs[0].shape
        torch.Size([2, 5, 8, 16, 16])

    """

    inputs_name = "input_tensor"

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int | list[int],
        kernel_size: Kernel | list[Kernel],
        num_layers: int,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
    ) -> None:
        kind = type(self).__name__
        check_kernel_size(kind, kernel_size)
        (num_layers,) = check_positive(kind, num_layers=num_layers)
        given = input_dim, hidden_dim, kernel_size, num_layers
        sizes = layer_sizes(kind, *given, name="hidden_dim")
        cells = [ConvLSTMCell(*size, bias) for size in sizes]
        super().__init__(cells, batch_first, return_all_layers, "none")
        self.input_dim = sizes[0][0]
        self.hidden_dim = [features for _, features, _ in sizes]
        self.kernel_size = [kernel for *_, kernel in sizes]
        self.num_layers = num_layers
        self.bias = bias

    def forward(
        self,
        input_tensor: Tensor,
        hidden_state: Sequence[Sequence[Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Run the layers.

        Args:
            input_tensor: `[T, B, C, H, W]`, or `[B, T, C, H, W]` with `batch_first`.
            hidden_state: (h, c) for every layer, or None for 0.

        Returns:
            The outputs `[B, T, F, H, W]` of every layer, and their last states [h, c];
            without `return_all_layers`, those of the last layer alone.

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        return published_results(self, *self._run(input_tensor, hidden_state))

    def _call_cell(self, cell: Any, input: Tensor | None, state: Any) -> Any:
        return cell(input_tensor=input, cur_state=state)

    def _state_of(self, cell: Any, inputs: Tensor | None, state: Any) -> Any:
        if state is not None or inputs is None or not hasattr(cell, "init_hidden"):
            return state
        return cell.init_hidden(inputs.shape[1], tuple(inputs.shape[3:]))


def check_kernel_size(kind: str, kernel_size: Any) -> None:
    """Raise a ValueError for what is neither a tuple nor a list of them."""
    kernels = kernel_size if isinstance(kernel_size, list) else [kernel_size]
    if not all(isinstance(kernel, tuple) for kernel in kernels):
        raise ValueError(
            f"{kind}: kernel_size must be a tuple or a list of tuples, got "
            f"{kernel_size!r}"
        )


def published_results(
    net: Layers, outputs: list[Tensor], states: list[Any]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The outputs batch first, and states as lists, of all layers or of the last.

    As the original's the outputs are contiguous, so that callers may view them in other
    sizes, and no backward pass needs them, so that callers may change them.
    """
    outputs = [_contiguous(one.transpose(0, 1)) for one in outputs]
    last = [list(s) if isinstance(s, (tuple, list)) else [s] for s in states]
    return (outputs, last) if net.return_all_layers else (outputs[-1:], last[-1:])


@leaf
def _contiguous(outputs: Tensor) -> Tensor:
    """A copy; or where there is no backward pass, perhaps the outputs themselves."""
    contiguous = torch.contiguous_format
    if outputs.requires_grad:
        return outputs.clone(memory_format=contiguous)
    return outputs.contiguous(memory_format=contiguous)
