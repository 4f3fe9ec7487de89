"""Forwards that ask for sizes, or take any number of arguments."""

import gate_cells as cells
import pytest
import torch
from gate_cells import FEATURES, SIZE
from test_accelerate_by_computation import assert_same, operators, results
from test_gate_guards import ALL, C, H, X, normal, pair
from torch import nn
from torch.nn import functional

from trajgru_ext import accelerate


class Resizes(cells.Memory):
    """What it does to the state depends on its size."""

    def forward(self, x, h, c):
        if x.shape[2] * x.shape[3] > h.shape[2] * h.shape[3]:
            h, c = (functional.interpolate(one, x.shape[2:]) for one in (h, c))
        elif x.shape[2:] != h.shape[2:]:
            h, c = h[:, :, : x.shape[2], : x.shape[3]], c[..., : x.shape[2], :]
            c = c[..., : x.shape[3]]
        return cells.step(self.both(x, h), c)


class Loops(cells.Memory):
    """All steps in one call; the layer inside counts its calls."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4 * FEATURES)

    def forward(self, inputs):
        size = [inputs.size(1), FEATURES, *inputs.shape[3:]]
        h = c = inputs.new_zeros(size)
        outputs = []
        for t in range(inputs.shape[0]):
            i, f, g, o = self.norm(self.both(inputs[t], h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs += [h]
        return torch.stack(outputs)


class AnyNumber(cells.ResetBefore):
    """Inputs as many as there are, and an option by its name."""

    def forward(self, h, *inputs, scale=1.0, **unused):
        x = scale * torch.cat(inputs, 1)
        return super().forward(x, h)


def test_what_holds_is_not_in_the_way():
    plain, fast = pair(cells.Checks)
    assert operators(fast, ALL) == ["lstm_gates"]
    assert_same(results(fast, ALL), results(plain, ALL))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((X, H[..., 1:], C), AssertionError, r"h must be \[5, 6\]"),
        ((X[:1], H[:1], C[:1]), ValueError, "a batch of two"),
        ((X, H, C[:1]), AssertionError, None),
    ],
)
def test_what_does_not_hold_is_said_by_the_original(given, error, message):
    _, fast = pair(cells.Checks)
    with pytest.raises(error, match=message):
        fast(*given)
    assert operators(fast, ALL) == ["lstm_gates"]


def test_each_size_takes_its_way():
    plain, fast = pair(Resizes)
    small, large = (normal(2, FEATURES, *size) for size in ((3, 3), (8, 9)))
    for _ in range(2):
        for h, c in ((H, C), (small, 2 * small), (large, 2 * large)):
            assert operators(fast, (X, h, c)) == ["lstm_gates"]
            assert_same(results(fast, (X, h, c)), results(plain, (X, h, c)))


def test_loops_over_a_size():
    plain, fast = pair(Loops)
    for steps in (3, 1, 5, 3):
        given = (normal(steps, 2, 2, *SIZE),)
        assert_same(results(fast, given), results(plain, given))
        # Nothing ran twice to find the way.
        assert fast.norm.num_batches_tracked == plain.norm.num_batches_tracked
        torch.testing.assert_close(fast.norm.running_mean, plain.norm.running_mean)
        assert operators(fast.eval(), given) == ["lstm_gates"] * steps
        fast.train()
    many = (normal(70, 1, 2, 2, 2),)
    assert operators(fast, many) == []
    plain(*many)
    assert fast.norm.num_batches_tracked == plain.norm.num_batches_tracked


def test_many_sizes_run_the_original():
    _, fast = pair(Loops)
    called = [len(operators(fast, (normal(n, 1, 2, 2, 2),))) for n in range(1, 45)]
    assert called[:20] == [*range(1, 21)]
    assert called[40:] == [0] * 4


def test_any_number_of_arguments():
    plain, fast = pair(AnyNumber)
    kinds = ["gru_reset", "gru_output"]
    for inputs in ((X,), (X[:, :1], X[:, 1:]), (X[:, :1], X[:, 1:2], X[:, :0])):
        given = (H, *inputs)
        assert operators(fast, given) == kinds
        assert_same(results(fast, given), results(plain, given))
    torch.testing.assert_close(fast(H, X, scale=2.0), plain(H, X, scale=2.0))
    torch.testing.assert_close(fast(H, X, other=1), plain(H, X, other=1))
    for wrong in ((), (H,)):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            fast(*wrong)


class ByName(cells.Chunks):
    def forward(self, x, *, h, c):
        return super().forward(x, h, c)


def test_wrong_calls_are_refused_as_before():
    plain, fast = pair(ByName)
    torch.testing.assert_close(fast(X, h=H, c=C), plain(X, h=H, c=C))
    for args, kwargs in (((X, H, C), {}), ((X,), {"h": H}), ((X, H), {"c": C})):
        with pytest.raises(TypeError) as wanted:
            plain(*args, **kwargs)
        with pytest.raises(TypeError) as got:
            fast(*args, **kwargs)
        assert str(got.value) == str(wanted.value)


class Values(cells.Chunks):
    """A loop over what is in a tensor, which is no size."""

    def forward(self, x, h, c):
        for _ in range(int(c.sum())):
            h = 2 * h
        return super().forward(x, h, c)


def test_values_are_no_sizes():
    report = accelerate(Values())
    assert not report.gates
    assert "cannot be traced" in report.left_alone[""]


@pytest.mark.parametrize("kind", [Loops, Resizes, cells.Checks])
def test_compiled(kind):
    plain, fast = pair(kind)
    few, many = normal(3, 2, 2, *SIZE), normal(5, 2, 2, *SIZE)
    large = normal(2, FEATURES, 8, 9)
    calls = {
        Loops: [(few,), (many,)],
        Resizes: [ALL, (X, large, large)],
        cells.Checks: [ALL],
    }
    compiled = torch.compile(fast.eval(), backend="aot_eager", fullgraph=True)
    for given in calls[kind]:
        assert_same(results(compiled, given), results(plain.eval(), given))
