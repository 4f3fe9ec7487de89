"""What a trace could get wrong of a forward: it is followed, or left alone."""

import sys
import threading

import gate_cells as cells
import pytest
import torch
from gate_cells import FEATURES
from test_accelerate_by_computation import assert_same, operators, results
from test_gate_guards import ALL, H, X, normal, pair
from torch import nn

from trajgru_ext import accelerate

SCALES = {6: 3.0}
FLAG = False
TABLE = {"scale": [1.0]}


class ClassOfSizes(cells.Chunks):
    def forward(self, x, h, c):
        if isinstance(x.shape[-2:], tuple) and isinstance(x.shape[-1], int):
            x = 2 * x
        return super().forward(x, h, c)


class LooksUpSizes(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward(SCALES.get(x.shape[-1], 1.0) * x, h, c)


class NamesSizes(cells.Chunks):
    twice6 = 2.0

    def forward(self, x, h, c):
        return super().forward(getattr(self, f"twice{x.shape[-1]}", 1.0) * x, h, c)


class SetsAttributes(cells.Chunks):
    def forward(self, x, h, c):
        x.of_this_step = True
        return super().forward(x, h, c)


class SwallowsRefusals(cells.Chunks):
    def forward(self, x, h, c):
        try:
            count = int(x.abs().sum())
        except TypeError:
            count = 3
        return super().forward(count * x, h, c)


class AsksForModes(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward(2 * x if torch.is_grad_enabled() else x, h, c)


class AsksForAutocast(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward(2 * x if torch.is_autocast_enabled() else x, h, c)


@pytest.mark.parametrize(
    "kind",
    [
        ClassOfSizes,
        LooksUpSizes,
        NamesSizes,
        SetsAttributes,
        SwallowsRefusals,
        AsksForModes,
        AsksForAutocast,
    ],
)
def test_left_alone(kind):
    module = kind().double()
    wanted = results(module, ALL)
    report = accelerate(module)
    assert not report.gates
    assert report.left_alone[""]
    assert_same(results(module, ALL), wanted)
    with torch.no_grad():
        torch.testing.assert_close(module(*ALL), kind.forward(module, *ALL))


class ModeByName(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward(2 * x if getattr(self, "training") else x, h, c)  # noqa: B009 - it is how people hide it


class Listed(cells.Chunks):
    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(()))])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.ones(()))})

    def forward(self, x, h, c):
        for scale in self.scales:
            x = scale * x
        for name in self.named:
            x = self.named[name] * x
        return super().forward(x, h, c)


class Globals(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward((3 if FLAG else 1) * x * TABLE["scale"][0], h, c)


def test_the_mode_by_its_name():
    plain, fast = pair(ModeByName)
    for mode in (True, False):
        assert_same(results(fast.train(mode), ALL), results(plain.train(mode), ALL))


def test_parameters_that_come_later():
    plain, fast = pair(Listed)
    assert operators(fast, ALL) == ["lstm_gates"]
    for cell in (plain, fast):
        cell.scales.append(nn.Parameter(torch.full((), 2.0, dtype=torch.float64)))
    assert_same(results(fast, ALL), results(plain, ALL))
    plain, fast = pair(Listed)
    for cell in (plain, fast):
        cell.named["b"] = nn.Parameter(torch.full((), 2.0, dtype=torch.float64))
    assert_same(results(fast, ALL), results(plain, ALL))


def test_constants_of_files(monkeypatch):
    plain, fast = pair(Globals)
    assert operators(fast, ALL) == ["lstm_gates"]
    monkeypatch.setattr(sys.modules[__name__], "FLAG", True)
    assert_same(results(fast, ALL), results(plain, ALL))
    monkeypatch.undo()
    assert operators(fast, ALL) == ["lstm_gates"]
    TABLE["scale"][0] = 5.0
    try:
        assert_same(results(fast, ALL), results(plain, ALL))
    finally:
        TABLE["scale"][0] = 1.0


def test_constants_of_what_encloses():
    scale = 1.0

    class Enclosed(cells.Chunks):
        def forward(self, x, h, c):
            return super().forward(scale * x, h, c)

    plain, fast = pair(Enclosed)
    assert operators(fast, ALL) == ["lstm_gates"]
    scale = 4.0
    assert_same(results(fast, ALL), results(plain, ALL))


class MakesLists(cells.Chunks):
    def forward(self, x, h, c):
        weights = [0.5] * x.shape[0] + x.shape[0] * [0.25]
        return super().forward(sum(weights) * x, h, c)


def test_lists_as_long_as_a_size():
    plain, fast = pair(MakesLists)
    for batch in (2, 3):
        given = [normal(batch, *one.shape[1:]) for one in ALL]
        assert operators(fast, given) == ["lstm_gates"]
        assert_same(results(fast, given), results(plain, given))


class CountsItsCalls(cells.Memory):
    """Its normalisation remembers a call, before what it asserts does not hold."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4 * FEATURES)

    def forward(self, x, h, c):
        gates = self.norm(self.both(x, h))
        cells.check(x.shape[0] == c.shape[0])
        return cells.step(gates, c)


def test_nothing_runs_twice_where_an_assertion_does_not_hold():
    plain, fast = pair(CountsItsCalls)
    assert operators(fast, ALL) == ["lstm_gates"]
    for cell in (plain, fast):
        cell.norm.num_batches_tracked.zero_()
        with pytest.raises(AssertionError):
            cell(X, H, H[:1])
    assert fast.norm.num_batches_tracked == plain.norm.num_batches_tracked == 1


def test_other_threads_while_one_traces():
    _, fast = pair(cells.Checks)
    other, image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh()), torch.randn(1, 2, 6, 6)
    wanted, errors, done = other(image), [], threading.Event()

    def call():
        while not done.is_set():
            try:
                torch.testing.assert_close(other(image), wanted)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for kind in (cells.Chunks, cells.ResetBefore, cells.Splits, cells.TwoMemories):
            accelerate(kind())
        fast(*ALL)
    finally:
        done.set()
        thread.join()
    assert not errors


def test_recorded_by_jit():
    _, fast = pair(cells.Chunks)
    recorded = torch.jit.trace(fast, ALL, check_trace=False)
    torch.testing.assert_close(recorded(*ALL), fast(*ALL))
