"""Named networks for frames of any number of channels, in and out."""

import functools

import pytest
import torch
from small_networks import moving, sample_frames

from trajgru_ext.compat import load
from trajgru_ext.nn import (
    conv_lstm_forecaster,
    hko7_conv_gru,
    hko7_traj_gru,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
)

NETWORKS = {
    "hko7_traj_gru": (hko7_traj_gru, (30, 60)),
    "hko7_conv_gru": (hko7_conv_gru, (30, 60)),
    "moving_mnist_traj_gru": (functools.partial(moving_mnist_traj_gru, 5), (8, 12)),
    "moving_mnist_conv_gru": (functools.partial(moving_mnist_conv_gru, 3), (8, 12)),
    "conv_lstm_forecaster": (functools.partial(conv_lstm_forecaster, (8, 4)), (8, 12)),
}
EVERY = pytest.mark.parametrize("name", NETWORKS)


CASES = [(name, (2, 3)) for name in NETWORKS]
CASES += [("moving_mnist_conv_gru", 3), ("conv_lstm_forecaster", [4, 1])]


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_frames_of_any_channels(name, channels):
    """Every channel is read and made; a state dict fits another such network."""
    kind, size = NETWORKS[name]
    read, made = (channels, channels) if isinstance(channels, int) else channels
    torch.manual_seed(0)
    net = moving(kind(image_channels=channels))
    frames = sample_frames(2, 1, read, *size, dtype=torch.float32).requires_grad_()
    outputs = net(frames, 1)
    assert outputs.shape == (1, 1, made, *size)
    outputs.square().sum().backward()
    assert frames.grad.flatten(3).any(3).all()
    assert all(parameter.grad.any() for parameter in net.parameters())
    of_channels = outputs.detach().flatten(3)[0, 0]
    assert len(of_channels.unique(dim=0)) == made
    other = load({"net": net.state_dict()}, kind(image_channels=channels))
    assert torch.equal(other(frames, 1), outputs)


@EVERY
def test_one_channel_is_the_default(name):
    kind, _ = NETWORKS[name]
    nets = []
    for options in ({}, {"image_channels": 1}, {"image_channels": (1, 1)}):
        torch.manual_seed(0)
        nets.append(kind(**options))
    states = [net.state_dict() for net in nets]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    with pytest.raises(ValueError, match=r"of other sizes \([34]\): "):
        load(states[0], kind(image_channels=3))


def test_a_channel_more_is_one_more_in_the_first_convolution():
    """Others' weights stay as they are: frames of one channel, and zeros beside it."""
    torch.manual_seed(0)
    one = moving(moving_mnist_traj_gru(5))
    two = moving_mnist_traj_gru(5, image_channels=(2, 1))
    state = one.state_dict()
    weight = state["down.0.0.weight"]
    assert two.state_dict()["down.0.0.weight"].shape == (16, 2, 3, 3)
    load({**state, "down.0.0.weight": torch.cat([weight, weight], 1)}, two)
    frames = sample_frames(2, 1, 1, 8, 12, dtype=torch.float32)
    both = torch.cat([frames, torch.zeros_like(frames)], 2)
    torch.testing.assert_close(two(both, 2), one(frames, 2))


def test_coordinates_follow_all_channels():
    net = hko7_conv_gru(image_channels=3, coordinates=True)
    assert net.down[0][0].in_channels == 6
    assert net(torch.rand(1, 1, 3, 30, 30), 1).shape == (1, 1, 3, 30, 30)


def test_channels_in_a_compiled_network():
    torch.compiler.reset()
    net = moving(conv_lstm_forecaster((4, 3), image_channels=(2, 3)))
    frames = sample_frames(2, 1, 2, 8, 8, dtype=torch.float32)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(frames), net(frames))
    exported = torch.export.export(net, (frames,)).module()
    torch.testing.assert_close(exported(frames), net(frames))


@EVERY
@pytest.mark.parametrize("channels", [0, (1, 0), (1, 2, 3), (), 1.5])
def test_impossible_channels(name, channels):
    kind, _ = NETWORKS[name]
    with pytest.raises(ValueError, match=rf"{name}: image_channels(\[[01]\])? must be"):
        kind(image_channels=channels)
