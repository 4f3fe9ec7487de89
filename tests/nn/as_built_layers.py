"""Layers and the plain computation of each, for tests of what is put on them."""

import pytest
import torch
from alterations import IN_DOUBLE
from torch import nn

from ports import precipitation_nowcasting as published
from ports.updates import blend, gru_reset_after, lstm, lstm_with_peepholes
from trajgru_ext import reference
from trajgru_ext.nn import (
    ConvGRU,
    ConvLSTM,
    TrajGRU,
)

STEPS, BATCH, CHANNELS, SIZE = 3, 2, 2, (5, 6)
EVERY = pytest.mark.parametrize("alter", IN_DOUBLE.values(), ids=IN_DOUBLE)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}


def normal(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def lstm_step(cell, x, state):
    h, c = state
    both = h if cell.input_channels == 0 else torch.cat([x, h], 1)
    i, f, o, g = cell.conv(both).chunk(4, 1)
    gates = i, f + cell.forget_bias, g, o
    if cell.Wci is None:
        return lstm(*gates, c)
    return lstm_with_peepholes(gates, c, (cell.Wci, cell.Wcf, cell.Wco))


def gru_step(cell, x, h):
    if cell.reset == "after":
        return gru_reset_after(cell.i2h(x), cell.h2h(h), h, torch.tanh)
    r, u = cell.conv_gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
    n = cell.conv_can(torch.cat([x, r * h], 1)).tanh()
    return blend(u, h, n)


def layers_by_hand(layers, inputs, step, several):
    last = []
    for cell in layers.cell_list:
        features = cell.hidden_channels
        zero = inputs.new_zeros(inputs.shape[1], features, *inputs.shape[3:])
        state, outputs = (zero, zero) if several else zero, []
        for frame in inputs:
            state = step(cell, frame, state)
            outputs.append(state[0] if several else state)
        inputs = torch.stack(outputs)
        last.append(state)
    return inputs, last


def conv_lstm(layers, inputs):
    return layers_by_hand(layers, inputs, lstm_step, several=True)


def conv_gru(layers, inputs):
    return layers_by_hand(layers, inputs, gru_step, several=False)


def traj_gru(layer, inputs):
    every_flow = []

    def mix(h, against, ret):
        every_flow.append(-against)
        warped = [reference.flow_warp(h, uv) for uv in against.split(2, 1)]
        return ret(torch.cat(warped, 1).to(h.dtype))

    zero = inputs.new_zeros(inputs.shape[1], layer.hidden_channels, *inputs.shape[3:])
    outputs, h = published.traj_gru(layer, inputs, zero, len(inputs), mix=mix)
    return outputs, h, torch.stack(every_flow)


def make_traj_gru(kind, dtype):
    layer = kind(CHANNELS, 3, 2, flow_channels=4, flow_kernel_size=3, dtype=dtype)
    nn.init.normal_(layer.flows_conv.weight, std=0.1)
    return layer


# Of each layer: how it is made, where its convolutions are, the layer and the plain
# computation as functions of the layer and inputs.
def of_layer(layer, inputs):
    return layer(inputs)


def of_traj_gru(layer, inputs):
    return layer(inputs, return_flows=True)


LAYERS = {
    "lstm": (lambda d: ConvLSTM(CHANNELS, [3, 2], 3, 2, dtype=d), of_layer, conv_lstm),
    "lstm_peephole": (
        lambda d: ConvLSTM(CHANNELS, 3, peephole="channel", forget_bias=1.0, dtype=d),
        of_layer,
        conv_lstm,
    ),
    "gru": (lambda d: ConvGRU(CHANNELS, [3, 2], 3, 2, dtype=d), of_layer, conv_gru),
    "gru_before": (
        lambda d: ConvGRU(CHANNELS, 3, reset="before", bias=False, dtype=d),
        of_layer,
        conv_gru,
    ),
    "traj_gru": (lambda d: make_traj_gru(TrajGRU, d), of_traj_gru, traj_gru),
}
CONVOLUTIONS = {
    "lstm": ["cell_list.0.conv", "cell_list.1.conv"],
    "lstm_peephole": ["cell_list.0.conv"],
    "gru": ["cell_list.0.i2h", "cell_list.1.h2h"],
    "gru_before": ["cell_list.0.conv_gates", "cell_list.0.conv_can"],
    "traj_gru": ["i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret"],
}
PLACES = pytest.mark.parametrize(
    ("layer", "place"),
    [(layer, place) for layer, places in CONVOLUTIONS.items() for place in places],
)


def made(layer, dtype=torch.float64):
    torch.manual_seed(0)
    module = LAYERS[layer][0](dtype)
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("Wci", "Wcf", "Wco"):
            nn.init.normal_(parameter, std=0.3)
    return module


def altered(layer, place, alter, dtype=torch.float64):
    module = made(layer, dtype)
    owner, _, name = place.rpartition(".")
    alter(module.get_submodule(owner), name)
    return module
