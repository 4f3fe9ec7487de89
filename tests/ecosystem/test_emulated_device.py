"""What is above the kernels, on a device that is not the CPU, against the CPU."""

import copy
import io

import pytest
import torch
from emulation import device
from small_networks import SMALL, make_small, sample_frames
from torch import nn
from torch.utils._pytree import tree_leaves

import trajgru_ext
from trajgru_ext import nn as nets
from trajgru_ext.compat import load
from trajgru_ext.compat.convlstm_pytorch import ConvLSTM
from trajgru_ext.compat.openstl import ConvLSTMCell

DEVICES = ["emulated:0", "emulated:1"]


pytestmark = pytest.mark.usefixtures("emulated_devices")


def loss(net, frames):
    return (net(frames) - frames[-1:].roll(1, 3)).square().mean()


def gradients(net, frames):
    net.zero_grad()
    loss(net, frames).backward()
    return [one.grad for one in net.parameters()]


def assert_close(found, wanted, share=1e-9):
    for one, other in zip(found, wanted, strict=True):
        off = (one.detach().cpu().double() - other.detach().cpu().double()).abs().max()
        assert off <= share * other.abs().max()


@SMALL
@pytest.mark.parametrize("recompute", ["none", "gates"])
@pytest.mark.parametrize("on", DEVICES)
def test_networks(kind, recompute, on):
    net, frames = make_small(kind, recompute), sample_frames(3, 2, 2, 4, 6)
    wanted, moved = net(frames), copy.deepcopy(net).to(on)
    found = moved(frames.to(on))
    assert found.device == torch.device(on)
    assert_close([found], [wanted])
    assert_close(gradients(moved, frames.to(on)), gradients(net, frames))


@SMALL
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_steps_of_training_under_autocast(kind, low):
    net = make_small(kind).float().to("emulated")
    frames = sample_frames(3, 2, 2, 4, 6).float().to("emulated")
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scaler, losses = torch.amp.GradScaler("emulated", init_scale=256.0), []
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("emulated", low):
            found = loss(net, frames)
        scaler.scale(found).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(found.item())
    assert losses[-1] < losses[0]


@SMALL
def test_a_graph_can_capture_a_step_of_training(kind):
    net = make_small(kind).to("emulated")
    frames = sample_frames(3, 2, 2, 4, 6).to("emulated")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)

    def step():
        optimizer.zero_grad()
        found = loss(net, frames)
        found.backward()
        optimizer.step()
        return found

    first = step()
    with device.captured():
        second = step()
    assert second.item() < first.item()


class Cell(nn.Module):
    """A ConvLSTM as people write it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(5, 12, 3, padding=1)

    def forward(self, x, h, c):
        i, f, o, g = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def test_accelerate():
    torch.manual_seed(0)
    plain = Cell().to("emulated")
    fast = copy.deepcopy(plain)
    report = trajgru_ext.accelerate(fast)
    x, h, c = (torch.randn(2, n, 5, 6).to("emulated") for n in (2, 3, 3))
    with torch.autograd.profiler.profile() as profile:
        fast(x, h, c)
    assert any("lstm_gates" in event.name for event in profile.function_events), report
    assert_close(fast(x, h, c), plain(x, h, c), 1e-5)


def test_a_layer_by_its_modules():
    torch.manual_seed(0)
    layer = trajgru_ext.nn.ConvLSTM(2, 3, 3).to("emulated")
    inputs = torch.randn(4, 2, 2, 5, 6).to("emulated")
    wanted, _ = layer(inputs)
    layer.register_forward_hook(lambda *_: None)
    for one in list(layer.modules())[1:]:
        one.register_forward_hook(lambda *_: None)
    assert layer.computes().startswith("by modules")
    assert_close([layer(inputs)[0]], [wanted], 1e-5)


def test_checkpoints_keep_their_device():
    net, file = make_small("traj_gru").to("emulated:1"), io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    found = torch.load(file)
    assert {one.device for one in found.values()} == {torch.device("emulated:1")}
    file.seek(0)
    make_small("traj_gru").load_state_dict(torch.load(file, map_location="cpu"))


@SMALL
def test_export(kind):
    net = make_small(kind, levels=1).to("emulated").eval()
    frames = sample_frames(3, 2, 2, 4, 6).to("emulated")
    program = torch.export.export(net, (frames,))
    assert_close([program.module()(frames)], [net(frames)])


def test_function_transforms():
    x, flow = torch.randn(3, 2, 4, 5, 6), torch.randn(3, 2, 2, 5, 6)

    def energy(x, flow):
        return trajgru_ext.flow_warp(x, flow).square().sum()

    def all_of(x, flow):
        gradient = torch.func.vmap(torch.func.grad(energy, argnums=(0, 1)))(x, flow)
        tangent = torch.func.jvp(energy, (x[0], flow[0]), (x[1], flow[1]))
        return [*gradient, *tangent]

    found = all_of(x.to("emulated"), flow.to("emulated"))
    assert_close(found, all_of(x, flow), 1e-5)


@pytest.mark.parametrize(
    "make, shapes",
    [
        (lambda: nets.SqueezeExcitation(16), [(2, 16, 5, 6)]),
        (lambda: nets.SelectiveKernelConv(16), [(2, 16, 5, 6)]),
        (lambda: nets.EESP(16, 16), [(2, 16, 8, 8)]),
        (lambda: nets.SpatialPyramidPooling(3), [(2, 3, 7, 7)]),
        (lambda: nets.Conv2d(3, 16, 3, padding=1), [(2, 3, 7, 7)]),
        (lambda: nets.ConvLSTMCell(2, 3), [(2, 2, 5, 6)]),
        (lambda: nets.ConvGRUCell(2, 3), [(2, 2, 5, 6)]),
        (lambda: nets.TrajGRUCell(2, 3), [(2, 2, 5, 6)]),
        (lambda: ConvLSTM(2, 3, (3, 3), 1, True), [(2, 4, 2, 5, 6)]),
        (
            lambda: ConvLSTMCell(2, 3, 5, 6, 3, 1, True),
            [(2, n, 5, 6) for n in (2, 3, 3)],
        ),
    ],
    ids=lambda one: None if callable(one) else str(one),
)
def test_modules(make, shapes):
    """Ours and published ones: results and gradients are those of the CPU."""
    torch.manual_seed(0)
    module, given = make(), [torch.randn(shape) for shape in shapes]
    moved = copy.deepcopy(module).to("emulated")

    def results(net, inputs):
        inputs = [one.clone().requires_grad_() for one in inputs]
        found = [one for one in tree_leaves(net(*inputs)) if one.requires_grad]
        wanted = [*inputs, *(p for p in net.parameters())]
        total = sum(one.square().sum() for one in found)
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
        return [*found, *(one for one in gradients if one is not None)]

    found = results(moved, [one.to("emulated") for one in given])
    assert {one.device.type for one in found} == {"emulated"}
    for one, other in zip(found, results(module, given), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)


def test_published_checkpoints(tmp_path):
    torch.manual_seed(0)
    written = ConvLSTM(2, 3, (3, 3), 1, True)
    torch.save(written.state_dict(), tmp_path / "weights.pt")
    model = ConvLSTM(2, 3, (3, 3), 1, True).to("emulated")
    load(tmp_path / "weights.pt", model)
    for one, other in zip(model.parameters(), written.parameters(), strict=True):
        assert one.device.type == "emulated"
        assert torch.equal(one.cpu(), other)


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript", reason="needs trajgru_ext[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime")
    from trajgru_ext.onnx import export

    net = make_small("conv_gru", levels=1).float().eval().to("emulated")
    frames, file = sample_frames(2, 3, 2, 6, 8).float(), str(tmp_path / "network.onnx")
    export(net, (frames.to("emulated"),), file, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: frames.numpy()})[0]
    with torch.no_grad():
        wanted = net(frames.to("emulated")).cpu()
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=2e-6)
