"""Peepholes that automan000's ConvLSTM makes in its first run, on a CPU parameters."""

import copy

import pytest
import torch
from torch import nn

from ports import convolutional_lstm_pytorch as gate_by_gate
from trajgru_ext import accelerate, restore
from trajgru_ext.compat import convolutional_lstm_pytorch, load

SIZE = (4, 5)
PEEPHOLES = [f"cell{k}.Wc{gate}" for k in (0, 1) for gate in "ifo"]


def image(*size, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, *(size or SIZE), generator=generator).double()


@pytest.fixture
def trained(monkeypatch):
    """The original after a run and steps that moved its peepholes."""
    monkeypatch.setattr(gate_by_gate.ConvLSTMCell, "registers_peepholes", True)
    torch.manual_seed(0)
    net = gate_by_gate.ConvLSTM(2, [3, 4], 3, 3, [1, 2]).double()
    net(image())
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert set(PEEPHOLES) < set(net.state_dict())
    return net


def ours():
    return convolutional_lstm_pytorch.ConvLSTM(2, [3, 4], 3, 3, [1, 2]).double()


def run(net):
    """Results and the gradients to all parameters by name."""
    outputs, (h, c) = net(image())
    total = sum(one.square().sum() for one in [*outputs, h, c])
    named = dict(net.named_parameters())
    grads = torch.autograd.grad(total, list(named.values()))
    return outputs, (h, c), dict(zip(named, grads, strict=True))


@pytest.mark.parametrize("read", [load, lambda s, m: m.load_state_dict(s) and m])
def test_checkpoints_with_peepholes(trained, read):
    net = read(trained.state_dict(), ours())
    torch.testing.assert_close(run(net), run(trained), rtol=0, atol=1e-10)
    assert set(net.state_dict()) == set(trained.state_dict())
    again = read(net.state_dict(), copy.deepcopy(net))
    assert all(map(torch.equal, again.parameters(), net.parameters()))


@pytest.mark.parametrize("read", [load, lambda s, m: m.load_state_dict(s)])
def test_peepholes_that_a_checkpoint_lacks_are_0(trained, read):
    net = load(trained.state_dict(), ours())
    state = {k: v for k, v in trained.state_dict().items() if k not in PEEPHOLES}
    read(state, net)
    assert not any(net.get_parameter(name).any() for name in PEEPHOLES)
    wanted = load(state, ours())
    torch.testing.assert_close(run(net)[:2], run(wanted)[:2], rtol=0, atol=1e-10)
    assert wanted(image(7, 3))[0][0].shape == (2, 4, 7, 3)


def test_peepholes_that_do_not_fit(trained):
    net, state = ours(), trained.state_dict()
    state["cell1.Wci"] = torch.zeros(1, 3, *SIZE)
    del state["cell0.Wco"]
    with pytest.raises(ValueError) as caught:
        load(state, net)
    assert str(caught.value).splitlines()[1:] == [
        "  missing (1): cell0.Wco [1, 3, 4, 5]",
        "  of other sizes (1): cell1.Wci must be [1, 4, 4, 5], got [1, 3, 4, 5]",
    ]
    assert not any("Wc" in name and "." not in name[6:] for name in net.state_dict())
    with pytest.raises(ValueError, match="peephole"):
        load(trained.state_dict(), net)(image(7, 3))


def test_accelerate_after_a_run(trained):
    """A model and a cell by itself, whose peepholes are parameters by now."""
    wanted = run(trained)
    state = trained.state_dict()
    report = accelerate(trained, verify=image())
    assert list(report.replaced) == [""]
    torch.testing.assert_close(run(trained), wanted, rtol=0, atol=1e-10)
    trained.load_state_dict(state)
    restore(trained)
    torch.testing.assert_close(run(trained), wanted, rtol=0, atol=0)
    assert list(accelerate(trained.cell0).replaced) == [""]
    torch.testing.assert_close(run(trained), wanted, rtol=0, atol=1e-10)


def test_accelerated_before_a_run_takes_peepholes(trained):
    net = gate_by_gate.ConvLSTM(2, [3, 4], 3, 3, [1, 2]).double()
    accelerate(net)
    load(trained.state_dict(), net)
    torch.testing.assert_close(run(net), run(trained), rtol=0, atol=1e-10)


def test_plain_tensors_count_too():
    """As on a GPU, whatever their values."""
    torch.manual_seed(0)
    net = gate_by_gate.ConvLSTM(2, [3, 4], 3, 3, [1, 2]).double()
    net(image())
    for cell in (net.cell0, net.cell1):
        for name in ("Wci", "Wcf", "Wco"):
            setattr(cell, name, torch.randn_like(getattr(cell, name)))
    wanted = run(net)
    assert list(accelerate(net).replaced) == [""]
    torch.testing.assert_close(run(net), wanted, rtol=0, atol=1e-10)
