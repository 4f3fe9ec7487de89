"""TrajGRU as modules: one step, and whole sequences."""

from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._recurrent import (
    check_input_channels,
    check_inputs,
    check_positive,
    check_zoneout,
    last_state,
    zoneout_mask,
)
from trajgru_ext.ops import traj_gru
from trajgru_ext.ops._options import ACTIVATIONS, check_choice, check_slope
from trajgru_ext.ops._traj_gru_fakes import RECOMPUTE
from trajgru_ext.ops.traj_gru import Conv


class _TrajGRU(nn.Module):
    """The parameters, and the call of the operator on them."""

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        links: int = 13,
        *,
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
        super().__init__()
        kind = type(self).__name__
        check_input_channels(kind, input_channels)
        sizes = {"hidden_channels": hidden_channels, "links": links}
        check_positive(kind, **sizes, flow_channels=flow_channels)
        kernels = {"kernel_size": kernel_size, "flow_kernel_size": flow_kernel_size}
        for name, size in kernels.items():
            if size < 1 or size % 2 == 0:
                raise ValueError(f"{kind}: {name} must be odd, got {size}")
        check_zoneout(kind, zoneout)
        check_choice(kind, "activation", activation, ACTIVATIONS)
        check_slope(kind, negative_slope)
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.links = links
        self.activation = activation
        self.negative_slope = negative_slope
        self.zoneout = zoneout
        self.zero_flows = zero_flows

        def conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
            options = {"bias": bias, "device": device, "dtype": dtype}
            return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)

        gates = 3 * hidden_channels
        if input_channels > 0:
            self.i2h = conv(input_channels, gates, kernel_size)
            self.i2f_conv1 = conv(input_channels, flow_channels, flow_kernel_size)
        self.h2f_conv1 = conv(hidden_channels, flow_channels, flow_kernel_size)
        self.flows_conv = conv(flow_channels, 2 * links, flow_kernel_size)
        self.ret = conv(links * hidden_channels, gates, 1)
        if zero_flows:
            for parameter in self.flows_conv.parameters():
                nn.init.zeros_(parameter)

    def extra_repr(self) -> str:
        return (
            f"{self.input_channels}, {self.hidden_channels}, links={self.links}, "
            f"activation={self.activation!r}, zoneout={self.zoneout}"
        )

    def _run(
        self,
        inputs: Tensor | None,
        h: Tensor | None,
        steps: int | None,
        recompute: str,
        return_flows: bool,
    ) -> tuple[Tensor, Tensor | None]:
        check_inputs(type(self).__name__, self.input_channels, inputs)
        with_inputs = inputs is not None
        zoneout = self.zoneout if self.training else 0
        mask = zoneout_mask(zoneout, inputs, h, self.hidden_channels, steps)
        flows_conv, flow_offset = self._to_flows(inputs if h is None else h)
        return traj_gru(
            inputs,
            h,
            _parameters(self.i2h) if with_inputs else None,
            _parameters(self.i2f_conv1) if with_inputs else None,
            _parameters(self.h2f_conv1),
            flows_conv,
            _parameters(self.ret),
            steps=steps,
            activation=self.activation,
            negative_slope=self.negative_slope,
            zoneout_mask=mask,
            flow_offset=flow_offset,
            recompute=recompute,
            return_flows=return_flows,
        )

    def _to_flows(self, images: Tensor | None) -> tuple[Conv, Tensor | None]:
        """The convolution that makes flows for some images, and what is added."""
        return _parameters(self.flows_conv), None


def _parameters(conv: nn.Conv2d) -> Conv:
    return conv.weight, conv.bias


class TrajGRU(_TrajGRU):
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
        device, dtype: of the parameters.

    Source: Shi et al. 2017 (arXiv 1706.03458); HKO-7.

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: int,
        links: int = 13,
        *,
        batch_first: bool = False,
        recompute: str = "none",
        **options: Any,
    ) -> None:
        super().__init__(input_channels, hidden_channels, links, **options)
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
            pixels: the state moves along them.

        Raises:
            TypeError, ValueError: as `traj_gru`.

        """
        if self.batch_first and inputs is not None:
            inputs = inputs.transpose(0, 1)
        outputs, flows = self._run(inputs, h, steps, self.recompute, return_flows)
        last = last_state(outputs, h)
        if self.batch_first:
            outputs = outputs.transpose(0, 1)
            flows = None if flows is None else flows.transpose(0, 1)
        return (outputs, last, flows) if return_flows else (outputs, last)


class TrajGRUCell(_TrajGRU):
    """One step of a `TrajGRU`, with the same options and parameters, for streams."""

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
            `[B, 2L, H, W]`.

        Raises:
            TypeError, ValueError: as `traj_gru`.

        """
        inputs = None if input is None else input[None]
        outputs, flows = self._run(inputs, h, 1, "none", return_flows)
        return (outputs[0], flows[0]) if return_flows else outputs[0]
