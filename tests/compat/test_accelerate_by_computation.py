"""accelerate on cells that it knows only by what they compute."""

import copy
import io
import pickle
import re

import gate_cells as cells
import pytest
import torch
from gate_cells import FEATURES, GRUS, LSTMS, SIZE
from torch import nn
from torch.utils._pytree import tree_flatten

from trajgru_ext import accelerate, restore

CELLS = pytest.mark.parametrize("name", [*LSTMS, *GRUS])


def made(name):
    torch.manual_seed(0)
    make, what = {**LSTMS, **GRUS}[name]
    return make().double(), what


def arguments(name, seed=1):
    torch.manual_seed(seed)
    x, h, c = (torch.randn(2, k, *SIZE, dtype=torch.float64) for k in (2, 3, 3))
    if name == "Splits":
        return x, (h, c)
    return (x, h) if name in GRUS else (x, h, c)


def results(module, given):
    """What it returns, and the gradients to its arguments and parameters."""
    leaves, structure = tree_flatten(given)
    leaves = [t.clone().requires_grad_() for t in leaves]
    found, returned = tree_flatten(module(*structure.unflatten(leaves)))
    total = sum((k + 1) * (t**2).sum() for k, t in enumerate(found))
    every = [*leaves, *module.parameters()]
    return found, torch.autograd.grad(total, every, allow_unused=True), returned


def assert_same(got, wanted):
    torch.testing.assert_close(got[:2], wanted[:2], rtol=1e-9, atol=1e-11)
    assert got[2] == wanted[2]


class Operators(torch.overrides.TorchFunctionMode):
    """Notes which of ours are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "trajgru_ext":
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


def operators(module, given):
    with Operators() as noted:
        module(*given)
    return noted.seen


@CELLS
def test_recognised(name):
    module, what = made(name)
    given, kind, state = arguments(name), type(module), list(module.state_dict())
    wanted = results(module, given)
    numbers = torch.get_rng_state()
    report = accelerate(module)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert report.gates == {"": what}
    assert not report.left_alone and not report.replaced
    assert what in str(report)
    assert isinstance(module, kind) and list(module.state_dict()) == state
    assert_same(results(module, given), wanted)
    called = operators(module, given)
    assert set(called) == {part.split(",")[0] for part in what.split("; ")}
    twice = name in ("TwoMemories", "TwoSteps")
    assert len(called) == len(what.split("; ")) * (2 if twice else 1)
    assert accelerate(module, verify=given).gates == {"": what}
    assert restore(module) == [""]
    assert type(module) is kind
    assert operators(module, given) == []
    assert_same(results(module, given), wanted)


@CELLS
def test_copies_and_pickles(name):
    module, _ = made(name)
    given = arguments(name)
    attributes = dict(vars(module))
    accelerate(module)
    assert vars(module) == attributes
    wanted, called = results(module, given), operators(module, given)
    assert called
    saved = io.BytesIO()
    torch.save(module, saved)
    saved.seek(0)
    for other in (
        copy.deepcopy(module),
        copy.copy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(saved, weights_only=False),
    ):
        assert_same(results(other, given), wanted)
        assert operators(other, given) == called
        restore(other)
        assert_same(results(other, given), wanted)
    assert operators(module, given) == called


class Near(cells.Chunks):
    def forward(self, x, h, c):
        i, f, g, o = self.both(x, h).chunk(4, 1)
        return self.update(i, f, g, o, c)


def near(update):
    """An LSTM with another update."""
    return lambda: type(
        "Near", (Near,), {"update": lambda self, *args: update(*args)}
    )()


def sig(x):
    return torch.sigmoid(x)


def sigmoid_candidate(i, f, g, o, c):
    c = sig(f) * c + sig(i) * sig(g)
    return sig(o) * torch.tanh(c), c


def output_sees_the_old(i, f, g, o, c):
    new = sig(f + c) * c + sig(i) * torch.tanh(g)
    return sig(o + c) * torch.tanh(new), new


def no_input_gate(i, f, g, o, c):
    new = sig(f) * c + torch.tanh(g)
    return sig(o + i) * torch.tanh(new), new


def hard(i, f, g, o, c):
    new = nn.functional.hardsigmoid(f) * c + sig(i) * torch.tanh(g)
    return sig(o) * torch.tanh(new), new


def shown_otherwise(i, f, g, o, c):
    new = sig(f) * c + sig(i) * torch.tanh(g)
    return sig(o) * torch.relu(new), new


def doubled(i, f, g, o, c):
    new = sig(f) * c + 2 * sig(i) * torch.tanh(g)
    return sig(o) * torch.tanh(new), new


def coupled(i, f, g, o, c):
    new = (1 - sig(i)) * c + sig(i) * torch.tanh(g)
    return sig(o + f) * torch.tanh(new), new


def stays(i, f, g, o, c):
    new = sig(f) * c + sig(i) * torch.tanh(g)
    return sig(o) * torch.tanh(0.9 * new + 0.1 * c), new


def negated(i, f, g, o, c):
    new = sig(-f) * c + sig(i) * torch.tanh(g)
    return sig(o) * torch.tanh(new), new


def one_gate(i, f, g, o, c):
    new = sig(f) * c + sig(f) * torch.tanh(g)
    return sig(o + i) * torch.tanh(new), new


class TwoUpdates(cells.ResetAfter):
    """Its two weights do not add to 1."""

    def forward(self, x, h):
        a, b, n = torch.chunk(self.of_x(x) + self.of_h(h), 3, 1)
        return sig(a) * h + (1 - sig(b)) * torch.tanh(n)


class SpatioTemporal(cells.Memory):
    """PredRNN's new state comes from a convolution of the memories."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(FEATURES, FEATURES, 1)

    def forward(self, x, h, c):
        i, f, g, o = self.both(x, h).chunk(4, 1)
        c = sig(f) * c + sig(i) * torch.tanh(g)
        return sig(o) * torch.tanh(self.last(c)), c


class OutputOfTheNew(cells.Memory):
    """Its output gate comes from a convolution of the new memory."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(FEATURES, 4 * FEATURES, 1)

    def forward(self, x, h, c):
        i, f, g, _ = self.both(x, h).chunk(4, 1)
        c = sig(f) * c + sig(i) * torch.tanh(g)
        return sig(self.last(c).chunk(4, 1)[3]) * torch.tanh(c), c


class Separate(nn.Module):
    def __init__(self):
        super().__init__()
        self.of = nn.ModuleList(cells.conv(2 + FEATURES, FEATURES) for _ in range(4))

    def forward(self, x, h, c):
        i, f, g, o = (one(torch.cat([x, h], 1)) for one in self.of)
        c = sig(f) * c + sig(i) * torch.tanh(g)
        return sig(o) * torch.tanh(c), c


class WithoutGradients(cells.Chunks):
    def forward(self, x, h, c):
        with torch.no_grad():
            gates = self.both(x, h)
        i, f, g, o = gates.chunk(4, 1)
        c = sig(f) * c + sig(i) * torch.tanh(g)
        return sig(o) * torch.tanh(c), c + 0 * self.conv.weight.sum()


class WithoutAutocast(cells.Chunks):
    def forward(self, x, h, c):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x, h, c)


class Remembers(cells.Chunks):
    last = None

    def forward(self, x, h, c):
        self.last = super().forward(x, h, c)
        return self.last


class Collects(cells.Chunks):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, h, c):
        self.seen.append(h)
        return super().forward(x, h, c)


class Draws(cells.Chunks):
    def forward(self, x, h, c):
        if torch.rand(()) < 2:
            h, c = super().forward(x, h, c)
        return h, c


class InPlace(cells.Chunks):
    def forward(self, x, h, c):
        h = h.clone()
        h += 1
        return super().forward(x, h, c)


class InPlaceByFunction(cells.Chunks):
    def forward(self, x, h, c):
        h = h.clone()
        torch.relu_(h)
        return super().forward(x, h, c)


class SetsInside(cells.Chunks):
    def forward(self, x, h, c):
        self.conv.seen = h
        return super().forward(x, h, c)


class CallsItself(cells.Chunks):
    def forward(self, x, h, c, again=True):
        h, c = super().forward(x, h, c)
        return self(x, h, c, False) if again else (h, c)


class ByValue(cells.Chunks):
    def forward(self, x, h, c):
        return super().forward(x, h, c if c.sum() > 0 else -c)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (near(sigmoid_candidate), "neither an LSTM's nor a GRU's|not the tanh"),
        (near(output_sees_the_old), "adds more than slices|come separately"),
        (near(no_input_gate), "new memory is not|product"),
        (near(hard), "new memory is not|product"),
        (near(doubled), "new memory is not f c . i g"),
        (near(negated), "f gate adds more than slices"),
        (near(one_gate), "do not lie one after the other|adds two slices|adds more"),
        (Separate, "come separately"),
        (WithoutGradients, "switches gradients or autocast"),
        (WithoutAutocast, "switches gradients or autocast"),
        (Remembers, "keeps something from call to call"),
        (Collects, "keeps something from call to call"),
        (Draws, "draws random numbers"),
        (InPlace, "changes a tensor in place"),
        (InPlaceByFunction, "changes a tensor in place"),
        (SetsInside, "keeps something from call to call"),
        (CallsItself, "calls itself"),
        (ByValue, "cannot be traced, TraceError: symbolically"),
        (TwoUpdates, "neither an LSTM's nor a GRU's"),
    ],
)
def test_near_misses(make, why):
    module = make().double()
    kind = type(module)
    given = arguments("TwoUpdates" if kind is TwoUpdates else "Chunks")
    given = given[:2] if kind is TwoUpdates else given
    wanted = results(copy.deepcopy(module), given)
    attributes = {name: copy.copy(value) for name, value in vars(module).items()}
    report = accelerate(module)
    assert not report.gates
    assert re.search(why, report.left_alone[""])
    assert type(module) is kind and vars(module) == attributes
    assert "seen" not in vars(module.conv) if hasattr(module, "conv") else True
    assert_same(results(module, given), wanted)


@pytest.mark.parametrize(
    "make", [near(shown_otherwise), near(stays), SpatioTemporal, OutputOfTheNew]
)
def test_a_memory_alone_is_recognised(make):
    """Whatever is made of it."""
    module, given = make().double(), arguments("Chunks")
    wanted = results(module, given)
    assert accelerate(module).gates == {"": "lstm_memory, order ifg"}
    assert operators(module, given) == ["lstm_memory"]
    assert_same(results(module, given), wanted)


def test_a_gru_in_an_lstm_is_recognised():
    """A memory whose gates are coupled is a GRU's state."""
    module = near(coupled)().double()
    given = arguments("Chunks")
    wanted = results(module, given)
    assert accelerate(module).gates == {"": "gru_output, tanh, update replace"}
    assert_same(results(module, given), wanted)
