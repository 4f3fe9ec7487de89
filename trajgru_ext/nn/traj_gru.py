"""TrajGRU as modules: one step, and whole sequences."""

from typing import Any

import torch
from torch import Tensor

from trajgru_ext import _C
from trajgru_ext.nn._plain_steps import PlainSteps
from trajgru_ext.nn._recurrent import (
    exchanged,
    given_only,
    last_state,
    zoneout_mask,
)
from trajgru_ext.nn._traj_gru import TrajGRUModules
from trajgru_ext.ops._options import GruOptions, check_choice
from trajgru_ext.ops._overrides import leaf
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE


class TrajGRU(TrajGRUModules):
    """A recurrent layer whose state moves along flows that it learns.

    One call of `traj_gru`, which states the formula, over a sequence. The parameters
    are those of the modules `i2h`, `i2f_conv1`, `h2f_conv1`, `flows_conv` and `ret`,
    named as in the published implementation.

    Args:
        input_channels: C of the inputs; 0 for a layer that has none, as the first of a
            forecaster, which then has no `i2h` and `i2f_conv1` either.
        hidden_channels: F of the state.
        links: L, how many flows the state is read along.
        kernel_size: of `i2h`, odd.
        flow_kernel_size: of the three convolutions that make flows, odd.
        flow_channels: of the layer before the flows.
        activation: "leaky_relu", "relu" or "tanh", of the candidate and of the layer
            before the flows.
        negative_slope: of "leaky_relu".
        zoneout: the probability that an element of the state keeps its old value in a
            step while training; without effect in evaluation.
        zero_flows: whether the flows begin at zero, as HKO-7 has it.
        bias: whether the convolutions have biases.
        batch_first: whether sequences are `[B, T, ...]` instead of `[T, B, ...]`.
        recompute: what the backward pass computes again to save memory: "none",
            "gates", or "flows" (all but the states); see `traj_gru`.
        device: of the parameters.
        dtype: of the parameters.

    Source: Shi et al. 2017 (arXiv 1706.03458); HKO-7.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import TrajGRU
        >>> encoder, forecaster = TrajGRU(3, 8, links=5), TrajGRU(0, 8, links=5)
        >>> outputs, last = encoder(torch.randn(5, 2, 3, 16, 16))
        >>> ahead, last, flows = forecaster(h=last, steps=10, return_flows=True)
        >>> ahead.shape, flows.shape
        (torch.Size([10, 2, 8, 16, 16]), torch.Size([10, 2, 10, 16, 16]))

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        links: int = 13,
        *,
        batch_first: bool = False,
        recompute: str = "none",
        kernel_size: int = 3,
        flow_kernel_size: int = 5,
        flow_channels: int = 32,
        activation: str = "leaky_relu",
        negative_slope: float = 0.2,
        zoneout: float = 0.0,
        zero_flows: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_channels,
            hidden_channels,
            links,
            kernel_size=kernel_size,
            flow_kernel_size=flow_kernel_size,
            flow_channels=flow_channels,
            activation=activation,
            negative_slope=negative_slope,
            zoneout=zoneout,
            zero_flows=zero_flows,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        check_choice(type(self).__name__, "recompute", recompute, RECOMPUTE)
        self.batch_first = batch_first
        self.recompute = recompute

    def forward(
        self,
        inputs: Tensor | None = None,
        h: Tensor | None = None,
        steps: int | None = None,
        return_flows: bool = False,
    ) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            inputs: `[T, B, C, H, W]`, or None.
            h: the state to begin with, `[B, F, H, W]`; None is 0.
            steps: T, needed without inputs.
            return_flows: whether to return the flows too.

        Returns:
            The states after every step `[T, B, F, H, W]`, the last `[B, F, H, W]`
            (where T = 0 that before it), to go on from; and with `return_flows` the
            flows `[T, B, 2L, H, W]`, U and V of link l in channels 2l and 2l + 1, in
            pixels: the state moves along them. States and flows are kept for the
            backward pass: clone them to change them in place.

        Raises:
            TypeError, ValueError: as `traj_gru`.

        """
        letters = "[B, T, C, H, W]" if self.batch_first else "[T, B, C, H, W]"
        by_modules = self._by_modules("inputs", inputs, letters)
        if self.batch_first:
            inputs = exchanged(inputs)
        outputs, flows = self._run(
            inputs, h, steps, self.recompute, return_flows, by_modules
        )
        last = last_state(outputs, h)
        if self.batch_first:
            outputs = outputs.transpose(0, 1)
            flows = exchanged(flows)
        return given_only(outputs, last, flows)


@leaf
def _of_the_step(
    outputs: Tensor, flows: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """The results of a sequence of one step."""
    return outputs[0] if flows is None else (outputs[0], flows[0])


class TrajGRUCell(PlainSteps, TrajGRUModules):
    """One step of a `TrajGRU`, with the same parameters, for streams.

    See `traj_gru` for the formula. The parameters are those of the modules `i2h`,
    `i2f_conv1`, `h2f_conv1`, `flows_conv` and `ret`, so that a layer's checkpoint fits.

    Args:
        input_channels: C of the inputs; 0 for a cell that has none, which then has no
            `i2h` and `i2f_conv1` either.
        hidden_channels: F of the state.
        links: L, how many flows the state is read along.
        kernel_size: of `i2h`, odd.
        flow_kernel_size: of the three convolutions that make flows, odd.
        flow_channels: of the layer before the flows.
        activation: "leaky_relu", "relu" or "tanh", of the candidate and of the layer
            before the flows.
        negative_slope: of "leaky_relu".
        zoneout: the probability that an element of the state keeps its old value in a
            step while training; without effect in evaluation.
        zero_flows: whether the flows begin at zero, as HKO-7 has it.
        bias: whether the convolutions have biases.
        device: of the parameters.
        dtype: of the parameters.

    Source: Shi et al. 2017 (arXiv 1706.03458); HKO-7.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import TrajGRUCell
        >>> cell, h = TrajGRUCell(3, 8, links=5), None
        >>> for frame in torch.randn(4, 2, 3, 16, 16):
        ...     h = cell(frame, h)
        >>> h, flows = cell(frame, h, return_flows=True)

    """

    def forward(
        self,
        input: Tensor | None = None,
        h: Tensor | None = None,
        return_flows: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Take one step.

        Args:
            input: `[B, C, H, W]`, or None.
            h: the state `[B, F, H, W]`; None is 0. One of the two must be given.
            return_flows: whether to return the flows too.

        Returns:
            The new state `[B, F, H, W]`; with `return_flows` also the flows
            `[B, 2L, H, W]`. Both are kept for the backward pass: clone them to change
            them in place.

        Raises:
            TypeError, ValueError: as `traj_gru`.

        """
        if h is not None and self._is_plain(input, h) and not return_flows:
            new = self._plain_step(input, h)
            if new is not None:
                return new
        by_modules = self._by_modules("input", input, "[B, C, H, W]")
        inputs = None if input is None else input[None]
        outputs, flows = self._run(inputs, h, 1, "none", return_flows, by_modules)
        return _of_the_step(outputs, flows)

    def _plain_step(self, input: Tensor | None, h: Tensor) -> Tensor | None:
        """Take a step of plain arguments, where the convolutions are plain, too.

        Not of half types, whose flows are computed in a wider one, nor where PyTorch's
        convolutions round float32 to TF32, which flows are not to be.
        """
        if h.dtype not in (torch.float32, torch.float64) or self.negative_slope < 0:
            return None
        if h.device.type != "cpu" and torch.backends.cudnn.allow_tf32:
            return None
        features, channels = self.hidden_channels, self.input_channels
        conv, gates = self._plain_convolution, 3 * self.hidden_channels
        of_state = conv("h2f_conv1", features, None)
        if of_state is None:
            return None
        hidden = of_state[0].shape[0]
        given = [conv("flows_conv", hidden, 2 * self.links)]
        given += [conv("ret", self.links * features, gates)]
        of_input = [None, None]
        if input is not None:
            of_input = [conv("i2h", channels, gates)]
            of_input += [conv("i2f_conv1", channels, hidden)]
            given += of_input
        if None in given or given[1][0].shape[2:] != (1, 1):
            return None
        if self._of_flows(input, h) is not None:
            return None
        zoneout = self.zoneout if self.training else 0
        mask = zoneout_mask(zoneout, None, h, features, 1)
        options = GruOptions.choose(
            "traj_gru",
            activation=self.activation,
            negative_slope=self.negative_slope,
        )
        numbers, kept = options.numbers(), None if mask is None else mask[0]
        convs = (*of_input, of_state, *given[:2])
        step: Any = _C.traj_gru_cell
        new: Tensor = step(input, h, *convs, numbers, kept)
        return new
