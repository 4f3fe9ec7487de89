"""The modules inside a TrajGRU, and its steps by their weights or by themselves."""

# Unions in inner functions stay unevaluated: torch 2.9 cannot compile them.
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trajgru_ext.nn._as_built import ByWeights
from trajgru_ext.nn._by_modules import (
    call,
    refuse_tracing,
    run_steps,
    wide_enough,
    zero_if_none,
)
from trajgru_ext.nn._recurrent import (
    any_tensor,
    as_integer,
    check_input_channels,
    check_inputs,
    check_odd,
    check_positive,
    check_zoneout,
    zoneout_mask,
)
from trajgru_ext.ops import flow_conv, flow_warp, gru_gates, traj_gru
from trajgru_ext.ops._options import ACTIVATIONS, check_choice, check_slope
from trajgru_ext.ops._sequences import Conv
from trajgru_ext.ops.traj_gru import FLOW_SCALE


class Affine(NamedTuple):
    """What is done to flows: they are scaled, channel by channel, and moved."""

    scale: Tensor  # [2L]
    offset: Tensor  # [2L, H, W]


class TrajGRUModules(ByWeights):
    """The parameters, and the call of the operator on them or of the modules."""

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
        input_channels = check_input_channels(kind, input_channels)
        hidden_channels, links, flow_channels = check_positive(
            kind,
            hidden_channels=hidden_channels,
            links=links,
            flow_channels=flow_channels,
        )
        kernel_size, flow_kernel_size = check_odd(
            kind, kernel_size=kernel_size, flow_kernel_size=flow_kernel_size
        )
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
            options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
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
        self._remember()

    def _options(self) -> str:
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
        by_modules: bool,
    ) -> tuple[Tensor, Tensor | None]:
        steps = as_integer(steps)
        zoneout = self.zoneout if self.training else 0
        mask = zoneout_mask(zoneout, inputs, h, self.hidden_channels, steps)
        if by_modules:
            outputs, every_flow = self._call_modules(inputs, h, mask, steps)
            return outputs, every_flow if return_flows else None
        with_inputs = inputs is not None
        flows_conv, flow_offset = _parameters(self.flows_conv), None
        if (affine := self._of_flows(inputs, h)) is not None:
            flows_conv, flow_offset = _then(flows_conv, affine)
        outputs, flows = traj_gru(
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
        return outputs, flows

    def _by_modules(self, name: str, inputs: Any, letters: str) -> bool:
        """Whether modules are called; raises an error for inputs that do not fit."""
        kind, channels = type(self).__name__, self.input_channels
        by_modules = self._change() is not None
        beside = self.ret.weight if not by_modules else any_tensor(self)
        check_inputs(kind, name, inputs, channels, by_modules, beside, letters)
        return by_modules

    def _of_flows(self, inputs: Tensor | None, h: Tensor | None) -> Affine | None:
        """What is done to the flows of images of their size, if anything."""
        return None

    def _call_modules(
        self,
        inputs: Tensor | None,
        h: Tensor | None,
        mask: Tensor | None,
        steps: int | None,
    ) -> tuple[Tensor, Tensor]:
        """The states and flows of a sequence, by calling the modules as they are."""
        kind = type(self).__name__
        refuse_tracing(kind, inputs, h)
        affine = self._of_flows(inputs, h)
        gates = 3 * self.hidden_channels
        # As in the published implementations, which see all frames at once here.
        of_inputs = None
        if inputs is not None and len(inputs) > 0:
            of_inputs = call(self, "i2h", inputs.flatten(0, 1), gates)
            of_inputs = torch.unflatten(of_inputs, 0, inputs.shape[:2])
        read_by_weights = self._change_in("ret") is None
        moved = h is not None
        every_flow = []

        def step(t: int, input: Tensor | None, h: Tensor) -> Tensor:
            nonlocal moved
            x_gates = None if of_inputs is None else of_inputs[t]
            hidden = self.h2f_conv1(h)
            if input is not None:
                hidden = self.i2f_conv1(input) + hidden
            flows = self._activate(hidden)
            flows = call(self, "flows_conv", flows, 2 * self.links)
            flows = wide_enough(flows, flows.new_empty(0, dtype=torch.float32))
            if affine is not None:
                flows = flows * affine.scale[:, None, None] + affine.offset
            every_flow.append(flows)
            # A state that there is not is not moved, not even along flows of NaN.
            whole = torch.ones_like(flows, dtype=torch.bool)
            along = flows if moved else flows.masked_fill(whole, 0)
            moved = True
            if read_by_weights:
                conv = self.ret
                h_gates = flow_conv(h, along, conv.weight, conv.bias, FLOW_SCALE)
            else:
                pairs = along.split_with_sizes([2] * self.links, 1)
                warped = torch.cat([flow_warp(h, uv, FLOW_SCALE) for uv in pairs], 1)
                h_gates = call(self, "ret", warped, gates)
            return gru_gates(
                x_gates,
                h_gates,
                wide_enough(h, h_gates if x_gates is None else x_gates, h_gates),
                activation=self.activation,
                negative_slope=self.negative_slope,
                zoneout_mask=None if mask is None else mask[t],
            )

        start = zero_if_none(kind, self.hidden_channels, h, inputs)
        outputs, _ = run_steps(kind, step, inputs, start, steps=steps)
        if every_flow:
            return outputs, torch.stack(every_flow)
        dtype = torch.promote_types(start.dtype, torch.float32)
        size = (0, len(start), 2 * self.links, *start.shape[2:])
        return outputs, start.new_zeros(size, dtype=dtype)

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation == "tanh":
            return hidden.tanh()
        slope = self.negative_slope if self.activation == "leaky_relu" else 0.0
        return nn.functional.leaky_relu(hidden, slope)


def _parameters(conv: nn.Conv2d) -> Conv:
    return Conv(conv.weight, conv.bias)


def _then(conv: Conv, affine: Affine) -> tuple[Conv, Tensor]:
    """A convolution of which each output is scaled, and what is left to be added."""
    weight, bias = conv
    scale = affine.scale.to(weight.dtype)
    scaled_bias = None if bias is None else bias * scale
    scaled = Conv(weight * scale[:, None, None, None], scaled_bias)
    return scaled, affine.offset
