"""TrajGRU and TrajGRUCell as modules."""

import copy
import subprocess
import sys

import pytest
import torch

from trajgru_ext import reference
from trajgru_ext.nn import TrajGRU, TrajGRUCell

LAYERS = ["i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret"]


def sample_layer(kind=TrajGRU, channels=2, **options):
    torch.manual_seed(0)
    options = {"flow_channels": 4, "dtype": torch.float64, **options}
    return kind(channels, 3, 2, zero_flows=False, **options)


def sequence(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_parameters_are_named_and_sized_as_published():
    layer = TrajGRU(8, 64, 13)
    sizes = {name: tuple(t.shape) for name, t in layer.named_parameters()}
    assert sizes == {
        "i2h.weight": (192, 8, 3, 3),
        "i2h.bias": (192,),
        "i2f_conv1.weight": (32, 8, 5, 5),
        "i2f_conv1.bias": (32,),
        "h2f_conv1.weight": (32, 64, 5, 5),
        "h2f_conv1.bias": (32,),
        "flows_conv.weight": (26, 32, 5, 5),
        "flows_conv.bias": (26,),
        "ret.weight": (192, 832, 1, 1),
        "ret.bias": (192,),
    }
    without = dict(TrajGRU(0, 64, 13, bias=False).named_parameters())
    assert set(without) == {"h2f_conv1.weight", "flows_conv.weight", "ret.weight"}


def test_matches_the_naive_formula(backend):
    layer = sample_layer(activation="tanh").to(backend.device)
    inputs, h = sequence(3, 2, 2, 4, 5), sequence(2, 3, 4, 5)
    outputs, last, flows = layer(
        inputs.to(backend.device), h.to(backend.device), return_flows=True
    )
    convs = [getattr(layer, name) for name in LAYERS]
    pairs = [(conv.weight.cpu(), conv.bias.cpu()) for conv in convs]
    wanted = reference.traj_gru(inputs, h, *pairs, activation="tanh")
    torch.testing.assert_close(outputs.cpu(), wanted[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(flows.cpu(), wanted[1], rtol=0, atol=1e-10)
    assert torch.equal(last, outputs[-1])


def test_cell_is_a_step_of_the_layer():
    layer, cell = sample_layer(), sample_layer(TrajGRUCell)
    cell.load_state_dict(layer.state_dict())
    inputs = sequence(3, 2, 2, 4, 5)
    outputs, last, flows = layer(inputs, return_flows=True)
    h = None
    for t in range(3):
        h, flow = cell(inputs[t], h, return_flows=True)
        assert torch.equal(h, outputs[t])
        assert torch.equal(flow, flows[t])
    assert torch.equal(h, last)
    assert torch.equal(cell(None, h), layer(None, h, steps=1)[1])


def test_batch_first():
    layer = sample_layer()
    other = sample_layer(batch_first=True)
    inputs = sequence(3, 2, 2, 4, 5)
    outputs, last, flows = layer(inputs, return_flows=True)
    got = other(inputs.transpose(0, 1).contiguous(), return_flows=True)
    assert torch.equal(got[0], outputs.transpose(0, 1))
    assert torch.equal(got[1], last)
    assert torch.equal(got[2], flows.transpose(0, 1))


def test_going_on_from_a_state():
    layer = sample_layer()
    inputs = sequence(5, 2, 2, 4, 5)
    whole, last = layer(inputs)
    first, h = layer(inputs[:2])
    second, end = layer(inputs[2:], h)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end, last)
    assert torch.equal(layer(inputs[:0], h)[1], h)


def test_without_inputs():
    layer = sample_layer(channels=0)
    outputs, last = layer(h=sequence(2, 3, 4, 5), steps=4)
    assert outputs.shape == (4, 2, 3, 4, 5)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    with pytest.raises(ValueError, match="TrajGRU: inputs must be None for input_ch"):
        layer(sequence(4, 2, 2, 4, 5))
    for zoneout in (0.0, 0.5):
        layer.zoneout = zoneout
        with pytest.raises(ValueError, match="traj_gru: steps must be given without"):
            layer(h=last)
        with pytest.raises(ValueError, match="traj_gru: h must"):
            layer(h=last[0], steps=3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (6, 3)], ids=str)
@pytest.mark.parametrize(
    "channels", [(1, 1, 1, 1), (2, 1, 3, 1), (1, 2, 1, 2)], ids=str
)
def test_any_size(backend, channels, size, layout):
    """With one of anything too: inputs, features, layer before the flows, links."""
    inputs, features, hidden, links = channels
    options = {"flow_channels": hidden, "zero_flows": False, "dtype": torch.float64}
    torch.manual_seed(0)
    layer = TrajGRU(inputs, features, links, **options)
    frames = sequence(6, inputs, *size).contiguous(memory_format=layout)
    frames = frames.unflatten(0, (3, 2))
    pairs = [(conv.weight, conv.bias) for conv in (getattr(layer, n) for n in LAYERS)]
    wanted = reference.traj_gru(frames, None, *pairs)[0]
    wanted_grads = torch.autograd.grad(wanted.square().sum(), layer.parameters())
    layer, frames = layer.to(backend.device), frames.to(backend.device)
    for recompute in ("none", "flows"):
        layer.recompute = recompute
        got = layer(frames)[0]
        grads = torch.autograd.grad(got.square().sum(), layer.parameters())
        torch.testing.assert_close(got.cpu(), wanted)
        for one, other in zip(grads, wanted_grads, strict=True):
            torch.testing.assert_close(one.cpu(), other)


def test_zoneout_keeps_elements_while_training():
    layer = sample_layer(zoneout=0.4)
    inputs, h = sequence(1, 2, 2, 20, 30), sequence(2, 3, 20, 30)
    kept = layer(inputs, h)[1] == h
    assert 0.35 < kept.double().mean() < 0.45
    assert torch.equal(layer.eval()(inputs, h)[1] == h, torch.zeros_like(kept))
    everything = sample_layer(zoneout=1.0)
    assert torch.equal(everything(inputs, h)[1], h)


def test_zoneout_repeats_by_its_seed():
    layer = sample_layer(zoneout=0.5)
    inputs = sequence(3, 2, 2, 4, 5)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(layer(inputs)[0])
    assert torch.equal(*results)


def test_flows_begin_at_zero():
    torch.manual_seed(0)
    layer = TrajGRU(2, 3, 2)
    outputs, _, flows = layer(torch.randn(2, 1, 2, 4, 5), return_flows=True)
    assert not flows.any()
    outputs.sum().backward()
    assert layer.flows_conv.weight.grad.any()


@pytest.mark.parametrize("recompute", ["none", "gates", "flows"])
def test_training_reduces_a_loss(recompute):
    layer = sample_layer(recompute=recompute, dtype=torch.float32)
    inputs, wanted = torch.randn(3, 2, 2, 6, 6), torch.randn(3, 2, 3, 6, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(inputs)[0] - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_copies_and_saved_states():
    layer = sample_layer(zoneout=0.1, batch_first=True)
    inputs = sequence(2, 3, 2, 4, 5)
    twin = copy.deepcopy(layer).eval()
    other = sample_layer(batch_first=True).eval()
    other.load_state_dict(layer.state_dict())
    wanted = layer.eval()(inputs)[0]
    assert torch.equal(twin(inputs)[0], wanted)
    assert torch.equal(other(inputs)[0], wanted)
    assert "2, 3, links=2" in repr(layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_channels": -1}, "input_channels must not be below 0, got -1"),
        ({"hidden_channels": 0}, "hidden_channels must be positive, got 0"),
        ({"links": 0}, "links must be positive, got 0"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"flow_kernel_size": 0}, "flow_kernel_size must be odd, got 0"),
        ({"zoneout": 1.5}, r"zoneout must lie in \[0, 1\], got 1.5"),
        ({"activation": "elu"}, "activation must be one of 'tanh', .*got 'elu'"),
        ({"negative_slope": -0.1}, "negative_slope must not be below 0, got -0.1"),
        ({"recompute": "all"}, "recompute must be one of .*got 'all'"),
    ],
)
def test_constructor_errors(options, message):
    arguments = {"input_channels": 2, "hidden_channels": 3, "links": 2, **options}
    with pytest.raises(ValueError, match=f"TrajGRU: {message}"):
        TrajGRU(**arguments)


KERNELS_OF_ONE_PIXEL = """
import sys, torch
from trajgru_ext.nn import TrajGRU

def run(threads, batch):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    options = {"kernel_size": 1, "flow_kernel_size": 1, "zero_flows": False}
    layer = TrajGRU(5, 20, 3, **options)
    inputs = torch.randn(3, batch, 5, 48, 48, requires_grad=True)
    outputs, _ = layer(inputs)
    leaves = [inputs, *layer.parameters()]
    return outputs, *torch.autograd.grad(outputs.square().sum(), leaves)

for batch in (3, 1):
    first, *others = [run(threads, batch) for threads in (5, 1, 2, 3)]
    for other in others:
        assert all(map(torch.equal, first, other))
"""


def test_kernels_of_one_pixel_do_not_depend_on_the_threads():
    """Nor wait for ever, where the threads' first work is one of these convolutions."""
    command = [sys.executable, "-c", KERNELS_OF_ONE_PIXEL]
    subprocess.run(command, check=True, timeout=300)
