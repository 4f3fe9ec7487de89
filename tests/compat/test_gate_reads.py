"""A rewritten forward follows whatever it was traced with: nothing in it is stale."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trajgru_ext import accelerate, restore


class Cell(nn.Module):
    """An LSTM's step whose gates pass through something first."""

    SCALE = 1.0

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(7, 16, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.GroupNorm(2, 16)
        self.more = nn.ModuleList([nn.Conv2d(16, 16, 1)])
        self.config = SimpleNamespace(scale=1.0)
        self.numbers = np.array([1.0])

    def change(self, gates):
        return gates

    def forward(self, x, h, c):
        gates = self.change(self.conv(torch.cat([x, h], 1)))
        i, f, o, g = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class AsksADropout(Cell):
    def change(self, gates):
        return F.dropout(gates, 0.5, self.drop.training)


class AsksAConvolution(Cell):
    def change(self, gates):
        return gates if self.conv.training else 2 * gates


class GoesThroughAList(Cell):
    def change(self, gates):
        for one in self.more:
            gates = one(gates)
        return gates


class ReadsAnEps(Cell):
    def change(self, gates):
        return gates * (1 + self.norm.eps)


class ReadsAConfig(Cell):
    def change(self, gates):
        return gates * self.config.scale


class ReadsAnArray(Cell):
    def change(self, gates):
        return gates * float(self.numbers[0])


class ReadsItsClass(Cell):
    def change(self, gates):
        return gates * self.SCALE


def shadow(cell):
    cell.change = lambda gates: 2 * gates


class Patched(Cell):
    """One whose class gets another forward."""

    def forward(self, x, h, c):
        return super().forward(x, h, c)


def other_forward(cell):
    def forward(self, x, h, c):
        return 3 * h, c

    Patched.forward = forward


def set_class(cell):
    ReadsItsClass.SCALE = 2.0


CASES = {
    "mode of a dropout": (AsksADropout, lambda cell: cell.eval()),
    "mode of a convolution": (AsksAConvolution, lambda cell: cell.conv.eval()),
    "modules in a list": (
        GoesThroughAList,
        lambda cell: cell.more.append(nn.Conv2d(16, 16, 1)),
    ),
    "setting of a module": (ReadsAnEps, lambda cell: setattr(cell.norm, "eps", 2.0)),
    "a config": (ReadsAConfig, lambda cell: setattr(cell.config, "scale", 2.0)),
    "an array": (ReadsAnArray, lambda cell: cell.numbers.__setitem__(0, 2.0)),
    "a class": (ReadsItsClass, set_class),
    "a method": (Cell, shadow),
    "a forward": (Patched, other_forward),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("called", [False, True])
def test_what_changes_afterwards_is_followed(case, called):
    kind, change = CASES[case]
    torch.manual_seed(0)
    plain = kind()
    fast = copy.deepcopy(plain)
    forward, scale = kind.forward, Cell.SCALE
    accelerate(fast)
    given = [torch.randn(2, channels, 5, 6) for channels in (3, 4, 4)]
    try:
        if called:
            fast(*given)
        torch.manual_seed(1)  # of what a list gets
        change(plain)
        torch.manual_seed(1)
        change(fast)
        torch.manual_seed(2)  # of dropout
        wanted = plain(*given)
        torch.manual_seed(2)
        got = fast(*given)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)
    finally:
        if "forward" in vars(kind):
            kind.forward = forward
        ReadsItsClass.SCALE = scale
    restore(fast)
    assert type(fast) is kind


def test_what_can_be_seen_is_still_recognised():
    for kind in (Cell, AsksAConvolution, ReadsAnEps, GoesThroughAList, ReadsItsClass):
        assert accelerate(kind()).gates, kind
    for kind in (ReadsAConfig, ReadsAnArray):
        report = accelerate(kind())
        assert "may be changed in place" in report.left_alone[""]


def test_modes_of_modules_inside():
    cell = AsksAConvolution()
    plain = copy.deepcopy(cell)
    accelerate(cell)
    given = [torch.randn(2, channels, 5, 6) for channels in (3, 4, 4)]
    for mode in (True, False, True):
        torch.testing.assert_close(cell.train(mode)(*given), plain.train(mode)(*given))


def test_copies_of_accelerated_models_are_of_one_class():
    models = [nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)) for _ in range(2)]
    for model in models:
        accelerate(model)
    models.append(copy.deepcopy(models[0]))
    assert len({type(model[0]) for model in models}) == 1
    torch.func.stack_module_state(models)
