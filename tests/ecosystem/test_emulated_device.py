"""What is above the kernels, on a device that is not the CPU, against the CPU."""

import copy
import io

import pytest
import torch
from emulation import device
from small_networks import SMALL, make_small, sample_frames

import trajgru_ext

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


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.02),
    # Which counts its steps on the device.
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.02, capturable=True),
}


@SMALL
@pytest.mark.parametrize("by", OPTIMIZERS)
def test_a_graph_can_capture_a_step_of_training(kind, by):
    net = make_small(kind).to("emulated")
    frames = sample_frames(3, 2, 2, 4, 6).to("emulated")
    optimizer = OPTIMIZERS[by](net.parameters())

    def step():
        optimizer.zero_grad()
        found = loss(net, frames)
        found.backward()
        optimizer.step()
        return found.detach()  # a graph that lives on would hold the first stream

    first = step()
    with device.captured():
        second = step()
    assert second.item() < first.item()


@pytest.mark.parametrize("kind", ["ConvLSTM", "ConvGRU"])
def test_a_graph_can_capture_lengths(kind):
    """Given as a list, which is on the host."""
    torch.manual_seed(0)
    layer = getattr(trajgru_ext.nn, kind)(2, 3).to("emulated")
    inputs = torch.randn(4, 3, 2, 5, 6).to("emulated")
    layer(inputs, lengths=[1, 1, 1])
    with torch.no_grad():
        with device.captured():
            found = layer(inputs, lengths=[4, 0, 2])
        wanted = layer.cpu()(inputs.cpu(), lengths=[4, 0, 2])
    assert_close([found[0].cpu()], [wanted[0]], 1e-5)


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


@SMALL
def test_onnx(kind, tmp_path):
    pytest.importorskip("onnxscript", reason="needs trajgru_ext[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime")
    from trajgru_ext.onnx import export

    net = make_small(kind, levels=1).float().eval().to("emulated")
    frames, file = sample_frames(2, 3, 2, 6, 8).float(), str(tmp_path / "network.onnx")
    export(net, (frames.to("emulated"),), file, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: frames.numpy()})[0]
    with torch.no_grad():
        wanted = net(frames.to("emulated")).cpu()
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=0, atol=2e-6)
