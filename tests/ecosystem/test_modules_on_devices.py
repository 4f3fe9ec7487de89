"""Every layer, block, network and published class on a device, against the CPU."""

import copy
import inspect

import pytest
import test_accelerate
import test_accelerate_by_computation as of_cells
import test_load
import torch
from emulation import device
from public_models import CASES, change, model_and_arguments, tensors
from small_networks import make_small
from torch.utils._pytree import tree_leaves, tree_map

import trajgru_ext
from trajgru_ext import check
from trajgru_ext import nn as nets
from trajgru_ext.compat import (
    convgru_pytorch,
    convlstm_pytorch,
    convolutional_lstm_pytorch,
    load,
    openstl,
    precipitation_nowcasting,
    warps,
)

SIZE = (5, 6)
IMAGE, FRAMES, STATE = (2, 2, *SIZE), (3, 2, 2, *SIZE), (2, 3, *SIZE)
MAPS, COLOURS = (2, 16, 6, 4), (2, 3, 33, 33)
PORT, BHW = precipitation_nowcasting, (2, *SIZE)


def one_frame(net, pixels):
    """Of an image that all strides divide."""
    return lambda: net(steps=1), [(1, 1, 1, pixels, pixels)]


# What makes each, and the shapes of its arguments.
LAYERS = {
    nets.Conv2d: (lambda: nets.Conv2d(2, 16, 3, padding=1), [IMAGE]),
    nets.ConvLSTMCell: (lambda: nets.ConvLSTMCell(2, 3), [IMAGE]),
    nets.ConvGRUCell: (lambda: nets.ConvGRUCell(2, 3, reset="before"), [IMAGE]),
    nets.TrajGRUCell: (lambda: nets.TrajGRUCell(2, 3, zero_flows=False), [IMAGE]),
    nets.ConvLSTM: (lambda: nets.ConvLSTM(2, 3, peephole="channel"), [FRAMES]),
    nets.ConvGRU: (lambda: nets.ConvGRU(2, [3, 4], 3, 2), [FRAMES]),
    nets.TrajGRU: (lambda: nets.TrajGRU(2, 3, 2, zero_flows=False), [FRAMES]),
    nets.EncoderForecaster: (
        lambda: make_small("traj_gru"),
        [(2, 2, 2, 4, 6)],
    ),
    nets.EESP: (lambda: nets.EESP(16, 16), [MAPS]),
    nets.DilatedPyramid: (lambda: nets.DilatedPyramid(16, 12), [MAPS]),
    nets.DilatedSeparableConv: (lambda: nets.DilatedSeparableConv(16, 6, 3), [MAPS]),
    nets.SEBasicBlock: (lambda: nets.SEBasicBlock(16, 16), [MAPS]),
    nets.SEBottleneck: (lambda: nets.SEBottleneck(16, 4), [MAPS]),
    nets.SelectiveKernelConv: (lambda: nets.SelectiveKernelConv(16), [MAPS]),
    nets.SelectiveKernelUnit: (lambda: nets.SelectiveKernelUnit(16, 8, 32), [MAPS]),
    nets.SpatialPyramidPooling: (lambda: nets.SpatialPyramidPooling(3), [MAPS]),
    nets.SqueezeExcitation: (lambda: nets.SqueezeExcitation(16), [MAPS]),
}
NETWORKS = {
    nets.conv_lstm_forecaster: (
        lambda: nets.conv_lstm_forecaster((6, 4), steps=2),
        [(2, 1, 1, 16, 16)],
    ),
    nets.hko7_conv_gru: one_frame(nets.hko7_conv_gru, 30),
    nets.hko7_traj_gru: one_frame(nets.hko7_traj_gru, 30),
    nets.moving_mnist_conv_gru: one_frame(nets.moving_mnist_conv_gru, 8),
    nets.moving_mnist_traj_gru: one_frame(nets.moving_mnist_traj_gru, 8),
    nets.se_resnet34: (nets.se_resnet34, [COLOURS]),
    nets.se_resnet50: (nets.se_resnet50, [COLOURS]),
    nets.sknet50: (nets.sknet50, [COLOURS]),
}
PUBLISHED = {
    convlstm_pytorch.ConvLSTMCell: (
        lambda: convlstm_pytorch.ConvLSTMCell(2, 3, (3, 3), True),
        [IMAGE, (STATE, STATE)],
    ),
    convlstm_pytorch.ConvLSTM: (
        lambda: convlstm_pytorch.ConvLSTM(2, [3, 4], (3, 3), 2),
        [FRAMES],
    ),
    convgru_pytorch.ConvGRUCell: (
        lambda: convgru_pytorch.ConvGRUCell(SIZE, 2, 3, (3, 3), True, None),
        [IMAGE, STATE],
    ),
    convgru_pytorch.ConvGRU: (
        lambda: convgru_pytorch.ConvGRU(SIZE, 2, 3, (3, 3), 1, None, True),
        [FRAMES],
    ),
    convolutional_lstm_pytorch.ConvLSTMCell: (
        lambda: convolutional_lstm_pytorch.ConvLSTMCell(2, 3, 3),
        [IMAGE, STATE, STATE],
    ),
    convolutional_lstm_pytorch.ConvLSTM: (
        lambda: convolutional_lstm_pytorch.ConvLSTM(2, [3, 4], 3),
        [IMAGE],
    ),
    openstl.ConvLSTMCell: (
        lambda: openstl.ConvLSTMCell(2, 3, *SIZE, 3, 1, True),
        [IMAGE, STATE, STATE],
    ),
    PORT.TrajGRU: (lambda: PORT.TrajGRU(2, 3, BHW, L=2), [FRAMES, STATE]),
    PORT.ConvLSTM: (lambda: PORT.ConvLSTM(2, 3, BHW, 3), [FRAMES, (STATE, STATE)]),
    PORT.EF: (lambda: PORT.hko7_ef(seq_len=1), [(1, 1, 1, 30, 30)]),
}
PARTS = {PORT.Encoder, PORT.Forecaster, type(PORT.make_layers({}))}  # of an EF
EVERY = LAYERS | PUBLISHED


def each(kinds):
    names = [f"{one.__module__.rpartition('.')[2]}.{one.__name__}" for one in kinds]
    return pytest.mark.parametrize("kind", kinds, ids=names)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["emulated", "cuda"])
def there(request):
    """The device that the CPU is compared with."""
    if request.param == "cuda" and (why_not := check.why_not("cuda")):
        pytest.skip(why_not)
    if request.param == "emulated":
        request.getfixturevalue("emulated_devices")
    return request.param


def made(kind, on="cpu"):
    """The module without zeros, in float64, and its arguments."""
    torch.manual_seed(0)
    make, shapes = (EVERY | NETWORKS)[kind]
    module = make().double()
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)

    def sample(shape):
        if isinstance(shape[0], tuple):
            return tuple(map(sample, shape))
        return torch.randn(shape, dtype=torch.float64).to(on)

    return module.to(on), [sample(shape) for shape in shapes]


def results(module, given):
    """What it returns, and the gradients to its arguments and parameters."""
    given = tree_map(lambda one: one.detach().requires_grad_(), given)
    found = [one for one in tree_leaves(module(*given)) if torch.is_tensor(one)]
    total = sum((k + 1) * one.square().sum() for k, one in enumerate(found))
    wanted = [*tree_leaves(given), *getattr(module, "parameters", tuple)()]
    return found, torch.autograd.grad(total, wanted, allow_unused=True)


def assert_same(found, wanted):
    """On whichever devices; gradients are of sums in another order."""
    for one, other in zip(tree_leaves(found), tree_leaves(wanted), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            exact = other.cpu().double()
            error = (one.cpu().double() - exact).norm()
            assert error <= 1e-9 * exact.norm().clamp(min=1e-9)


def test_nothing_is_left_out():
    assert {one.__name__ for one in (*LAYERS, *NETWORKS)} == set(nets.__all__)
    classes = {
        one
        for module in {inspect.getmodule(one) for one in PUBLISHED} | {PORT}
        for name, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, torch.nn.Module) and one.__module__ == module.__name__
    }
    assert classes == {*PUBLISHED, *PARTS}


@each(EVERY)
def test_results_and_gradients(kind, there):
    module, given = made(kind)
    found = results(*made(kind, there))
    devices = {one.device.type for one in tree_leaves(found) if one is not None}
    assert devices == {there}
    assert_same(found, results(module, given))


@pytest.mark.usefixtures("emulated_devices")
@each(EVERY | NETWORKS)
def test_a_graph_can_capture_a_step_of_training(kind):
    module, given = made(kind, "emulated")
    leaves = [one.requires_grad_() for one in tree_leaves(given)]
    optimizer = torch.optim.SGD([*leaves, *module.parameters()], lr=1e-6)

    def step():
        optimizer.zero_grad()
        found = [one for one in tree_leaves(module(*given)) if torch.is_tensor(one)]
        total = sum(one.square().sum() for one in found)
        total.backward()
        optimizer.step()
        return total.detach()

    first = step()
    with device.captured():
        second = step()
    assert second.isfinite().item()
    assert second.item() != first.item()


@pytest.mark.usefixtures("emulated_devices")
@each(EVERY)
def test_a_graph_each_can_capture_both_passes(kind):
    """As by torch.cuda.make_graphed_callables, whose graphs share a pool.

    Here what the first has made is the other stream's once it ends, and is kept.
    """
    module, given = made(kind, "emulated")
    wanted = [one.requires_grad_() for one in tree_leaves(given)]
    wanted += module.parameters()

    def forward():
        found = [one for one in tree_leaves(module(*given)) if torch.is_tensor(one)]
        return [one for one in found if one.requires_grad]

    def backward(outputs):
        seeds = [torch.ones_like(one) for one in outputs]
        return torch.autograd.grad(
            outputs, wanted, seeds, retain_graph=True, allow_unused=True
        )

    before = backward(forward())
    with device.captured():
        outputs = forward()
    with device.captured():
        found = backward(outputs)
    assert_same(found, before)


@pytest.mark.usefixtures("emulated_devices")
@each(LAYERS)
def test_a_graph_can_capture_a_compiled_layer(kind):
    """Both passes, as mode="reduce-overhead" does, but for inductor's own code.

    Of that there is none for this device.
    """
    torch.compiler.reset()
    module, given = made(kind, "emulated")
    wanted = [one.requires_grad_() for one in tree_leaves(given)]
    wanted += module.parameters()

    def gradients(of):
        found = [one for one in tree_leaves(of(*given)) if torch.is_tensor(one)]
        total = sum(one.square().sum() for one in found)
        return torch.autograd.grad(total, wanted, allow_unused=True)

    before, compiled = gradients(module), torch.compile(module, backend="aot_eager")
    gradients(compiled)
    with torch.compiler.set_stance("fail_on_recompile"), device.captured():
        found = gradients(compiled)
    assert_same(found, before)


@each(NETWORKS)
def test_networks_of_published_sizes(kind, there):
    (module, given), (moved, sent) = made(kind), made(kind, there)
    with torch.no_grad():
        assert_same(moved.eval()(*sent), module.eval()(*given))


@each(EVERY)
def test_states_of_modules_come_and_go(kind, there, tmp_path):
    """To a file, to the CPU from there, and to the last of these devices."""
    last = torch.device(there, torch.get_device_module(there).device_count() - 1)
    module, moved = made(kind, there)[0], made(kind, last)[0]
    torch.save(module.state_dict(), tmp_path / "state.pt")
    here = made(kind)[0]
    for one in (*here.parameters(), *moved.parameters()):
        torch.nn.init.zeros_(one)
    state = torch.load(tmp_path / "state.pt", map_location="cpu")
    here.load_state_dict(state)
    moved.load_state_dict(here.state_dict())
    assert {one.device for one in moved.parameters()} <= {last}
    assert_same(moved.state_dict(), module.state_dict())


@each(EVERY)
def test_export(kind, there):
    module, given = made(kind, there)
    module.eval()
    program = torch.export.export(module, tuple(given)).module()
    with torch.no_grad():
        assert_same(program(*given), module(*given))


@pytest.mark.parametrize("name", CASES)
def test_accelerated_models(name, there):
    """Whole published models, accelerated where they are."""
    model, given = model_and_arguments(name, small=True)
    given = change(given, torch.Tensor.double)
    moved = copy.deepcopy(model.double()).to(there)
    here, found = (trajgru_ext.accelerate(one) for one in (copy.deepcopy(model), moved))
    for what in ("replaced", "gates", "left_alone"):
        assert getattr(found, what) == getattr(here, what)
    sent = change(given, lambda one: one.to(there))
    for net in (model, moved):
        net.eval()
    with torch.no_grad():
        assert_same(tensors(moved(*sent)), tensors(model(*given)))


def test_accelerated_classes(there):
    """One of every published class that is replaced by ours."""
    model, frames = test_accelerate.Model(), test_accelerate.frames()
    moved, sent = copy.deepcopy(model).to(there), frames.to(there)
    # Where the original makes its states.
    moved.layers["gru"].dtype = sent.type()
    report = trajgru_ext.accelerate(moved)
    assert report.replaced
    assert not report.left_alone
    assert_same(results(moved, [sent]), results(model, [frames]))
    trajgru_ext.restore(moved)
    assert_same(results(moved, [sent]), results(model, [frames]))


@of_cells.CELLS
def test_accelerated_cells(name, there):
    """Known by what they compute alone."""
    module, what = of_cells.made(name)
    moved, given = copy.deepcopy(module).to(there), of_cells.arguments(name)
    assert trajgru_ext.accelerate(moved).gates == {"": what}
    sent = tree_map(lambda one: one.to(there), given)
    assert_same(results(moved, sent), results(module, given))


WARPS = {
    "pwc_net": lambda x, flow: warps.pwc_net_warp(x, flow),
    "raft": lambda x, flow: warps.bilinear_sampler(x, flow.permute(0, 2, 3, 1)),
    "nowcastnet": lambda x, flow: warps.nowcastnet_warp(
        x, flow, warps.make_grid(x), mode="bilinear", padding_mode="border"
    ),
}


@pytest.mark.parametrize("name", WARPS)
def test_warps(name, there):
    x, flow = (torch.randn(2, n, *SIZE, dtype=torch.float64) for n in (3, 2))
    found = results(WARPS[name], [x.to(there), flow.to(there)])
    assert_same(found, results(WARPS[name], [x, flow]))


@test_load.EVERY
def test_published_checkpoints(name, there, tmp_path):
    trained = test_load.make(test_load.MODELS[name], 1)
    model = test_load.make(test_load.MODELS[name]).to(there)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "weights.pt")
    load(tmp_path / "weights.pt", model)
    assert {one.device.type for one in model.parameters()} == {there}
    assert_same(model.state_dict(), trained.state_dict())
