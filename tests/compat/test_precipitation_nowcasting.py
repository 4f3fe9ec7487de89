"""The classes of Precipitation-Nowcasting, against their equations."""

import functools

import pytest
import torch
from test_classes import SIZE, assert_equal, lstm_step, make, same, sample, shapes
from torch.nn.functional import leaky_relu

from ports import precipitation_nowcasting as published
from ports.updates import lstm_with_peepholes
from ports.warp import mix_warps, warp
from trajgru_ext import reference
from trajgru_ext.compat.precipitation_nowcasting import (
    EF,
    ConvLSTM,
    Encoder,
    Forecaster,
    TrajGRU,
    activation,
    hko7_ef,
    make_layers,
    wrap,
)

BHW = (2, *SIZE)


def traj_gru(layer, inputs, h, steps, act="leaky_relu", slope=0.2, align_corners=True):
    """In plain PyTorch."""
    activate = {
        "leaky_relu": functools.partial(leaky_relu, negative_slope=slope),
        "relu": torch.relu,
    }[act]
    by_sampling = functools.partial(warp, align_corners=align_corners)
    mix = functools.partial(mix_warps, one_warp=by_sampling)
    return published.traj_gru(layer, inputs, h, steps, activate, mix)


@pytest.mark.parametrize("act", ["leaky", "relu"])
@pytest.mark.parametrize("given", ["both", "inputs", "states"])
def test_traj_gru(given, act):
    layer = make(TrajGRU, 2, 3, BHW, L=3, act_type=activation(act, 0.1))
    inputs, h = sample(3, 2, 2, *SIZE), sample(2, 3, *SIZE)
    name = {"leaky": "leaky_relu"}.get(act, act)
    zero = torch.zeros_like(h)
    if given == "states":
        got = layer(None, h, seq_len=4)
        wanted = traj_gru(layer, None, h, 4, name, 0.1)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
        return
    start = h if given == "both" else None
    wanted = traj_gru(layer, inputs, zero if start is None else h, 3, name, 0.1)
    leaves = [inputs] if start is None else [inputs, h]
    assert_equal(layer, layer(inputs, start), wanted, *leaves)


@pytest.mark.parametrize("size", [SIZE, (1, 5), (4, 1)], ids=str)
@pytest.mark.parametrize("given", ["both", "inputs"])
def test_traj_gru_with_the_newer_default_of_grid_sample(given, size):
    layer = make(TrajGRU, 2, 3, (2, *size), L=3, align_corners=False)
    inputs, h = sample(3, 2, 2, *size), sample(2, 3, *size)
    start = h if given == "both" else None
    zero = torch.zeros_like(h) if start is None else h
    wanted = traj_gru(layer, inputs, zero, 3, align_corners=False)
    leaves = [inputs] if start is None else [inputs, h]
    assert_equal(layer, layer(inputs, start), wanted, *leaves)


def test_traj_gru_without_anything():
    layer = make(TrajGRU, 2, 3, BHW, L=2)
    outputs, last = layer()
    zero = torch.zeros(2, 3, *SIZE, dtype=torch.float64)
    wanted = traj_gru(layer, None, zero, 5)
    torch.testing.assert_close((outputs, last), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("given", ["both", "inputs", "states", "nothing"])
def test_conv_lstm(given):
    layer = make(ConvLSTM, 2, 3, BHW, 3)
    x, states = sample(3, 2, 2, *SIZE), [sample(2, 3, *SIZE) for _ in range(2)]
    steps = 3 if given in ("both", "inputs") else 5
    inputs = x if given in ("both", "inputs") else torch.zeros(5, 2, 2, *SIZE).double()
    h, c = states if given in ("both", "states") else map(torch.zeros_like, states)
    start = (h, c) if given in ("both", "states") else None
    outputs = []
    for t in range(steps):
        gates = same(torch.cat([inputs[t], h], 1), layer._conv.weight, layer._conv.bias)
        peepholes = layer.Wci, layer.Wcf, layer.Wco
        h, c = lstm_with_peepholes(gates.chunk(4, 1), c, peepholes)
        outputs.append(h)
    wanted = torch.stack(outputs), (h, c)
    got = layer(x if given in ("both", "inputs") else None, start)
    leaves = [x] if given in ("both", "inputs") else []
    leaves += states if start is not None else []
    assert_equal(layer, got, wanted, *leaves)


def test_names_of_parameters():
    assert shapes(ConvLSTM(2, 3, BHW, 3)) == {
        "Wci": (1, 3, *SIZE),
        "Wcf": (1, 3, *SIZE),
        "Wco": (1, 3, *SIZE),
        "_conv.weight": (12, 5, 3, 3),
        "_conv.bias": (12,),
    }
    assert set(shapes(TrajGRU(2, 3, BHW))) == {
        f"{name}.{kind}"
        for name in ("i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret")
        for kind in ("weight", "bias")
    }


def test_published_network():
    net = hko7_ef(seq_len=3)
    parameters = dict(net.named_parameters())
    assert sum(t.numel() for t in parameters.values()) == 12_753_909
    assert len(parameters) == 76
    frames = torch.rand(2, 1, 1, 480, 480)
    outputs = net(frames)
    assert outputs.shape == (3, 1, 1, 480, 480)
    outputs.square().mean().backward()
    unused = {name for name, t in parameters.items() if t.grad is None}
    assert unused == {
        f"forecaster.rnn3.{layer}.{kind}"
        for layer in ("i2h", "i2f_conv1")
        for kind in ("weight", "bias")
    }
    assert sum(parameters[name].numel() for name in unused) == 1_149_536


def test_stages_of_a_small_network():
    """In the order of the equations, with either recurrent layer."""
    for kind in (TrajGRU, lambda *sizes: ConvLSTM(*sizes, 3)):
        rnns = [kind(2, 3, (1, 4, 4)), kind(4, 4, (1, 2, 2))]
        back = [kind(4, 4, (1, 2, 2)), kind(3, 3, (1, 4, 4))]
        down = [{"conv1_leaky_1": [1, 2, 3, 2, 1]}, {"pool1": [2, 2, 0]}]
        down[1] = {"conv2_relu": [3, 4, 3, 2, 1]}
        up = [{"deconv1_leaky": [4, 3, 4, 2, 1]}, {"deconv2": [3, 1, 4, 2, 1]}]
        net = EF(Encoder(down, rnns), Forecaster(up, back, seq_len=3)).double()
        frames = sample(2, 1, 1, 8, 8)
        first, one = rnns[0](net.encoder.stage1(frames[:, 0])[:, None], None)
        _, two = rnns[1](net.encoder.stage2(first[:, 0])[:, None], None)
        deep, _ = back[0](None, two, seq_len=3)
        near, _ = back[1](net.forecaster.stage2(deep[:, 0])[:, None], one)
        wanted = net.forecaster.stage1(near[:, 0])[:, None]
        torch.testing.assert_close(net(frames), wanted, rtol=0, atol=1e-10)


def test_wrap():
    image, flow = sample(2, 3, *SIZE), sample(2, 2, *SIZE)
    wanted = reference.flow_warp(image, flow)
    torch.testing.assert_close(wrap(image, flow), wanted, rtol=0, atol=1e-10)


def test_layers_by_name():
    layers = make_layers({"conv1_relu": [1, 2, 3, 1, 1], "pool1": [2, 2, 0]})
    assert list(dict(layers.named_children())) == [
        "conv1_relu",
        "relu_conv1_relu",
        "pool1",
    ]
    assert layers(torch.zeros(1, 1, 4, 4)).shape == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TrajGRU(2, 3, BHW, i2h_stride=(2, 2)), "i2h_stride .1, 1. and"),
        (
            lambda: TrajGRU(2, 3, BHW)(sample(3, 2, 2, *SIZE).float(), None, 7),
            "3.*got 7",
        ),
        (lambda: TrajGRU(2, 3, None)(), "TrajGRU: inputs or states must be given"),
        (lambda: ConvLSTM(2, 3, BHW, 5), "ConvLSTM: kernel_size must be odd, with"),
        (lambda: activation("elu"), "activation: act_type must be one of.*got 'elu'"),
        (
            lambda: TrajGRU(2, 3, BHW, act_type=activation("sigmoid")),
            "TrajGRU: act_type must be an activation.*got 'sigmoid'",
        ),
        (lambda: make_layers({"dense": [1]}), "make_layers: a name must.*'dense'"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lstm_step_agrees_with_peepholes_of_0():
    """What the other tests of ConvLSTM are written with."""
    layer, image = make(ConvLSTM, 2, 3, BHW, 3), sample(2, 2, *SIZE)
    torch.nn.init.zeros_(layer.Wci)
    torch.nn.init.zeros_(layer.Wcf)
    torch.nn.init.zeros_(layer.Wco)
    h, c = sample(2, 3, *SIZE), sample(2, 3, *SIZE)
    gates = same(torch.cat([image, h], 1), layer._conv.weight, layer._conv.bias)
    _, got = layer(image[None], (h, c))
    wanted = lstm_step(gates, c, "ifgo")
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
