"""Recurrent layers over time."""

import torch
from torch import Tensor

from trajgru_ext.reference.conv import Conv, convolve
from trajgru_ext.reference.flow import flow_conv
from trajgru_ext.reference.gates import (
    activate,
    gru_gates,
    gru_output,
    lstm_gates,
    required,
    split,
)


def traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    i2h: Conv | None,
    i2f_conv1: Conv | None,
    h2f_conv1: Conv,
    flows_conv: Conv,
    ret: Conv,
    steps: int | None = None,
    activation: str = "leaky_relu",
    negative_slope: float = 0.2,
    zoneout_mask: Tensor | None = None,
    flow_offset: Tensor | float = 0,
) -> tuple[Tensor, Tensor]:
    """Run a TrajGRU step by step, and return its states and flows."""
    unmoved = h is None
    if h is None:
        h = _zero_state(inputs, len(ret[0]) // 3)
    outputs, all_flows = [], []
    for t in range(_count(inputs, steps)):
        hidden, x_gates = convolve(h, h2f_conv1), None
        if inputs is not None:
            hidden = hidden + convolve(inputs[t], required(i2f_conv1))
            x_gates = convolve(inputs[t], required(i2h))
        hidden = activate(hidden, activation, negative_slope)
        flows = convolve(hidden, flows_conv) + flow_offset
        # A state that there is not is not moved, even along flows that are NaN.
        along = torch.zeros_like(flows) if unmoved and t == 0 else flows
        hh = flow_conv(h, along, *ret, flow_scale=-1.0)
        mask = None if zoneout_mask is None else zoneout_mask[t]
        h = gru_gates(
            x_gates,
            hh,
            h,
            activation=activation,
            negative_slope=negative_slope,
            zoneout_mask=mask,
        )
        outputs.append(h)
        all_flows.append(flows)
    no_flows = h.new_empty(len(h), len(flows_conv[0]), *h.shape[2:])
    return _sequence(outputs, h), _sequence(all_flows, no_flows)


def _count(inputs: Tensor | None, steps: int | None) -> int:
    return required(steps) if inputs is None else len(inputs)


def _zero_state(inputs: Tensor | None, features: int) -> Tensor:
    _, batch, _, *size = required(inputs).shape
    return required(inputs).new_zeros(batch, features, *size)


def _sequence(states: list[Tensor], state: Tensor) -> Tensor:
    """The states of all steps, of which there may be none."""
    return torch.stack(states) if states else state.new_empty(0, *state.shape)


def _old_states(
    zoneout_mask: Tensor | None,
    lengths: Tensor | list[int] | None,
    state: Tensor,
    t: int,
) -> Tensor:
    """Where a state of step t stays as it is."""
    old = torch.zeros_like(state, dtype=torch.bool)
    if zoneout_mask is not None:
        old = old | (zoneout_mask[t] != 0)
    if lengths is not None:
        lengths = torch.as_tensor(lengths, device=state.device)
        old = old | (t >= lengths)[:, None, None, None]
    return old


def conv_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    order: str = "run",
    reset: str = "after",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    x_dilation: int | tuple[int, int] = 1,
    h_dilation: int | tuple[int, int] = 1,
    zoneout_mask: Tensor | None = None,
    lengths: Tensor | list[int] | None = None,
    steps: int | None = None,
) -> Tensor:
    """Run a ConvGRU step by step, and return its states."""
    h = _zero_state(inputs, h_weight.shape[1]) if h is None else h
    h = h.double()
    outputs = []
    for t in range(_count(inputs, steps)):
        x_gates = None
        if inputs is not None:
            x_gates = convolve(inputs[t], (required(x_weight), x_bias), x_dilation)
        h_gates = convolve(h, (h_weight, h_bias), h_dilation)
        mask = _old_states(zoneout_mask, lengths, h, t)
        if reset == "after":
            parts = (x_gates, h_gates, h)
            h = gru_gates(*parts, order, activation, negative_slope, update, mask)
        else:
            x, s = split(x_gates, h_gates, order)
            r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
            after = convolve(r * h, (h_weight, h_bias), h_dilation)
            candidate = x["n"] + after.chunk(3, 1)[order.index("n")]
            h = gru_output(u, candidate, h, activation, negative_slope, update, mask)
        outputs.append(h)
    return _sequence(outputs, h)


def conv_lstm(
    inputs: Tensor | None,
    h: Tensor | None,
    c: Tensor | None,
    x_weight: Tensor | None,
    h_weight: Tensor,
    x_bias: Tensor | None = None,
    h_bias: Tensor | None = None,
    peephole: tuple[Tensor, Tensor, Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
    x_dilation: int | tuple[int, int] = 1,
    h_dilation: int | tuple[int, int] = 1,
    lengths: Tensor | list[int] | None = None,
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a ConvLSTM step by step, and return its states and the last cell state."""
    sized = required(h if inputs is None else inputs)
    zero = sized.new_zeros(sized.shape[-4], h_weight.shape[1], *sized.shape[-2:])
    h, c = (zero.double() if state is None else state.double() for state in (h, c))
    outputs = []
    for t in range(_count(inputs, steps)):
        x_gates = None
        if inputs is not None:
            x_gates = convolve(inputs[t], (required(x_weight), x_bias), x_dilation)
        h_gates = convolve(h, (h_weight, h_bias), h_dilation)
        fresh = lstm_gates(x_gates, h_gates, c, peephole, order, forget_bias)
        old = _old_states(None, lengths, h, t)
        h, c = torch.where(old, h, fresh[0]), torch.where(old, c, fresh[1])
        outputs.append(h)
    return _sequence(outputs, h), c
