"""EncoderForecaster and the named networks, against plain PyTorch."""

import copy
import functools

import pytest
import torch
from small_networks import SMALL, make_small, moving, sample_frames
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ports import hko7 as plain
from trajgru_ext.nn import (
    ConvGRU,
    EncoderForecaster,
    conv_lstm_forecaster,
    hko7_conv_gru,
    hko7_traj_gru,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
)

HKO7 = ((64, 192, 192), (5, 1), ((3, 1), (2, 1)), ((3, 1), (2, 1)))
MNIST = ((64, 96, 96), (1, 1), ((2, 1), (2, 1)), ((2, 1), (2, 1)))
# Network, its rendering, and a size of frames, by which no level is 1 pixel high or
# wide: there `grid_sample` would ignore the flow.
NETWORKS = {
    "hko7_traj_gru": (hko7_traj_gru, plain.hko7(plain.traj_gru, *HKO7), (60, 90)),
    "hko7_conv_gru": (hko7_conv_gru, plain.hko7(plain.conv_gru(), *HKO7), (60, 90)),
    "mnist_traj_gru": (
        functools.partial(moving_mnist_traj_gru, 5),
        plain.hko7(plain.traj_gru, *MNIST),
        (8, 12),
    ),
    "mnist_conv_gru": (
        functools.partial(moving_mnist_conv_gru, 3, 2),
        plain.hko7(plain.conv_gru(2), *MNIST),
        (8, 12),
    ),
    "conv_lstm": (conv_lstm_forecaster, plain.patches((128, 64, 64)), (8, 12)),
    "conv_lstm_of_one": (
        functools.partial(conv_lstm_forecaster, (256,)),
        plain.patches((256,)),
        (8, 12),
    ),
}
NAMED = pytest.mark.parametrize("name", NETWORKS)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def gradients(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()))


def test_counts_of_parameters():
    """As the papers' configurations have."""
    assert count(hko7_traj_gru()) == 12_148_877
    assert count(hko7_conv_gru()) == 13_647_905
    links = {5: 2_841_725, 9: 3_420_845, 13: 3_999_965, 17: 4_579_085}
    assert {n: count(moving_mnist_traj_gru(n)) for n in links} == links
    assert count(moving_mnist_traj_gru()) == links[13]
    assert count(moving_mnist_conv_gru()) == 4_767_073
    features = {(256,): 13_524_496, (128, 128): 10_042_896, (128, 64, 64): 7_585_296}
    assert {one: count(conv_lstm_forecaster(one)) for one in features} == features
    # Three channels more in the first convolution.
    assert count(hko7_traj_gru(coordinates=True)) == 12_148_877 + 8 * 3 * 7 * 7
    assert count(moving_mnist_conv_gru(coordinates=True)) == 4_767_073 + 16 * 3 * 3 * 3


@NAMED
def test_values_and_gradients(name):
    make, plan, size = NETWORKS[name]
    torch.manual_seed(0)
    net = moving(make().double())
    frames = sample_frames(2, 2, 1, *size).requires_grad_()
    got = net(frames, 3)
    wanted = plan.run(dict(net.named_parameters()), frames, 3)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    every = [frames, *net.parameters()]
    # A parameter without a gradient is an error here.
    found = [torch.autograd.grad(one.square().sum(), every) for one in (got, wanted)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_network_of_480_pixels():
    """Training of the real one; every parameter gets a gradient."""
    torch.manual_seed(0)
    net = hko7_traj_gru(steps=3, recompute="flows")
    frames = sample_frames(2, 1, 1, 480, 480, dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    losses = []
    for _ in range(2):
        outputs = net(frames)
        assert outputs.shape == (3, 1, 1, 480, 480)
        loss = (outputs - 0.5).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        optimizer.step()
    assert losses[1] < losses[0]


def test_numbers_of_frames():
    assert (hko7_traj_gru().steps, hko7_conv_gru().steps) == (20, 20)
    assert (moving_mnist_traj_gru().steps, conv_lstm_forecaster().steps) == (10, 10)
    net = moving_mnist_conv_gru(3, steps=4)
    with torch.no_grad():
        for past, batch, steps in ((1, 3, None), (3, 1, 1), (2, 2, 6)):
            frames = sample_frames(past, batch, 1, 8, 8, dtype=torch.float32)
            assert net(frames, steps).shape == (steps or 4, batch, 1, 8, 8)
    ahead, less = net(frames, 5), net(frames, 2)
    torch.testing.assert_close(ahead[:2], less)


@SMALL
def test_samples_do_not_meet(kind):
    net, frames = make_small(kind), sample_frames(2, 3, 2, 4, 6)
    each = torch.cat([net(one) for one in frames.split(1, 1)], 1)
    torch.testing.assert_close(net(frames), each, rtol=0, atol=1e-10)


@SMALL
def test_batch_first(kind):
    net, frames = make_small(kind), sample_frames(2, 3, 2, 4, 6)
    other = make_small(kind, batch_first=True)
    got = other(frames.transpose(0, 1).contiguous()).transpose(0, 1)
    torch.testing.assert_close(got, net(frames), rtol=0, atol=1e-10)


@SMALL
def test_states_carry_on(kind):
    net, frames = make_small(kind), sample_frames(5, 2, 2, 4, 6)
    states = net.encode(frames[2:], net.encode(frames[:2]))
    torch.testing.assert_close(net.forecast(states), net(frames), rtol=0, atol=1e-10)


@SMALL
def test_recompute(kind):
    modes = ["none", "gates", "flows"] if kind == "traj_gru" else ["none", "gates"]
    frames, found = sample_frames(2, 2, 2, 4, 6), []
    for mode in modes:
        net = make_small(kind, mode)
        found.append(gradients(net, net(frames).square().sum()))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-10)


@NAMED
def test_recompute_reaches_all_layers(name):
    make, *_ = NETWORKS[name]
    net = make(recompute="gates")
    layers = [*net.encoder, *net.forecaster]
    assert {layer.recompute for layer in layers} == {"gates"}
    with pytest.raises(ValueError, match=r"recompute must be one of.*got 'all'"):
        make(recompute="all")


def test_coordinates():
    """x, y and ones follow the frame's channels."""
    net, frames = make_small("conv_gru", coordinates=True), sample_frames(2, 2, 2, 4, 6)
    x = torch.tensor([-1, -0.6, -0.2, 0.2, 0.6, 1]).double().expand(4, 6)
    y = torch.tensor([-1, -1 / 3, 1 / 3, 1]).double()[:, None].expand(4, 6)
    grid = torch.stack([x, y, torch.ones(4, 6).double()]).expand(2, 2, 3, 4, 6)
    twin = copy.deepcopy(net)
    twin.coordinates = False
    wanted = twin(torch.cat([frames, grid], 2))
    torch.testing.assert_close(net(frames), wanted, rtol=0, atol=1e-6)
    assert not torch.equal(net(frames), net(frames.flip(3)).flip(3))


@SMALL
def test_channels_last_inside(kind):
    """Between the modules no layout changes, and so nothing is copied."""
    net, frames = make_small(kind).float(), sample_frames(2, 2, 2, 4, 6).float()
    wanted, seen = net(frames), []

    def look(module, inputs):
        seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    for module in (*net.down, *net.up, net.head):
        module.register_forward_pre_hook(look)
    torch.testing.assert_close(net(frames), wanted)
    assert seen == [True] * 4
    turned = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(turned.unflatten(0, (2, 2))), wanted)


def test_frames_of_one_channel_are_channels_last():
    net, strides = moving_mnist_conv_gru(3), []
    net.encoder[0].register_forward_pre_hook(lambda _, x: strides.append(x[0].stride()))
    net(sample_frames(2, 2, 1, 8, 8, dtype=torch.float32), 1)
    assert strides[0][2] == 1


@SMALL
def test_compile(kind):
    torch.compiler.reset()
    net, frames = make_small(kind), sample_frames(2, 2, 2, 4, 6)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(frames), net(frames), rtol=0, atol=1e-10)


@SMALL
def test_autocast(kind):
    net, frames = make_small(kind).float(), sample_frames(2, 2, 2, 4, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(frames)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), net(frames), rtol=0, atol=0.05)


@pytest.fixture
def group(tmp_path):
    """This process as the only one of a group."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@SMALL
def test_distributed(kind, group):
    """Where a parameter went unused, the second step would be an error."""
    net, frames = make_small(kind), sample_frames(2, 2, 2, 4, 6)
    wanted = gradients(net, net(frames).square().sum())
    parallel = DistributedDataParallel(net)
    for _ in range(2):
        parallel.zero_grad()
        parallel(frames).square().sum().backward()
    got = [parameter.grad for parameter in net.parameters()]
    torch.testing.assert_close(got, list(wanted), rtol=0, atol=1e-10)


def sized(downs=1, backs=1, ups=0, **options):
    down = [nn.Identity() for _ in range(downs)]
    back = [ConvGRU(0, 2) for _ in range(backs)]
    up = [nn.Identity() for _ in range(ups)]
    layers = [options.pop("layer", ConvGRU(2, 2))]
    options = {"steps": 1, **options}
    return EncoderForecaster(down, layers, back, up, nn.Identity(), **options)


def joined():
    net = make_small("conv_gru")
    net.join = True
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sized(2), "down must have 1 modules for 1 layers in encoder, got 2"),
        (lambda: sized(backs=0), "forecaster must have 1 modules for 1 layers"),
        (lambda: sized(ups=1), "up must have 0 modules for 1 layers in enc.*got 1"),
        (lambda: sized(steps=0), "EncoderForecaster: steps must be positive, got 0"),
        (
            lambda: EncoderForecaster([], [], [], [], nn.Identity(), steps=1),
            r"len\(encoder\) must be positive, got 0",
        ),
        (
            lambda: sized(layer=ConvGRU(2, 2, batch_first=True)),
            "encoder must be of layers with batch_first=False",
        ),
        (
            lambda: sized(layer=ConvGRU(2, 2, return_all_layers=True)),
            "encoder must be of layers with return_all_layers=False",
        ),
        (lambda: sized()(torch.zeros(1, 2, 4, 4)), r"frames must be \[T, B, C, H, W\]"),
        (
            lambda: sized(batch_first=True)(torch.zeros(1, 2, 4, 4)),
            r"frames must be \[B, T, C, H, W\], got \[1, 2, 4, 4\]",
        ),
        (
            lambda: make_small("conv_gru")(sample_frames(1, 1, 2, 5, 6)),
            r"frames must have a size that up leads back to, got one that is \[5, 6\] "
            r"at level 0 of the encoder and \[6, 6\] in the forecaster",
        ),
        (
            lambda: joined()(sample_frames(1, 1, 2, 4, 6)),
            r"states must have one size for join=True, got \[\[4, 6\], \[2, 3\]\]",
        ),
        (
            lambda: sized().forecast([]),
            "states must be a list of one a.* 1, got 0",
        ),
        (lambda: sized().forecast(3), "states must be a list of one a level.*got int"),
        (lambda: conv_lstm_forecaster(()), r"len\(features\) must be positive, got 0"),
        (lambda: conv_lstm_forecaster((0,)), r"features\[0\] must be positive, got 0"),
        (lambda: moving_mnist_conv_gru(4), "kernel_size must be odd, got 4"),
        (lambda: moving_mnist_traj_gru(0), "TrajGRU: links must be positive, got 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_errors_of_kinds():
    with pytest.raises(TypeError, match="EncoderForecaster: frames must be a Tensor"):
        sized()([1])
