"""Winograd's convolution on the CPU, alone and in the sequence operators."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from trajgru_ext import _C, conv_algorithm, info
from trajgru_ext.nn import ConvGRU, ConvLSTM, TrajGRU

OPS = torch.ops.trajgru_ext
# Relative to the largest sum of absolute products that one of the results is made of;
# the docstring of conv_algorithm says so.
BOUND = {3: 1e-6, 5: 4e-6}
# Batch, channels in and out, height, width: whole tiles, parts of tiles, of vectors of
# channels and of panels, less than a tile, and blocks of the weight's gradient.
SIZES = [
    (2, 32, 64, 16, 12),
    (3, 33, 50, 17, 13),
    (1, 7, 9, 3, 30),
    (2, 70, 130, 9, 10),
    (1, 1, 1, 6, 7),
]
SIZE_NAMES = ["tiles", "parts", "low", "blocks", "one"]


@pytest.fixture
def algorithm():
    """Whatever a test chooses ends with it."""
    with conv_algorithm("auto"):
        yield


def image(*sizes: int) -> Tensor:
    return torch.randn(sizes).contiguous(memory_format=torch.channels_last)


def winograd(
    images: list[Tensor],
    weights: list[Tensor],
    bias: Tensor | None = None,
    *,
    rotated: bool = False,
) -> Tensor:
    taps = weights[0].shape[2:]
    outputs = weights[0].shape[1 if rotated else 0]
    output = image(images[0].shape[0], outputs, *images[0].shape[2:])
    packed = OPS.winograd_weights(weights, rotated)
    padding = [k // 2 for k in taps]
    OPS.winograd_conv(images, packed, bias, taps, padding, output)
    return output


def assert_near(got: Tensor, wanted: Tensor, magnitude: Tensor, taps: int) -> None:
    assert got.shape == wanted.shape
    error = (got.double() - wanted).abs()
    if error.numel() > 0:
        assert error.max() <= BOUND[taps] * magnitude.max()


def exactly(f, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """The result in float64, and that of the absolute values."""
    wide = [one.double() for one in tensors]
    return f(*wide), f(*[one.abs() for one in wide])


@pytest.mark.kernels
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", SIZES, ids=SIZE_NAMES)
def test_cpu_convolution_and_gradients_are_those_of_conv2d(size, taps):
    torch.manual_seed(0)
    batch, channels, outputs, height, width = size
    x, seed = (
        image(batch, channels, height, width),
        image(batch, outputs, height, width),
    )
    weight = torch.randn(outputs, channels, taps, taps)
    got = winograd([x], [weight])
    wanted = exactly(lambda x, w: F.conv2d(x, w, padding=taps // 2), x, weight)
    assert_near(got, *wanted, taps)
    got = winograd([seed], [weight], rotated=True)
    wanted = exactly(
        lambda g, w: conv2d_input(x.shape, w, g, padding=taps // 2), seed, weight
    )
    assert_near(got, *wanted, taps)
    got = OPS.winograd_weights_grad(seed, x, taps, taps // 2)
    wanted = exactly(
        lambda x, g: conv2d_weight(x, weight.shape, g, padding=taps // 2), x, seed
    )
    assert_near(got, *wanted, taps)


@pytest.mark.kernels
@pytest.mark.parametrize("taps", [3, 5])
def test_cpu_two_images_slices_and_bias(taps):
    torch.manual_seed(0)
    whole = image(2, 60, 10, 11)
    parts = [whole[:, 3:22], whole[:, 25:60]]
    weights = [torch.randn(36, part.shape[1], taps, taps) for part in parts]
    weights[1] = weights[1].contiguous(memory_format=torch.channels_last)
    bias = torch.randn(36)
    room = image(2, 50, 10, 11)
    before = room.clone()
    packed = OPS.winograd_weights(weights, False)
    OPS.winograd_conv(parts, packed, bias, taps, taps // 2, room[:, 4:40])
    wanted = exactly(
        lambda x, w, b: F.conv2d(x, w, b, padding=taps // 2),
        torch.cat(parts, 1),
        torch.cat(weights, 1),
        bias,
    )
    assert_near(room[:, 4:40], *wanted, taps)
    assert torch.equal(room[:, :4], before[:, :4])
    assert torch.equal(room[:, 40:], before[:, 40:])


@pytest.mark.kernels
def test_cpu_empty_batch():
    assert winograd([image(0, 8, 6, 6)], [torch.randn(4, 8, 3, 3)]).shape == (
        0,
        4,
        6,
        6,
    )
    grad = OPS.winograd_weights_grad(image(0, 4, 6, 6), image(0, 8, 6, 6), 3, 1)
    assert torch.equal(grad, torch.zeros(4, 8, 3, 3))


@pytest.mark.kernels
def test_cpu_nan_stays_within_its_tile():
    x = image(2, 8, 16, 16)
    x[0, 3, 9, 6] = float("nan")
    bad = winograd([x], [torch.randn(32, 8, 3, 3)]).isnan().any(1)
    assert not bad[1].any()
    rows, columns = bad[0].nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (8, 11)
    assert (columns.min(), columns.max()) == (4, 7)
    assert bad[0, 8:12, 4:8].all()


# Channels of the inputs, and a net.
NETS = {
    "conv_lstm": (10, lambda: ConvLSTM(10, 33, 3, peephole="channel")),
    "conv_lstm, 5, element": (
        3,
        lambda: ConvLSTM(3, 8, 5, peephole="element", image_size=(9, 14)),
    ),
    "conv_lstm, one feature": (3, lambda: ConvLSTM(3, 1, 3)),
    "conv_gru, one feature": (3, lambda: ConvGRU(3, 1, 3, reset="before")),
    "conv_lstm, no bias": (6, lambda: ConvLSTM(6, 16, 3, bias=False)),
    "conv_gru, before": (
        10,
        lambda: ConvGRU(10, 33, 3, reset="before", update="replace"),
    ),
    "conv_gru, after": (10, lambda: ConvGRU(10, 33, 3, input_kernel_size=5)),
    "traj_gru": (6, lambda: TrajGRU(6, 20, links=2, activation="tanh")),
}


def derivatives(net: nn.Module, inputs: Tensor, **options) -> list[Tensor]:
    """Outputs, and the gradients to inputs and parameters."""
    inputs = inputs.clone().requires_grad_()
    outputs = net(inputs, **options)[0]
    seed = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype)
    parameters = list(net.parameters())
    found = torch.autograd.grad(
        outputs, [inputs, *parameters], seed.view(outputs.shape)
    )
    return [outputs.detach(), *found]


@pytest.mark.kernels
@pytest.mark.parametrize("recompute", ["none", "gates"])
@pytest.mark.parametrize("name", NETS)
def test_cpu_sequences_are_those_of_float64(algorithm, name, recompute):
    torch.manual_seed(0)
    channels, make = NETS[name]
    net, inputs = make(), torch.randn(4, 2, channels, 9, 14)
    for module in net.modules():
        if hasattr(module, "recompute"):
            module.recompute = recompute
    conv_algorithm("winograd")
    got = derivatives(net, inputs)
    conv_algorithm("direct")
    direct = derivatives(net, inputs)
    wanted = derivatives(net.double(), inputs.double())
    assert not torch.equal(got[0], direct[0])  # else the products were not few
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).norm() <= 2e-5 * other.norm()


@pytest.mark.kernels
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: ConvLSTM(3, 32, 3), id="conv_lstm"),
        pytest.param(lambda: ConvGRU(3, 32, 3, reset="before"), id="conv_gru, before"),
        pytest.param(lambda: ConvGRU(3, 32, 3), id="conv_gru, after"),
    ],
)
def test_cpu_lengths_and_going_on(algorithm, make):
    def sample(state, n):  # a ConvLSTM's is a pair
        if isinstance(state, Tensor):
            return state[n : n + 1]
        return tuple(one[n : n + 1] for one in state)

    torch.manual_seed(0)
    conv_algorithm("winograd")
    net = make()
    inputs = torch.randn(5, 3, 3, 8, 9)
    inputs[2:, 1] = float("nan")
    outputs, states = net(inputs, lengths=[5, 2, 4])
    alone, alone_states = net(inputs[:2, 1:2])
    assert torch.equal(outputs[:2, 1:2], alone)
    for one, other in zip(
        sample(states[0], 1), sample(alone_states[0], 0), strict=True
    ):
        assert torch.equal(one, other)
    first, states = net(inputs[:2])
    second, _ = net(inputs[2:, :1], [sample(states[0], 0)])
    assert torch.equal(torch.cat([first[:, :1], second]), outputs[:, :1])
    ahead, _ = net(None, states, steps=2)
    assert ahead.isfinite().all()


@pytest.mark.kernels
@pytest.mark.parametrize("name", NETS)
def test_cpu_results_do_not_depend_on_the_threads(algorithm, name):
    torch.manual_seed(0)
    conv_algorithm("winograd")
    channels, make = NETS[name]
    net, inputs = make(), torch.randn(2, 3, channels, 9, 14)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 16):
            torch.set_num_threads(count)
            found.append(derivatives(net, inputs))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def outputs_by(name: str, net: nn.Module, inputs: Tensor) -> Tensor:
    with conv_algorithm(name), torch.no_grad():
        return net(inputs)[0]


def test_another_default_dtype_changes_nothing(algorithm):
    net, inputs = ConvLSTM(32, 32, 3), torch.randn(1, 1, 32, 16, 16)
    wanted = derivatives(net, inputs)
    torch.set_default_dtype(torch.float64)
    try:
        found = derivatives(net, inputs)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("sizes", [(1, 1, 16, 1), (2, 1, 1, 9), (1, 2, 3, 2)])
def test_cpu_thin_images(algorithm, sizes):
    steps, batch, height, width = sizes
    net, inputs = ConvLSTM(4, 8, 3), torch.randn(steps, batch, 4, height, width)
    conv_algorithm("winograd")
    got = derivatives(net, inputs)
    for one, other in zip(got, derivatives(net.double(), inputs.double()), strict=True):
        assert (one - other).norm() <= 2e-5 * other.norm()


@pytest.mark.skipif(
    info.collect()["cpu capability"] == "DEFAULT",
    reason="nothing is chosen without wide vectors",
)
def test_auto_chooses_by_channels_and_size_alone(algorithm):
    wide, narrow = ConvLSTM(32, 32, 3), ConvLSTM(2, 4, 3)
    for net, sizes, few in [
        (wide, (2, 1, 32, 16, 16), True),
        (wide, (1, 7, 32, 16, 16), True),
        (wide, (2, 1, 32, 5, 5), False),  # less than half of the tiles are image
        (narrow, (2, 1, 2, 16, 16), False),
    ]:
        inputs = torch.randn(sizes)
        auto = outputs_by("auto", net, inputs)
        assert torch.equal(
            auto, outputs_by("winograd" if few else "direct", net, inputs)
        )
        assert not torch.equal(
            auto, outputs_by("direct" if few else "winograd", net, inputs)
        )


def test_other_dtypes_and_dilations_go_the_direct_way(algorithm):
    for net, dtype in [
        (ConvLSTM(8, 16, 3), torch.float64),
        (ConvLSTM(8, 16, 3, dilation=2), torch.float32),
        (ConvLSTM(8, 16, 7), torch.float32),
    ]:
        inputs = torch.randn(2, 1, 8, 12, 12, dtype=dtype)
        wide = net.to(dtype)
        forced = outputs_by("winograd", wide, inputs)
        assert torch.equal(forced, outputs_by("direct", wide, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["direct", "winograd"])
def test_half_types_go_the_way_of_float32(algorithm, name, dtype):
    """Where they are computed in it; else directly."""
    net, inputs = ConvLSTM(8, 16, 3).to(dtype), torch.randn(2, 1, 8, 12, 12).to(dtype)
    found = outputs_by(name, net, inputs)
    plan = torch.ops.trajgru_ext.sequence_plan(inputs)
    if plan[-1]:
        wanted = outputs_by(name, net.float(), inputs.float()).to(dtype)
    else:
        wanted = outputs_by("direct", net, inputs)
    assert torch.equal(found, wanted)


def test_the_choice_nests_and_is_checked():
    assert _C.conv_algorithm() == "auto"  # the default
    with conv_algorithm("winograd"):
        with conv_algorithm("direct"):
            assert _C.conv_algorithm() == "direct"
        assert _C.conv_algorithm() == "winograd"
        with pytest.raises(
            ValueError, match="'auto', 'direct' or 'winograd', got 'fft'"
        ):
            conv_algorithm("fft")
        assert _C.conv_algorithm() == "winograd"
    assert _C.conv_algorithm() == "auto"


def losses(name: str) -> Tensor:
    """Of a small ConvLSTM that learns to go on with moving bars."""
    torch.manual_seed(0)
    net, head = ConvLSTM(1, 32, 3), nn.Conv2d(32, 1, 1)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    bar = torch.zeros(16, 16)
    bar[:, 3:6] = 1
    found = []
    with conv_algorithm(name):
        for step in range(30):
            frames = torch.stack([bar.roll(step + t, 1) for t in range(6)])
            frames = frames.view(6, 1, 1, 16, 16)
            states, _ = net(frames[:-1])
            ahead = head(states.flatten(0, 1)).view_as(frames[1:])
            loss = (ahead - frames[1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
    return torch.stack(found)


def test_training_goes_the_same_way(algorithm):
    few, direct = losses("winograd"), losses("direct")
    assert few[-1] < 0.5 * few[0]
    assert not torch.equal(few, direct)
    torch.testing.assert_close(few, direct, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: OPS.winograd_weights([torch.ones(2, 2, 4, 4)], False), "taps must be"),
        (
            lambda: OPS.winograd_weights([torch.ones(2, 2, 3, 3).double()], False),
            "float32",
        ),
        (
            lambda: OPS.winograd_weights_grad(
                torch.ones(1, 4, 8, 8), image(1, 2, 8, 8), 3, 1
            ),
            "channels last",
        ),
        (
            lambda: OPS.winograd_conv(
                [image(1, 3, 8, 8)],
                OPS.winograd_weights([torch.ones(4, 2, 3, 3)], False),
                None,
                3,
                1,
                image(1, 4, 8, 8),
            ),
            "weights must be those of 3",
        ),
        (lambda: OPS.winograd_weights([torch.ones(2, 2, 3, 3)], False, 0), "gates"),
        (
            lambda: OPS.winograd_weights(
                [torch.ones(4, 2, 3, 3), torch.ones(400, 2, 3, 3)], False
            ),
            "of the same outputs",
        ),
        (
            lambda: OPS.winograd_weights_grad(
                image(1, 4, 2, 2), image(8, 4, 64, 64), 3, 1
            ),
            "must fit the result",
        ),
    ],
    ids=["taps", "dtype", "layout", "weights", "gates", "outputs", "sizes"],
)
def test_wrong_arguments(call, said):
    with pytest.raises(ValueError, match=said):
        call()
