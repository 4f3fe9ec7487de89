"""What cells whose gate updates are replaced do with other calls and changes."""

import copy

import gate_cells as cells
import pytest
import torch
from gate_cells import FEATURES, SIZE
from test_accelerate_by_computation import assert_same, operators, results
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from trajgru_ext import accelerate


def normal(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


X, H, C = (normal(2, k, *SIZE) for k in (2, FEATURES, FEATURES))
ALL = X, H, 2 * C


def pair(kind):
    """A cell, and a fast one."""
    torch.manual_seed(0)
    plain = kind().double()
    fast = copy.deepcopy(plain)
    assert accelerate(fast).gates
    return plain, fast


def test_hooks_inside():
    plain, fast = pair(cells.Modules)
    seen = []
    for name in ("conv", "norm"):
        hook = lambda *_, name=name: seen.append(name)  # noqa: E731 - binds the name
        getattr(fast, name).register_forward_hook(hook)
    fast.register_forward_pre_hook(lambda *_: seen.append("cell"))
    assert operators(fast, ALL) == ["lstm_gates"]
    assert seen == ["cell", "conv", "norm"]
    fast.gate.register_forward_hook(lambda *_: seen.append("gate"))
    assert operators(fast, ALL) == []
    assert seen[3:] == [*seen[:3], "gate", "gate", "gate"]
    assert_same(results(fast, ALL), results(plain, ALL))


def set_bias(cell):
    cell.bias = -1


def other_activation(cell):
    cell.squash = nn.Hardtanh()


def other_activation_of_ours(cell):
    cell.gate = nn.Tanh()


def more_attributes(cell):
    cell.layers, cell.names = [nn.Tanh()], {"a": [1, 2.0]}


def other_mode(cell):
    cell.eval()


def normed(cell):
    parametrizations.weight_norm(cell.conv)


def pruned(cell):
    prune.l1_unstructured(cell.conv, "weight", 0.5)


def replaced(cell):
    cell.norm = nn.Sequential(nn.Identity(), nn.Dropout(0.0))


@pytest.mark.parametrize(
    ("change", "by_operator"),
    [
        (set_bias, False),
        (other_activation, False),
        (other_activation_of_ours, False),
        (more_attributes, True),
        (other_mode, True),
        (normed, True),
        (pruned, True),
        (replaced, True),
    ],
)
def test_what_is_changed_afterwards(change, by_operator):
    cells_ = pair(cells.Modules)
    for cell in cells_:
        change(cell)
    plain, fast = cells_
    assert bool(operators(fast, ALL)) == by_operator
    assert_same(results(fast, ALL), results(plain, ALL))


def test_states_that_are_missing():
    plain, fast = pair(cells.Splits)
    for state in ((H, C), [H, C], torch.stack([H, C])):
        assert operators(fast, (X, state)) == ["lstm_gates"]
        assert_same(results(fast, (X, state)), results(plain, (X, state)))
    assert operators(fast, (X,)) == operators(fast, (X, None)) == ["lstm_gates"]
    torch.testing.assert_close(fast(X), plain(X))
    for state in ((H,), (H, C, C), (H, None), 3):
        for cell in (fast, plain):
            with pytest.raises((TypeError, ValueError, IndexError)):
                cell(X, state)
    plain, fast = pair(cells.ResetBefore)
    torch.testing.assert_close(fast(x=X), plain(X))
    assert operators(fast, (X, H)) == ["gru_reset", "gru_output"]
    with pytest.raises(TypeError, match="unexpected keyword"):
        fast(X, state=H)


def test_flags_and_keywords():
    plain, fast = pair(cells.ResetAfter)
    assert operators(fast, (X, H, False)) == ["gru_gates"]
    assert operators(fast, (X, H, True)) == []
    assert fast(X, H, flag=True) is H
    torch.testing.assert_close(fast(h=H, x=X), plain(X, H))


class Frames(cells.Memory):
    """A layer of a fixed number of steps, whose inputs or states may be missing."""

    def forward(self, x=None, states=None, steps=3):
        if states is None:
            h = torch.zeros(x.size(1), FEATURES, *SIZE, dtype=torch.float64)
            states = h, torch.zeros(x.size(1), FEATURES, *SIZE, dtype=torch.float64)
        h, c = states
        found = []
        for t in range(steps):
            if x is None:
                frame = torch.zeros(h.size(0), 2, *SIZE, dtype=h.dtype)
            else:
                frame = x[t, ...]
            h, c = cells.step(self.both(frame, h), c)
            found.append(h)
        return torch.stack(found), (h, c)


@pytest.mark.parametrize("steps", [3, 2, 5])
def test_steps(steps):
    """Another number of them is traced when it is asked for."""
    plain, fast = pair(Frames)
    frames = torch.stack([X] * steps)
    count = () if steps == 3 else (steps,)
    for given in ((frames, (H, C)), (frames, None), (None, (H, C))):
        assert operators(fast, (*given, *count)) == ["lstm_gates"] * steps
        torch.testing.assert_close(fast(*given, *count), plain(*given, *count))
    numbers = torch.get_rng_state()
    fast(frames, (H, C), steps - 1)
    assert torch.equal(numbers, torch.get_rng_state())
    ways = [fast(frames[:1], (H, C), True) for _ in range(2)]
    torch.testing.assert_close(ways[0], plain(frames[:1], (H, C), True))
    torch.testing.assert_close(torch.fx.symbolic_trace(torch.nn.Identity())(X), X)


class Asks(cells.Memory):
    """Takes one state or two."""

    def forward(self, x, state):
        if isinstance(state, Tensor):
            h, c = state, 0.5 * state
        else:
            h, c = state
        return cells.step(self.both(x, h), c)


class AsksOtherwise(cells.Memory):
    def forward(self, x, state):
        h, c = (state, 0.5 * state) if not isinstance(state, tuple) else state
        return cells.step(self.both(x, h), c)


class Masked(cells.Memory):
    def forward(self, x, h, c, mask=None):
        h, c = cells.step(self.both(x, h), c)
        if mask is not None:
            h = mask * h
        return h, c


class Drops(cells.Memory):
    def forward(self, x, h, c):
        gates = functional.dropout(self.both(x, h), 0.5, self.training)
        return cells.step(gates, c if self.training else 2 * c)


class NotNone(cells.Memory):
    """Attributes of all kinds, and a question that is asked otherwise."""

    def __init__(self):
        super().__init__()
        self.tables, self.others = {"scale": [1.0]}, [object()]

    def forward(self, x, h, c):
        if x != None and (False if h == None else True):  # noqa: E711, SIM211
            c = self.tables["scale"][0] * c
        return cells.step(self.both(x, h), c)


class Anything(cells.Memory):
    def forward(self, x, *states):
        return cells.step(self.both(x, states[0]), states[1])


@pytest.mark.parametrize("kind", [Asks, AsksOtherwise])
def test_one_state_or_two(kind):
    plain, fast = pair(kind)
    for state, called in ((H, ["lstm_gates"]), ((H, C), [])):
        assert operators(fast, (X, state)) == called
        assert_same(results(fast, (X, state)), results(plain, (X, state)))


def test_a_mask():
    plain, fast = pair(Masked)
    for given in (ALL, (*ALL, None), (*ALL, C.sign())):
        assert operators(fast, given) == ["lstm_gates"]
        torch.testing.assert_close(fast(*given), plain(*given))


def test_modes():
    plain, fast = pair(Drops)
    for training in (True, False):
        got = []
        for cell in (plain, fast):
            torch.manual_seed(0)
            got.append(cell.train(training)(*ALL))
        torch.testing.assert_close(*got)
        assert operators(fast, ALL) == ["lstm_gates"]


def test_tables():
    plain, fast = pair(NotNone)
    assert operators(fast, ALL) == ["lstm_gates"]
    for cell in (plain, fast):
        cell.tables["scale"][0] = 2.0
    assert operators(fast, ALL) == []
    assert_same(results(fast, ALL), results(plain, ALL))


def test_states_of_any_number():
    plain, fast = pair(Anything)
    assert operators(fast, ALL) == ["lstm_gates"]
    assert_same(results(fast, ALL), results(plain, ALL))


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ((X, H, C.float()), []),
        ((X, H, C[:1]), []),
        ((X, H, C[:, :1]), []),
        ((X.transpose(2, 3), H.transpose(2, 3), C.transpose(2, 3)), ["lstm_gates"]),
        ((X[:0], H[:0], C[:0]), ["lstm_gates"]),
    ],
)
def test_sizes_and_dtypes(given, called):
    plain, fast = pair(cells.Chunks)
    assert operators(fast, given) == called
    wanted = plain(*given)
    torch.testing.assert_close(fast(*given), wanted)
    assert [t.dtype for t in fast(*given)] == [t.dtype for t in wanted]


@pytest.mark.parametrize("kind", [cells.Chunks, cells.ResetBefore, cells.ResetAfter])
def test_autocast(kind):
    plain, fast = pair(kind)
    given = [t.float() for t in ALL][: 3 if kind is cells.Chunks else 2]
    with torch.autocast("cpu", torch.bfloat16):
        assert operators(fast.float(), given)
        got, wanted = fast(*given), plain.float()(*given)
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["Chunks", "ResetBefore", "Peepholes"])
def test_other_machinery(name):
    """Compiled, traced by others, and under vmap."""
    _, fast = pair(getattr(cells, name))
    given = ALL[:2] if name == "ResetBefore" else ALL
    torch.compiler.reset()
    compiled = torch.compile(fast, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*given), fast(*given))
    torch.testing.assert_close(torch.fx.symbolic_trace(fast)(*given), fast(*given))
    exported = torch.export.export(fast, tuple(given)).module()
    torch.testing.assert_close(exported(*given), fast(*given))
    stacked = [torch.stack([t, t]) for t in given]
    mapped = torch.func.vmap(fast)(*stacked)
    torch.testing.assert_close(
        [t[0] for t in mapped] if isinstance(mapped, tuple) else mapped[0],
        list(fast(*given)) if isinstance(mapped, tuple) else fast(*given),
    )


def test_convolutions_in_cells():
    cell = cells.Chunks()
    cell.conv = nn.Conv2d(2 + FEATURES, 4 * FEATURES, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(8, 16, 3), cell)
    report = accelerate(net)
    assert report.convolutions == ["0"] and list(report.gates) == ["1"]
    lines = str(report).splitlines()
    assert lines == ["1: lstm_gates, order ifgo", "convolutions: 1 (0)"]


def test_convolutions_by_torchs_function():
    plain, fast = pair(cells.Functions)
    assert operators(fast, ALL) == ["conv2d", "conv2d", "lstm_gates"]
    assert_same(results(fast, ALL), results(plain, ALL))


class Standardized(nn.Conv2d):
    """A layer of a class of its own; its weight is computed anew in each call."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class ByStride(Standardized):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else functional.conv2d(x, self.weight)


def test_convolutions_without_gates():
    plain = Standardized(2, 4, 3, padding=1).double()
    fast = copy.deepcopy(plain)
    assert accelerate(fast).gates == {"": "conv2d"}
    assert operators(fast, (X,)) == ["conv2d"]
    assert_same(results(fast, (X,)), results(plain, (X,)))
    # What cannot be traced is nothing that anybody has to be told of.
    report = accelerate(ByStride(2, 4, 3))
    assert not report.gates and not report.left_alone
