"""accelerate on convolutions in classes that it does not know."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ports import convlstm_pytorch as convlstm
from trajgru_ext import accelerate, restore
from trajgru_ext.nn import Conv2d, ConvLSTMCell


class Twice(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1)
        self.spectral = nn.utils.spectral_norm(nn.Conv2d(16, 16, 3, padding="same"))
        self.twice = nn.Conv2d(16, 16, 5, padding=2)
        parametrize.register_parametrization(self.twice, "weight", Twice())
        self.strided = nn.Conv2d(16, 16, 3, 2)
        self.narrow = nn.Conv2d(16, 8, 3)

    def forward(self, x):
        x = self.twice(self.spectral(self.conv(x).relu()))
        return self.narrow(self.strided(x))


FAST = ["block.conv", "block.spectral", "block.twice"]


def model():
    torch.manual_seed(0)
    return nn.ModuleDict({"block": Block()}).eval()


def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 8, 12, 13)


def assert_same(block, wanted):
    torch.testing.assert_close(block(inputs()), wanted, rtol=1e-4, atol=1e-4)


def test_in_place():
    net = model()
    wanted, state = net.block(inputs()), list(net.state_dict())
    modules, parameters = list(net.modules()), list(net.parameters())
    seen = []
    net.block.conv.register_forward_hook(lambda *_: seen.append("hook"))
    report = accelerate(net)
    assert report.convolutions == FAST
    assert not report.replaced and not report.left_alone
    assert "convolutions: 3 (block.conv, " in str(report)
    for name in FAST:
        fast = net.get_submodule(name)
        assert isinstance(fast, Conv2d) and isinstance(fast, nn.Conv2d)
    assert list(net.modules()) == modules and list(net.state_dict()) == state
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert_same(net.block, wanted)
    assert seen == ["hook"]
    kinds = [type(m) for m in net.modules()]
    assert accelerate(net).convolutions == FAST
    assert [type(m).__bases__ for m in net.modules()] == [k.__bases__ for k in kinds]
    assert restore(net) == FAST
    assert type(net.block.conv) is nn.Conv2d
    assert not any(isinstance(m, Conv2d) for m in net.modules())
    assert_same(net.block, wanted)


@torch.no_grad()  # hooks of spectral_norm leave a weight that has no copy otherwise
def test_copies_and_pickles():
    net = model()
    accelerate(net)
    wanted = net.block(inputs())
    other = copy.deepcopy(net)
    assert_same(other.block, wanted)
    assert restore(other) == FAST
    assert isinstance(net.block.twice, Conv2d)
    parametrize.remove_parametrizations(net.block.twice, "weight")
    assert isinstance(net.block.twice, Conv2d)
    saved = io.BytesIO()
    torch.save(net, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    assert_same(loaded.block, wanted)
    assert restore(loaded) == FAST
    assert type(loaded.block.twice) is nn.Conv2d


@pytest.mark.parametrize("first", [accelerate, lambda net: None])
def test_parametrised_before_or_after(first):
    conv = nn.Conv2d(8, 16, 3)
    net = nn.Sequential(conv)
    first(net)
    wanted = net(inputs())
    parametrizations.weight_norm(conv)
    parametrize.register_parametrization(conv, "bias", Twice())
    accelerate(net)
    assert isinstance(conv, Conv2d)
    restore(net)
    assert not isinstance(conv, Conv2d)
    assert parametrize.is_parametrized(conv, "weight")
    parametrize.remove_parametrizations(conv, "bias", leave_parametrized=False)
    parametrize.remove_parametrizations(conv, "weight")
    assert type(conv) is nn.Conv2d
    torch.testing.assert_close(net(inputs()), wanted)


class OwnKind(nn.Conv2d):
    """Somebody's convolution."""


def with_a_forward_of_its_own():
    conv = nn.Conv2d(8, 16, 3)
    conv.forward = lambda x: x
    return conv


@pytest.mark.parametrize(
    "make",
    [
        lambda: OwnKind(8, 16, 3),
        with_a_forward_of_its_own,
        lambda: nn.Conv2d(8, 16, 3, dilation=2),
        lambda: nn.Conv2d(8, 16, 3, groups=2),
        lambda: nn.Conv2d(8, 16, 1),
        lambda: nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(4, 16, 3),
        lambda: nn.Conv2d(8, 16, 3).double(),
        lambda: nn.Conv2d(8, 16, 3, device="meta"),
        lambda: ConvLSTMCell(8, 16, 3),
    ],
)
def test_those_that_stay(make):
    net = nn.Sequential(make())
    kinds = [type(m) for m in net.modules()]
    assert not accelerate(net).convolutions
    assert [type(m) for m in net.modules()] == kinds


def test_in_layers():
    """A published layer is replaced as a whole; ours goes on reading the weights."""
    net = nn.Sequential(convlstm.ConvLSTMCell(8, 16, (3, 3), True))
    report = accelerate(net)
    assert list(report.replaced) == ["0"] and not report.convolutions
    assert type(net[0].conv) is nn.Conv2d
    cell = ConvLSTMCell(8, 16, 3)
    accelerate(cell.conv)
    assert isinstance(cell.conv, Conv2d)
    assert cell.computes() == "by weights"
