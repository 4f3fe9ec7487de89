"""ConvLSTM as modules: one step, and whole sequences in several layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext import _C
from trajgru_ext.nn._by_modules import (
    call,
    refuse_tracing,
    run_steps,
    wide_enough,
    zero_if_none,
)
from trajgru_ext.nn._conv_rnn import (
    Cell,
    Layers,
    Pair,
    Setting,
    both,
    convolution,
    layer_sizes,
)
from trajgru_ext.nn._plain_steps import own_or_attribute
from trajgru_ext.nn._recurrent import (
    as_integer,
    both_states,
    check_input_channels,
    check_positive,
    last_state,
)
from trajgru_ext.ops import conv_lstm, lstm_gates
from trajgru_ext.ops._arguments import check_number
from trajgru_ext.ops._options import LstmOptions, gate_order

State = tuple[Tensor, Tensor]
PEEPHOLES = (None, "channel", "element")


class ConvLSTMCell(Cell):
    """One step of a ConvLSTM, for streams; see `conv_lstm` for the formula.

    The parameters are `conv.weight` `[4F, C + F, k, k]`, over the input and then the
    state, `conv.bias`, and for peepholes `Wci`, `Wcf`, `Wco`.

    Args:
        input_channels: C of the inputs; 0 for a cell that has none.
        hidden_channels: F of the states.
        kernel_size: odd, one number or (height, width).
        dilation: of the convolution, likewise.
        bias: whether the convolution has a bias.
        peephole: None, "channel" for weights `[1, F, 1, 1]` or "element" for
            `[1, F, H, W]`; they begin at zero.
        image_size: (H, W), for peepholes per element.
        order: the slices' order in the weight, a permutation of "ifog".
        forget_bias: added in the forget gate.
        device: of the parameters.
        dtype: of the parameters.

    Source: Shi et al. 2015 (arXiv 1506.04214).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import ConvLSTMCell
        >>> cell, state = ConvLSTMCell(3, 8, peephole="channel"), None
        >>> for frame in torch.randn(4, 2, 3, 16, 16):
        ...     state = cell(frame, state)
        >>> h, c = state

    """

    Wci: Tensor | None
    Wcf: Tensor | None
    Wco: Tensor | None

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: Pair = 3,
        *,
        dilation: Pair = 1,
        bias: bool = True,
        peephole: str | None = None,
        image_size: tuple[int, int] | None = None,
        order: str = "ifog",
        forget_bias: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        input_channels = check_input_channels(kind, input_channels)
        (hidden_channels,) = check_positive(kind, hidden_channels=hidden_channels)
        if peephole not in PEEPHOLES:
            raise ValueError(
                f"{kind}: peephole must be None, 'channel' or 'element', got "
                f"{peephole!r}"
            )
        if (peephole == "element") != (image_size is not None):
            raise ValueError(
                f"{kind}: image_size must be given for peephole='element' alone, got "
                f"{image_size} for {peephole!r}"
            )
        gate_order(kind, order, "ifog", "ifgo")
        check_number(kind, "forget_bias", forget_bias)
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.peephole = peephole
        self.order = order
        self.forget_bias = forget_bias
        setting = Setting(kernel_size, dilation, bias, device, dtype)
        channels = input_channels + hidden_channels
        self.conv = convolution(kind, setting, channels, 4 * hidden_channels)
        size = (1, 1) if image_size is None else both(kind, "image_size", image_size)
        for name in ("Wci", "Wcf", "Wco"):
            weight = None
            if peephole is not None:
                zeros = torch.zeros(
                    (1, hidden_channels, *size), device=device, dtype=dtype
                )
                weight = nn.Parameter(zeros)
            self.register_parameter(name, weight)
        self._remember()

    def _options(self) -> str:
        return (
            f"{self.input_channels}, {self.hidden_channels}, "
            f"peephole={self.peephole!r}, order={self.order!r}"
        )

    def forward(self, input: Tensor | None = None, state: State | None = None) -> State:
        """Take one step.

        Args:
            input: `[B, C, H, W]`; None is 0.
            state: (h, c), both `[B, F, H, W]`; None is 0. One of the two must be given.

        Returns:
            The new (h, c), of which h is kept for the backward pass: clone it to change
            it in place.

        Raises:
            TypeError, ValueError: as `conv_lstm`.

        """
        h, c = (
            state
            if type(state) is tuple and len(state) == 2
            else (self._both_states(state))
        )
        if (after := self._plain_step_or_none(input, h, c)) is not None:
            return after
        inputs = self._one_step(input)
        outputs, (_, c) = self._sequence("input", inputs, state, steps=1)
        return outputs[0], c

    def _plain_step_or_none(
        self, input: Tensor | None, h: Tensor | None, c: Tensor | None
    ) -> State | None:
        """Take a step of plain arguments, where they are; states may be None, for 0."""
        if not self._is_plain(input, h, c):
            return None
        if h is None or c is None:
            h, c = self._complete(input, (h, c))
        if (
            self.peephole != "element"
            or self.Wci is None
            or self.Wci.shape[1:] == c.shape[1:]
        ):
            return self._plain_step(input, h, c)
        return None

    def sequence(
        self,
        inputs: Tensor | None,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
        recompute: str = "none",
    ) -> tuple[Tensor, State]:
        """Run over `[T, B, C, H, W]`: the states h after every step, the last (h, c).

        The other arguments are those of `conv_lstm`.
        """
        input = self._only_step(inputs, lengths, steps, recompute)
        if input is not None:
            after = self._plain_step_or_none(input, *self._both_states(state))
            if after is not None:
                h, c = after
                return h[None], (h.clone(), c)
        return self._sequence("inputs", inputs, state, lengths, steps, recompute)

    def _sequence(
        self,
        name: str,
        inputs: Tensor | None,
        state: State | None,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
        recompute: str = "none",
    ) -> tuple[Tensor, State]:
        h, c = self._both_states(state)
        by_modules = self._change() is not None
        self._check_inputs(name, inputs, by_modules)
        if by_modules:
            kind = type(self).__name__
            refuse_tracing(kind, inputs, h, c)
            whole = self._complete(inputs, state)
            return run_steps(kind, self._step, inputs, whole, lengths, steps)
        weight, bias = self.conv.weight, self.conv.bias
        channels = self.input_channels
        outputs, last = conv_lstm(
            inputs,
            h,
            c,
            weight[:, :channels],
            weight[:, channels:],
            h_bias=bias,
            peephole=self._peephole(),
            order=self.order,
            forget_bias=self.forget_bias,
            x_dilation=self.conv.dilation,
            h_dilation=self.conv.dilation,
            lengths=lengths,
            steps=as_integer(steps),
            recompute=recompute,
        )
        return outputs, (last_state(outputs, h), last)

    def _step(self, _: int, input: Tensor | None, state: State) -> State:
        """Take a step by the convolution as it is."""
        plain = self._is_plain(input, *state)
        return (self._plain_step if plain else self._step_by_calls)(input, *state)

    def _step_by_calls(self, input: Tensor | None, h: Tensor, c: Tensor) -> State:
        gates = call(self, "conv", self._joined(input, h), 4 * self.hidden_channels)
        c, peephole = wide_enough(c, gates), self._peephole()
        return lstm_gates(gates, None, c, peephole, self.order, self.forget_bias)

    def _plain_step(self, input: Tensor | None, h: Tensor, c: Tensor) -> State:
        """Take a step of plain arguments: one call where the convolution is plain."""
        features = self.hidden_channels
        sizes = self.input_channels + features, 4 * features
        conv = self._plain_convolution("conv", *sizes)
        if conv is None or (input is None and self.input_channels > 0):
            return self._step_by_calls(input, h, c)
        options = LstmOptions.choose("lstm_gates", self.order, self.forget_bias)
        weights = self._peephole() or (None, None, None)
        new_h, new_c = _C.lstm_cell(input, h, c, conv, weights, options.numbers())
        return new_h, new_c

    def _peephole(self) -> tuple[Tensor, Tensor, Tensor] | None:
        if own_or_attribute(self, "Wci") is None:
            return None
        w_ci, w_cf, w_co = self.Wci, self.Wcf, self.Wco
        if w_ci is None or w_cf is None or w_co is None:
            return None
        return w_ci, w_cf, w_co

    def _both_states(self, state: Any) -> tuple[Tensor | None, Tensor | None]:
        h, c = both_states(type(self).__name__, state)
        return h, c

    def _complete(self, inputs: Tensor | None, state: Any) -> State:
        """The states, 0 where they are None."""
        h, c = self._both_states(state)
        sizes = type(self).__name__, self.hidden_channels
        return zero_if_none(*sizes, h, inputs, c), zero_if_none(*sizes, c, inputs, h)


class ConvLSTM(Layers):
    """Layers of a ConvLSTM over whole sequences, one call of `conv_lstm` each.

    The parameters are those of `ConvLSTMCell`, in `cell_list.0`, `cell_list.1` and so
    on. For both directions of time, run a second module on `inputs.flip(0)` and
    concatenate its `outputs.flip(0)`; with `lengths`, reverse each sample within its
    own length instead, so that what is padded stays at the end.

    Args:
        input_channels: C of the inputs; 0 for a first layer that has none, as that of a
            forecaster.
        hidden_channels: F of the states, for all layers or a list.
        kernel_size: odd, one number or (height, width), for all layers or a list.
        num_layers: how many there are, each reading the states of the one below.
        batch_first: whether sequences are `[B, T, ...]` instead of `[T, B, ...]`.
        return_all_layers: whether the outputs of all layers are returned, in a list.
        recompute: what the backward pass computes again to save memory: "none" or
            "gates"; see `conv_lstm`.
        dilation: of the convolutions, one number or (height, width).
        bias: whether the convolutions have biases.
        peephole: None, "channel" for weights `[1, F, 1, 1]` or "element" for
            `[1, F, H, W]`; they begin at zero.
        image_size: (H, W), for peepholes per element.
        order: the slices' order in the weights, a permutation of "ifog".
        forget_bias: added in the forget gate.
        device: of the parameters.
        dtype: of the parameters.

    Source: Shi et al. 2015 (arXiv 1506.04214).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import ConvLSTM
        >>> layers = ConvLSTM(3, [16, 8], num_layers=2)
        >>> outputs, states = layers(torch.randn(5, 2, 3, 16, 16))
        >>> ahead, states = layers(None, states, steps=10)
        >>> outputs.shape, ahead.shape
        (torch.Size([5, 2, 8, 16, 16]), torch.Size([10, 2, 8, 16, 16]))

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
        dilation: Pair = 1,
        bias: bool = True,
        peephole: str | None = None,
        image_size: tuple[int, int] | None = None,
        order: str = "ifog",
        forget_bias: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        kind = type(self).__name__
        (num_layers,) = check_positive(kind, num_layers=num_layers)
        given = input_channels, hidden_channels, kernel_size, num_layers
        sizes = layer_sizes(kind, *given)
        options: dict[str, Any] = {
            "dilation": dilation,
            "bias": bias,
            "peephole": peephole,
            "image_size": image_size,
            "order": order,
            "forget_bias": forget_bias,
            "device": device,
            "dtype": dtype,
        }
        cells = [ConvLSTMCell(*size, **options) for size in sizes]
        super().__init__(cells, batch_first, return_all_layers, recompute)

    def forward(
        self,
        inputs: Tensor | None = None,
        states: Sequence[State | None] | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
    ) -> tuple[Tensor | list[Tensor], list[State]]:
        """Run the layers.

        Args:
            inputs: `[T, B, C, H, W]`, of any size; None is 0.
            states: (h, c) for every layer, both `[B, F, H, W]`, or None for 0.
            lengths: how many steps each sample has, `[B]`; past them its states stay as
                they are, and what the inputs hold there does not matter.
            steps: T, needed without inputs.

        Returns:
            The last layer's states h after every step, `[T, B, F, H, W]`, or a list of
            them for all layers, and the last (h, c) of every layer, to go on from. The
            outputs are kept for the backward pass: clone them to change them in place.

        Raises:
            TypeError, ValueError: as `conv_lstm`.

        """
        return self._layers(inputs, states, lengths, steps)
