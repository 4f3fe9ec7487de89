"""ConvGRU as a module: whole sequences in several layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.nn._conv_rnn import (
    Layers,
    Pair,
    layer_sizes,
)
from trajgru_ext.nn._recurrent import (
    check_positive,
)
from trajgru_ext.nn.conv_gru_cell import ConvGRUCell


class ConvGRU(Layers):
    """Layers of a ConvGRU over whole sequences, one call of `conv_gru` each.

    The parameters are those of `ConvGRUCell`, in `cell_list.0`, `cell_list.1` and so
    on. For both directions of time, run a second module on `inputs.flip(0)` and
    concatenate its `outputs.flip(0)`; with `lengths`, reverse each sample within its
    own length instead, so that what is padded stays at the end.

    Args:
        input_channels: C of the inputs; 0 for a first layer that has none, as that of a
            forecaster.
        hidden_channels: F of the state, for all layers or a list.
        kernel_size: odd, one number or (height, width), for all layers or a list.
        num_layers: how many there are, each reading the states of the one below.
        batch_first: whether sequences are `[B, T, ...]` instead of `[T, B, ...]`.
        return_all_layers: whether the outputs of all layers are returned, in a list.
        recompute: what the backward pass computes again to save memory: "none" or
            "gates"; see `conv_gru`.
        input_kernel_size: of the inputs' convolutions, where it is another, for
            reset="after"; these are then not dilated, as in HKO-7.
        dilation: of the convolutions, one number or (height, width).
        bias: whether the convolutions have biases.
        reset: whether the reset gate comes "after" or "before" the convolution of the
            state.
        order: the slices' order in the weights, a permutation of "run", or for
            reset="before" of "ru".
        activation: "tanh", "relu" or "leaky_relu", of the candidate.
        negative_slope: of "leaky_relu".
        update: what the update gate multiplies: "keep" the old state, "replace" the
            candidate.
        zoneout: the probability that an element of a state keeps its old value in a
            step while training; without effect in evaluation.
        device: of the parameters.
        dtype: of the parameters.

    Source: as of `ConvGRUCell`.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import ConvGRU
        >>> layers = ConvGRU(3, [16, 8], num_layers=2, batch_first=True)
        >>> outputs, states = layers(torch.randn(2, 5, 3, 16, 16), lengths=[5, 3])
        >>> outputs.shape, [h.shape[1] for h in states]
        (torch.Size([2, 5, 8, 16, 16]), [16, 8])

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int | list[int],
        kernel_size: Pair | list[Pair] = 3,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        return_all_layers: bool = False,
        recompute: str = "none",
        input_kernel_size: Pair | None = None,
        dilation: Pair = 1,
        bias: bool = True,
        reset: str = "after",
        order: str | None = None,
        activation: str = "tanh",
        negative_slope: float = 0.2,
        update: str = "keep",
        zoneout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kind = type(self).__name__
        (num_layers,) = check_positive(kind, num_layers=num_layers)
        given = input_channels, hidden_channels, kernel_size, num_layers
        sizes = layer_sizes(kind, *given)
        options: dict[str, Any] = {
            "input_kernel_size": input_kernel_size,
            "dilation": dilation,
            "bias": bias,
            "reset": reset,
            "order": order,
            "activation": activation,
            "negative_slope": negative_slope,
            "update": update,
            "zoneout": zoneout,
            "device": device,
            "dtype": dtype,
        }
        cells = [ConvGRUCell(*size, **options) for size in sizes]
        super().__init__(cells, batch_first, return_all_layers, recompute)

    def forward(
        self,
        inputs: Tensor | None = None,
        states: Sequence[Tensor | None] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
    ) -> tuple[Tensor | list[Tensor], list[Tensor]]:
        """Run the layers.

        Args:
            inputs: `[T, B, C, H, W]`, of any size; or None.
            states: `[B, F, H, W]` for every layer, or None for 0.
            lengths: how many steps each sample has, `[B]`; past them its states stay as
                they are, and what the inputs hold there does not matter.
            steps: T, needed without inputs.

        Returns:
            The last layer's states after every step, `[T, B, F, H, W]`, or a list of
            them for all layers, and the last state of every layer, to go on from. The
            outputs are kept for the backward pass: clone them to change them in place.

        Raises:
            TypeError, ValueError: as `conv_gru`.

        """
        return self._layers(inputs, states, lengths, steps)
