"""ConvGRU as happyjin/ConvGRU-pytorch has it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext import nn
from trajgru_ext.compat.convlstm_pytorch import (
    Kernel,
    check_kernel_size,
    published_results,
)
from trajgru_ext.nn._conv_rnn import Layers, layer_sizes
from trajgru_ext.nn._recurrent import any_tensor, check_given, check_positive


class ConvGRUCell(nn.ConvGRUCell):
    """One step of the original's ConvGRU: the reset before the convolution.

    Args:
        input_size: (height, width) for `init_hidden`; any size can be run.
        input_dim: channels of the inputs.
        hidden_dim: channels of the state.
        kernel_size: (height, width), odd.
        bias: whether the convolutions have biases.
        dtype: the original's tensor type, as `torch.FloatTensor`; without effect, since
            states follow the weights.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convgru_pytorch import ConvGRUCell
        >>> cell = ConvGRUCell((16, 16), 3, 8, (3, 3), True, torch.FloatTensor)
        >>> h = cell(torch.randn(2, 3, 16, 16), cell.init_hidden(2))

    """

    def __init__(
        self,
        input_size: tuple[int, int],
        input_dim: int,
        hidden_dim: int,
        kernel_size: Kernel,
        bias: bool,
        dtype: Any,
    ) -> None:
        options: dict[str, Any] = {"reset": "before", "update": "replace"}
        super().__init__(input_dim, hidden_dim, kernel_size, bias=bias, **options)
        self.height, self.width = input_size
        self.input_dim = self.input_channels
        self.hidden_dim = self.hidden_channels
        self.padding = self.conv_gates.padding
        self.bias = bias
        self.dtype = dtype

    def forward(  # type: ignore[override]  # the original's names
        self, input_tensor: Tensor, h_cur: Tensor
    ) -> Tensor:
        """From the input `[B, C, H, W]` and h the new h.

        Raises:
            TypeError, ValueError: as `trajgru_ext.gru_reset`.

        """
        check_given(type(self).__name__, input_tensor=input_tensor, h_cur=h_cur)
        return self._step(input_tensor, h_cur, None)

    def init_hidden(self, batch_size: int) -> Tensor:
        """A state of 0, on the device and in the dtype of the weights."""
        sizes = (batch_size, self.hidden_dim, self.height, self.width)
        return any_tensor(self).new_zeros(sizes)


class ConvGRU(Layers):
    """Layers of ConvGRU over a sequence.

    Args:
        input_size: (height, width); any size can be run.
        input_dim: channels of the inputs.
        hidden_dim: channels of the state, for all layers or a list.
        kernel_size: (height, width), odd, for all layers or a list.
        num_layers: how many layers there are.
        dtype: without effect, since states follow the weights.
        batch_first: whether the inputs are `[B, T, ...]` instead of `[T, B, ...]`; the
            outputs always are.
        bias: whether the convolutions have biases.
        return_all_layers: whether all layers' outputs and states are returned.

    Unlike the original it takes states to begin with.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convgru_pytorch import ConvGRU
        >>> sizes = (16, 16), 3, [16, 8], (3, 3), 2
        >>> model = ConvGRU(*sizes, dtype=torch.FloatTensor, batch_first=True)
        >>> outputs, states = model(torch.randn(2, 5, 3, 16, 16))
        >>> outputs[0].shape
        torch.Size([2, 5, 8, 16, 16])

    """

    inputs_name = "input_tensor"

    def __init__(
        self,
        input_size: tuple[int, int],
        input_dim: int,
        hidden_dim: int | list[int],
        kernel_size: Kernel | list[Kernel],
        num_layers: int,
        dtype: Any,
        batch_first: bool = False,
        bias: bool = True,
        return_all_layers: bool = False,
    ) -> None:
        kind = type(self).__name__
        check_kernel_size(kind, kernel_size)
        (num_layers,) = check_positive(kind, num_layers=num_layers)
        given = input_dim, hidden_dim, kernel_size, num_layers
        sizes = layer_sizes(kind, *given, name="hidden_dim")
        cells = [ConvGRUCell(input_size, *size, bias, dtype) for size in sizes]
        super().__init__(cells, batch_first, return_all_layers, "none")
        self.height, self.width = input_size
        self.input_dim = sizes[0][0]
        self.hidden_dim = [features for _, features, _ in sizes]
        self.kernel_size = [kernel for *_, kernel in sizes]
        self.dtype = dtype
        self.num_layers = num_layers
        self.bias = bias

    def forward(
        self,
        input_tensor: Tensor,
        hidden_state: Sequence[Tensor | Sequence[Tensor]] | None = None,
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Run the layers.

        Args:
            input_tensor: `[T, B, C, H, W]`, or `[B, T, C, H, W]` with `batch_first`.
            hidden_state: h or [h] for every layer, or None for 0.

        Returns:
            The outputs `[B, T, F, H, W]` of every layer, and their last states [h];
            without `return_all_layers`, those of the last layer alone.

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_gru`.

        """
        if isinstance(hidden_state, (list, tuple)):
            hidden_state = [
                one[0] if isinstance(one, (list, tuple)) and len(one) == 1 else one
                for one in hidden_state
            ]
        return published_results(self, *self._run(input_tensor, hidden_state))

    def _call_cell(self, cell: Any, input: Tensor | None, state: Any) -> Any:
        return cell(input_tensor=input, h_cur=state)

    def _state_of(self, cell: Any, inputs: Tensor | None, state: Any) -> Any:
        if state is not None or inputs is None:
            return state
        size = tuple(inputs.shape[3:])
        if size == (self.height, self.width) and hasattr(cell, "init_hidden"):
            return cell.init_hidden(inputs.shape[1])
        return super()._state_of(cell, inputs, state)
