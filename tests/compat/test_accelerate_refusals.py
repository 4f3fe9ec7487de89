"""What accelerate leaves alone, and what verify refuses."""

import copy
import re
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ports import convgru_pytorch as convgru
from ports import convlstm_pytorch as convlstm
from ports.precipitation_nowcasting import TrajGRU
from ports.updates import lstm
from trajgru_ext import accelerate, restore

SIZE = (6, 8)
STEPS, BATCH = 3, 2
KERNELS = [(3, 3), (5, 3)]


class OtherGates(convlstm.ConvLSTMCell):
    """The order of another tutorial, in a class that inherits the forward pass."""


class Shuffled(convlstm.ConvLSTM):
    def forward(self, input_tensor, hidden_state=None):
        return super().forward(input_tensor.flip(1), hidden_state)


def left(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return accelerate(model, **options).left_alone


def test_a_subclass_with_its_own_forward():
    model = nn.Sequential(Shuffled(2, [3], KERNELS[:1], 1))
    with pytest.warns(UserWarning, match="accelerate: 0 is left alone.*own forward"):
        report = accelerate(model)
    assert report.left_alone["0"] == "it has a class with its own forward"
    assert type(model[0]) is Shuffled
    assert list(report.replaced) == ["0.cell_list.0"]
    inherits = nn.Sequential(OtherGates(2, 3, (3, 3), True))
    assert list(accelerate(inherits).replaced) == ["0"]


def changed(kind, *args, **attributes):
    module = kind(*args)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def hooked(module):
    """Old-style normalisation computes the weight in a hook before the layer."""
    module.ret.register_forward_pre_hook(lambda *_: None)
    return module


def normed(module):
    nn.utils.parametrizations.weight_norm(module.ret)
    return module


class DropCell(convlstm.ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        return super().forward(input_tensor.relu(), cur_state)


class Named(convlstm.ConvLSTMCell):
    def sequence(self):
        return "a method of ours by its name"


class OtherName(nn.Module):
    forward = convlstm.ConvLSTMCell.forward


class Tensors(convlstm.ConvLSTM):
    def forward(self, input_tensor, hidden_state=None):
        return super().forward(input_tensor, hidden_state)[0][0]


class Masked(convlstm.ConvLSTM):
    def forward(self, input_tensor, h=None, mask=None):
        return super().forward(input_tensor)


class Remembers(convlstm.ConvLSTM):
    def forward(self, input_tensor, hidden_state=None):
        self.count = getattr(self, "count", 0) + 1
        outputs, last = super().forward(input_tensor, hidden_state)
        return [one * self.count for one in outputs], last


class ToWhereItGoes(TrajGRU):
    def wrap(self, image, flow):
        return super().wrap(image, -flow)


class Drops(convlstm.ConvLSTMCell):
    def forward(self, input_tensor, cur_state):
        dropped = nn.functional.dropout(input_tensor, 0.5, self.training)
        return super().forward(dropped, cur_state)


for changed_class in (Tensors, Masked, Remembers):
    changed_class.__name__ = "ConvLSTM"
ToWhereItGoes.__name__, Drops.__name__ = "TrajGRU", "ConvLSTMCell"


def inside(kind):
    """A layer whose cell is of another class."""
    module = changed(*LSTM)
    module.cell_list[0].__class__ = kind
    return module


BHW = (1, *SIZE)
TRAJ = (TrajGRU, 2, 3, BHW)
CELL = (convlstm.ConvLSTMCell, 2, 3, (3, 3), True)
LSTM = (convlstm.ConvLSTM, 2, [3], KERNELS[:1], 1)
GRU = (convgru.ConvGRU, SIZE, 2, [3], KERNELS[:1], 1, None)
DILATED = nn.Conv2d(3, 32, 5, padding=4, dilation=2)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: changed(*TRAJ, _act_type=torch.sin), "act_type must be an.*sin"),
        (lambda: changed(*TRAJ, _L=4), "flows_conv.weight must be .8, 32, 5, 5., got"),
        (lambda: changed(*TRAJ, _zoneout=2), "zoneout must lie in .0, 1., got 2"),
        (lambda: changed(*TRAJ, extra=nn.Linear(1, 1)), "it also has extra.bias, ext"),
        (lambda: changed(*TRAJ, extra=nn.ReLU()), "it has other layers"),
        (lambda: changed(*TRAJ, h2f_conv1=DILATED), "h2f_conv1 must be Conv.*dilation"),
        (
            lambda: changed(*TRAJ, ret=nn.Conv2d(15, 9, 1, bias=False)),
            "ret.bias must be .9., got None",
        ),
        (lambda: normed(changed(*TRAJ)), "it also has ret.parametrizations.weight"),
        (lambda: hooked(changed(*TRAJ)), "hooks would no longer run in ret"),
        (lambda: changed(*CELL, forward=lambda *_: 0), "it has a forward of its own"),
        (lambda: changed(*LSTM, num_layers=2), "num_layers=2"),
        (lambda: changed(*LSTM).to("meta"), "on the meta device"),
        (lambda: inside(DropCell), "cell_list.0 has a class with its own forward"),
        (lambda: inside(Named), "cell_list.0 has a class with its own sequence"),
        (lambda: inside(OtherName), "cell_list.0 has a class of another name, OtherN"),
        (lambda: Tensors(*LSTM[1:]), "its numbers are others: the results are"),
        (
            lambda: Masked(*LSTM[1:]),
            "it has a forward that takes .input_tensor, h,",
        ),
        (lambda: Remembers(*LSTM[1:]), "its numbers change from call to call"),
        (lambda: ToWhereItGoes(*TRAJ[1:]), "its numbers are others: result 0 by"),
        (lambda: type("TrajGRU", (nn.Linear,), {})(2, 3), "but not the attributes"),
        (lambda: changed(*GRU, dtype=None), "it does not run: TypeError"),
    ],
)
def test_left_alone(make, why):
    model = nn.Sequential(make())
    kind = type(model[0])
    found = left(model)
    assert re.search(why, found["0"])
    assert type(model[0]) is kind


@pytest.mark.parametrize(
    "make", [lambda: changed(*CELL, hidden_dim=4), lambda: Drops(*CELL[1:])]
)
def test_no_published_cells_but_gates_all_the_same(make):
    report = accelerate(nn.Sequential(make()))
    assert report.gates == {"0": "lstm_gates, order ifog"}
    assert not report.replaced and not report.left_alone


class OwnStates(convlstm.ConvLSTMCell):
    """As published, but for how it makes the states to begin with."""

    def init_hidden(self, batch_size, device):
        zero = torch.full((batch_size, self.hidden_dim, *SIZE), 0.5, device=device)
        return zero, -zero


class OwnNames(convlstm.ConvLSTMCell):
    """A method of another meaning, which a cell of ours has as well."""

    def forward(self, input_tensor, cur_state):
        return super().forward(input_tensor, cur_state)

    def sequence(self, frames):
        zero = torch.zeros(1, self.hidden_dim, *SIZE)
        return [self(frame, (zero, zero)) for frame in frames]


OwnStates.__name__ = OwnNames.__name__ = "ConvLSTMCell"


def test_what_begins_states_is_their_own():
    cell = OwnStates(2, 3, (3, 3), True)
    wanted = cell.init_hidden(1, torch.device("cpu"))
    assert list(accelerate(cell).replaced) == [""]
    torch.testing.assert_close(cell.init_hidden(1, torch.device("cpu")), wanted)
    torch.testing.assert_close(copy.deepcopy(cell).init_hidden(1, "cpu"), wanted)


def test_methods_of_their_own_stay():
    cell = OwnNames(2, 3, (3, 3), True)
    frames = [torch.randn(1, 2, *SIZE) for _ in range(2)]
    wanted = cell.sequence(frames)
    report = accelerate(nn.Sequential(cell))
    assert not report.replaced
    assert list(report.gates) == ["0"]
    torch.testing.assert_close(cell.sequence(frames), wanted)


class TutorialCell(convlstm.ConvLSTMCell):
    """Gates in the order f, i, o, g; the name is that of the original below."""

    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        f, i, o, g = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
        return lstm(i, f, g, o, c)


class Untraceable(TutorialCell):
    def forward(self, input_tensor, cur_state):
        return super().forward(
            input_tensor, tuple(-s if s.sum() > 9e9 else s for s in cur_state)
        )


TutorialCell.__name__ = Untraceable.__name__ = "ConvLSTMCell"


def test_other_numbers_are_noticed():
    """It is then known by what it computes, if its forward can be traced."""
    model = nn.Sequential(TutorialCell(2, 3, (3, 3), True))
    report = accelerate(model)
    assert report.gates == {"0": "lstm_gates, order fiog"}
    assert not report.replaced and not report.left_alone
    model = nn.Sequential(Untraceable(2, 3, (3, 3), True))
    assert re.search(
        "its numbers are others: result . by .*, result . by", left(model)["0"]
    )
    assert type(model[0]) is Untraceable
    trusted = accelerate(model, probe=False)
    assert list(trusted.replaced) == ["0"]


class OnStates(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.cell = cell
        self.dropout = nn.Dropout(0.5)

    def forward(self, image, h):
        return {"last": self.cell(self.dropout(self.norm(image)), (h, h))}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)
def test_verify(dtype):
    torch.manual_seed(0)
    model = OnStates(convlstm.ConvLSTMCell(2, 3, (3, 3), True)).to(dtype)
    model.cell.conv.bias.requires_grad_(False)
    sample = torch.randn(2, 2, *SIZE).to(dtype), torch.randn(2, 3, *SIZE).to(dtype)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    numbers = torch.get_rng_state()
    report = accelerate(model, verify=sample)
    assert list(report.replaced) == ["cell"]
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])


def test_verify_refuses():
    torch.manual_seed(0)
    model = OnStates(TutorialCell(2, 3, (3, 3), True))
    sample = torch.randn(2, 2, *SIZE), torch.randn(2, 3, *SIZE)
    message = "relative differences: .* by .*, and 3 more"
    with pytest.raises(ValueError, match=message):
        accelerate(model, verify=sample, probe=False)
    assert type(model.cell) is TutorialCell
    assert restore(model) == []


@dataclass
class Forecast:
    frames: torch.Tensor


class InAnObject(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = convlstm.ConvLSTMCell(2, 3, (3, 3), True)

    def forward(self, image, h):
        return Forecast(self.cell(image, (h, h))[0])


def test_verify_needs_tensors():
    sample = torch.randn(2, 2, *SIZE), torch.randn(2, 3, *SIZE)
    with pytest.raises(ValueError, match="no tensors in the results to compare"):
        accelerate(InAnObject(), verify=sample)


def test_verify_takes_one_tensor():
    model = nn.Sequential(nn.Identity(), TrajGRU(2, 3, (BATCH, *SIZE)))
    sample = torch.randn(STEPS, BATCH, 2, *SIZE)
    assert list(accelerate(model, verify=sample).replaced) == ["1"]


def test_errors():
    with pytest.raises(TypeError, match="accelerate: model must be a Module, got int"):
        accelerate(3)
    with pytest.raises(ValueError, match="accelerate: recompute must be one of"):
        accelerate(nn.Identity(), recompute="all")


class ZerosOfAParameter(nn.Module):
    """Sizes of an argument in a method of a tensor that no tracer sees."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        weight = next(self.parameters())
        zeros = weight.new_zeros(x.shape[0], 2, *x.shape[2:])
        i, f, g, o = self.conv(x).chunk(4, 1)
        return torch.sigmoid(o) * torch.tanh(
            f.sigmoid() * zeros + i.sigmoid() * g.tanh()
        )


def test_a_tensor_that_is_not_traced_is_no_crash():
    torch.manual_seed(0)
    model, x = ZerosOfAParameter(), torch.randn(2, 3, 5, 6)
    wanted = model(x)
    accelerate(model)
    torch.testing.assert_close(model(x), wanted)
