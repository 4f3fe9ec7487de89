"""ConvGRU as a module of one step, and the sequence of its weights."""

# Unions in inner functions stay unevaluated: torch 2.9 cannot compile them.
from __future__ import annotations

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
    Pair,
    Setting,
    both,
    convolution,
)
from trajgru_ext.nn._recurrent import (
    as_integer,
    check_input_channels,
    check_positive,
    check_zoneout,
    last_state,
    zoneout_mask,
)
from trajgru_ext.ops import conv_gru, gru_gates, gru_output, gru_reset
from trajgru_ext.ops._options import (
    ACTIVATIONS,
    RESETS,
    UPDATES,
    GruOptions,
    check_choice,
    check_slope,
)


class ConvGRUCell(Cell):
    """One step of a ConvGRU, for streams; see `conv_gru` for the formula.

    The parameters are, each with `.weight` and `.bias`: for reset="after" `i2h`
    `[3F, C, k, k]` (not without inputs) and `h2h` `[3F, F, k, k]`; for reset="before"
    `conv_gates` `[2F, C + F, k, k]` of reset and update gate and `conv_can`
    `[F, C + F, k, k]` of the candidate, over the input and then the state.

    Args:
        input_channels: C of the inputs; 0 for a cell that has none.
        hidden_channels: F of the state.
        kernel_size: odd, one number or (height, width).
        input_kernel_size: of `i2h`, where it is another than that of `h2h`, for
            reset="after"; `i2h` is then not dilated, as in HKO-7.
        dilation: of the convolutions, one number or (height, width).
        bias: whether the convolutions have biases.
        reset: whether the reset gate comes "after" or "before" the convolution of the
            state.
        order: the slices' order in the weights, a permutation of "run", or for
            reset="before" of "ru", the order in `conv_gates`.
        activation: "tanh", "relu" or "leaky_relu", of the candidate.
        negative_slope: of "leaky_relu".
        update: what the update gate multiplies: "keep" the old state, "replace" the
            candidate.
        zoneout: the probability that an element of the state keeps its old value in a
            step while training; without effect in evaluation.
        device: of the parameters.
        dtype: of the parameters.

    Source: reset after the convolution: HKO-7 (Shi et al. 2017, arXiv 1706.03458);
    before: Ballas et al. 2015 (arXiv 1511.06432).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import ConvGRUCell
        >>> cell, h = ConvGRUCell(3, 8, reset="before"), None
        >>> for frame in torch.randn(4, 2, 3, 16, 16):
        ...     h = cell(frame, h)
        >>> h.shape
        torch.Size([2, 8, 16, 16])

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        kernel_size: Pair = 3,
        *,
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
        super().__init__()
        kind = type(self).__name__
        input_channels = check_input_channels(kind, input_channels)
        (hidden_channels,) = check_positive(kind, hidden_channels=hidden_channels)
        check_choice(kind, "reset", reset, RESETS)
        check_choice(kind, "activation", activation, ACTIVATIONS)
        check_choice(kind, "update", update, UPDATES)
        check_slope(kind, negative_slope)
        check_zoneout(kind, zoneout)
        usual = "run" if reset == "after" else "ru"
        order = usual if order is None else order
        if not isinstance(order, str) or sorted(order) != sorted(usual):
            raise ValueError(
                f"{kind}: order must be a permutation of {usual!r} for reset="
                f"{reset!r}, got {order!r}"
            )
        if reset == "before" and input_kernel_size is not None:
            raise ValueError(
                f"{kind}: input_kernel_size must be None for reset='before', which has "
                f"no convolution of the inputs alone, got {input_kernel_size!r}"
            )
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.reset = reset
        self.order = order
        self.activation = activation
        self.negative_slope = negative_slope
        self.update = update
        self.zoneout = zoneout
        self.dilation = both(kind, "dilation", dilation)
        self.input_dilation = self.dilation if input_kernel_size is None else (1, 1)
        setting = Setting(kernel_size, dilation, bias, device, dtype)
        features, channels = hidden_channels, input_channels + hidden_channels
        if reset == "after":
            if input_channels > 0:
                self.i2h = self._of_inputs(kind, setting, input_kernel_size)
            self.h2h = convolution(kind, setting, features, 3 * features)
        else:
            self.conv_gates = convolution(kind, setting, channels, 2 * features)
            self.conv_can = convolution(kind, setting, channels, features)
        self._remember()

    def _of_inputs(
        self, kind: str, setting: Setting, kernel_size: Pair | None
    ) -> nn.Conv2d:
        sizes = self.input_channels, 3 * self.hidden_channels
        if kernel_size is None:
            return convolution(kind, setting, *sizes)
        setting = setting._replace(kernel_size=kernel_size, dilation=1)
        return convolution(kind, setting, *sizes, "input_kernel_size")

    def _options(self) -> str:
        return (
            f"{self.input_channels}, {self.hidden_channels}, reset={self.reset!r}, "
            f"order={self.order!r}, activation={self.activation!r}, "
            f"update={self.update!r}, zoneout={self.zoneout}"
        )

    def forward(self, input: Tensor | None = None, h: Tensor | None = None) -> Tensor:
        """Take one step.

        Args:
            input: `[B, C, H, W]`; or None, and its terms vanish.
            h: the state `[B, F, H, W]`; None is 0. One of the two must be given.

        Returns:
            The new state, kept for the backward pass: clone it to change it in place.

        Raises:
            TypeError, ValueError: as `conv_gru`.

        """
        if (after := self._plain_step_or_none(input, h)) is not None:
            return after
        inputs = self._one_step(input)
        return self._sequence("input", inputs, h, steps=1)[0][0]

    def _plain_step_or_none(
        self, input: Tensor | None, h: Tensor | None
    ) -> Tensor | None:
        """Take a step of plain arguments, where they are; a state of None is 0."""
        if not self._is_plain(input, h):
            return None
        zoneout, h = self.zoneout if self.training else 0, self._complete(input, h)
        mask = zoneout_mask(zoneout, None, h, self.hidden_channels, 1)
        return self._plain_step(input, h, None if mask is None else mask[0])

    def sequence(
        self,
        inputs: Tensor | None,
        h: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
        recompute: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """Run over `[T, B, C, H, W]`: the states after every step, and the last.

        The other arguments are those of `conv_gru`.
        """
        input = self._only_step(inputs, lengths, steps, recompute)
        if input is not None:
            after = self._plain_step_or_none(input, h)
            if after is not None:
                return after[None], after.clone()
        return self._sequence("inputs", inputs, h, lengths, steps, recompute)

    def _sequence(
        self,
        name: str,
        inputs: Tensor | None,
        h: Tensor | None,
        lengths: Tensor | Sequence[int] | None = None,
        steps: int | None = None,
        recompute: str = "none",
    ) -> tuple[Tensor, Tensor]:
        steps = as_integer(steps)
        by_modules = self._change() is not None
        self._check_inputs(name, inputs, by_modules)
        zoneout = self.zoneout if self.training else 0
        mask = zoneout_mask(zoneout, inputs, h, self.hidden_channels, steps)
        if by_modules:
            return self._call_modules(inputs, h, mask, lengths, steps)
        outputs = conv_gru(
            inputs,
            h,
            **self._weights(),
            reset=self.reset,
            activation=self.activation,
            negative_slope=self.negative_slope,
            update=self.update,
            x_dilation=self.input_dilation,
            h_dilation=self.dilation,
            zoneout_mask=mask,
            lengths=lengths,
            steps=steps,
            recompute=recompute,
        )
        return outputs, last_state(outputs, h)

    def _call_modules(
        self,
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        lengths: Tensor | Sequence[int] | None,
        steps: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Run over a sequence by calling the convolutions as they are."""

        def one(t: int, input: Tensor | None, h: Tensor) -> Tensor:
            return self._step(input, h, None if mask is None else mask[t])

        refuse_tracing(type(self).__name__, inputs, h)
        h = self._complete(inputs, h)
        return run_steps(type(self).__name__, one, inputs, h, lengths, steps)

    def _step(self, input: Tensor | None, h: Tensor, mask: Tensor | None) -> Tensor:
        """Take a step by the convolutions as they are."""
        plain = self._is_plain(input, h)
        return (self._plain_step if plain else self._step_by_calls)(input, h, mask)

    def _step_by_calls(
        self, input: Tensor | None, h: Tensor, mask: Tensor | None
    ) -> Tensor:
        step = self._step_after if self.reset == "after" else self._step_before
        return step(input, h, mask)

    def _plain_step(
        self, input: Tensor | None, h: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Take a step of plain arguments: one call where the convolutions are plain."""
        features, channels = self.hidden_channels, self.input_channels
        both = channels + features
        sizes: dict[str, tuple[int, int]] = (
            {"i2h": (channels, 3 * features), "h2h": (features, 3 * features)}
            if self.reset == "after"
            else {"conv_gates": (both, 2 * features), "conv_can": (both, features)}
        )
        given = [self._plain_convolution(name, *size) for name, size in sizes.items()]
        if (
            given[1] is None
            or (given[0] is None and channels > 0)
            or (input is None and channels > 0 and self.reset == "before")
        ):
            return self._step_by_calls(input, h, mask)
        order = self.order if self.reset == "after" else self.order + "n"
        choices = order, self.activation, self.negative_slope, self.update, self.reset
        options = GruOptions.choose("gru_gates", *choices).numbers()
        step: Any = _C.gru_cell_after if self.reset == "after" else _C.gru_cell_before
        new: Tensor = step(input, h, *given, options, mask)
        return new

    def _step_after(
        self, input: Tensor | None, h: Tensor, mask: Tensor | None
    ) -> Tensor:
        x_gates, channels = None, 3 * self.hidden_channels
        if input is not None:
            x_gates = call(self, "i2h", input, channels)
        h_gates = call(self, "h2h", h, channels)
        h = wide_enough(h, *(g for g in (x_gates, h_gates) if g is not None))
        options = self.activation, self.negative_slope, self.update, mask
        return gru_gates(x_gates, h_gates, h, self.order, *options)

    def _step_before(
        self, input: Tensor | None, h: Tensor, mask: Tensor | None
    ) -> Tensor:
        channels = self.hidden_channels
        gates = call(self, "conv_gates", self._joined(input, h), 2 * channels)
        h = wide_enough(h, gates)
        u, left = gru_reset(gates, None, h, self.order)
        candidate = call(self, "conv_can", self._joined(input, left), channels)
        u, h = wide_enough(u, candidate), wide_enough(h, candidate)
        options = self.activation, self.negative_slope, self.update, mask
        return gru_output(u, candidate, h, *options)

    def _complete(self, inputs: Tensor | None, h: Tensor | None) -> Tensor:
        """The state, 0 where it is None."""
        kind = type(self).__name__
        return zero_if_none(kind, self.hidden_channels, h, inputs)

    def _weights(self) -> dict[str, Any]:
        if self.reset == "after":
            of_inputs = self.input_channels > 0
            return {
                "x_weight": self.i2h.weight if of_inputs else None,
                "x_bias": self.i2h.bias if of_inputs else None,
                "h_weight": self.h2h.weight,
                "h_bias": self.h2h.bias,
                "order": self.order,
            }
        # Two convolutions of everything that is read before the reset become one.
        gates, can = self.conv_gates, self.conv_can
        weight = torch.cat([gates.weight, can.weight])
        bias = None
        if gates.bias is not None and can.bias is not None:
            bias = torch.cat([gates.bias, can.bias])
        return {
            "x_weight": weight[:, : self.input_channels],
            "h_weight": weight[:, self.input_channels :],
            "h_bias": bias,
            "order": self.order + "n",
        }
