"""accelerate and restore, on plain PyTorch renderings of the published classes."""

import copy
import io
import pickle
import re
import warnings

import pytest
import torch
from ported_networks import TrajGRU
from published import convgru, convlstm, gate_by_gate, openstl
from torch import nn

from trajgru_ext import accelerate, compat, restore

SIZE = (6, 8)
STEPS, BATCH = 3, 2
KERNELS = [(3, 3), (5, 3)]
COMPAT = "trajgru_ext.compat"


class NowcastingConvLSTM(nn.Module):
    """Precipitation-Nowcasting's; the name is that of the original below."""

    def __init__(self, input_channel, num_filter, b_h_w, kernel_size):
        super().__init__()
        both = input_channel + num_filter
        self._conv = nn.Conv2d(both, 4 * num_filter, kernel_size, 1, kernel_size // 2)
        self._batch_size, self._state_height, self._state_width = b_h_w
        for name in ("Wci", "Wcf", "Wco"):
            setattr(self, name, nn.Parameter(torch.randn(1, num_filter, *b_h_w[1:])))
        self._input_channel = input_channel
        self._num_filter = num_filter

    def forward(self, inputs=None, states=None, seq_len=5):
        h, c = states
        outputs = []
        for t in range(seq_len):
            x = h.new_zeros(len(h), self._input_channel, *h.shape[2:])
            x = x if inputs is None else inputs[t]
            i, f, g, o = self._conv(torch.cat([x, h], 1)).chunk(4, 1)
            i, f = i + self.Wci * c, f + self.Wcf * c
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = (o + self.Wco * c).sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)


NowcastingConvLSTM.__name__ = NowcastingConvLSTM.__qualname__ = "ConvLSTM"
ConvLSTM = NowcastingConvLSTM  # for pickles


class Model(nn.Module):
    """One of everything, somewhere inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        gru = (SIZE, 2, [3, 4], KERNELS, 2, torch.DoubleTensor)
        bhw = (BATCH, *SIZE)
        self.layers = nn.ModuleDict(
            {
                "lstm": convlstm.ConvLSTM(2, [3, 4], KERNELS, 2, True),
                "all": convlstm.ConvLSTM(2, [3], KERNELS[:1], 1, False, False, True),
                "gru": convgru.ConvGRU(*gru, return_all_layers=True),
                "gates": gate_by_gate.ConvLSTM(2, [3, 4], 3, 3, [1, 2]),
                "nowcasting": NowcastingConvLSTM(2, 3, bhw, 3),
            }
        )
        self.normed = openstl.ConvLSTMCell(2, 3, *SIZE, 3, 1, True)
        self.plain = openstl.ConvLSTMCell(2, 3, *SIZE, 5, 1, False)
        self.cell = convlstm.ConvLSTMCell(2, 3, (3, 3), True)
        self.gru_cell = convgru.ConvGRUCell(SIZE, 2, 3, (3, 5), True, None)
        self.encoder = nn.Sequential(TrajGRU(2, 3, bhw, L=3))
        self.newer = TrajGRU(2, 3, bhw, align_corners=False)
        self.forecaster = TrajGRU(2, 3, bhw, L=2, act_type=torch.tanh)
        self.double()

    def forward(self, x):
        nets = self.layers
        h = x.new_ones(BATCH, 3, *SIZE)
        found = [nets[name](x) for name in ("lstm", "all", "gru")]
        found += [nets["gates"](x[0]), nets["nowcasting"](x, (h, h), STEPS)]
        found += [self.normed(x[0], h, h), self.plain(x[0], h, h)]
        found += [self.cell(x[0], (h, h)), self.gru_cell(x[0], h)]
        states, last = self.encoder[0](x, None, STEPS)
        found += [states, last, self.newer(x, h, STEPS)]
        return [*found, self.forecaster(None, last, seq_len=4)]


def frames():
    torch.manual_seed(1)
    return torch.randn(STEPS, BATCH, 2, *SIZE, dtype=torch.float64)


def tensors(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for one in results for tensor in tensors(one)]


def outputs_and_gradients(model, inputs):
    outputs = tensors(model(inputs))
    total = sum((k + 1) * (t**2).sum() for k, t in enumerate(outputs))
    parameters = list(model.parameters())
    return outputs, torch.autograd.grad(total, parameters, allow_unused=True)


EVERYTHING = {
    "layers.lstm": "convlstm_pytorch.ConvLSTM",
    "layers.all": "convlstm_pytorch.ConvLSTM",
    "layers.gru": "convgru_pytorch.ConvGRU",
    "layers.gates": "convolutional_lstm_pytorch.ConvLSTM",
    "layers.nowcasting": "precipitation_nowcasting.ConvLSTM",
    "normed": "openstl.ConvLSTMCell",
    "plain": "openstl.ConvLSTMCell",
    "cell": "convlstm_pytorch.ConvLSTMCell",
    "gru_cell": "convgru_pytorch.ConvGRUCell",
    "encoder.0": "precipitation_nowcasting.TrajGRU",
    "newer": "precipitation_nowcasting.TrajGRU",
    "forecaster": "precipitation_nowcasting.TrajGRU",
}


@pytest.mark.parametrize("ran_before", [False, True], ids=["fresh", "ran"])
@pytest.mark.parametrize("recompute", ["none", "gates", "flows"])
def test_every_class(recompute, ran_before):
    model, inputs = Model(), frames()
    wanted = outputs_and_gradients(copy.deepcopy(model), inputs)
    if ran_before:
        model(inputs)
    before = dict(model.named_parameters())
    report = accelerate(model, recompute=recompute)
    assert report.replaced == {k: f"{COMPAT}.{v}" for k, v in EVERYTHING.items()}
    assert not report.left_alone
    assert "encoder.0: trajgru_ext.compat.precip" in str(report)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in after)
    outputs, gradients = outputs_and_gradients(model, inputs)
    torch.testing.assert_close(outputs, wanted[0], rtol=0, atol=1e-10)
    for got, one in zip(gradients, wanted[1], strict=True):
        assert (got is None) == (one is None)
        if got is not None:
            torch.testing.assert_close(got, one, rtol=0, atol=1e-9)


def test_restore():
    model, inputs = Model(), frames()
    wanted = model(inputs)
    classes = [type(m) for m in model.modules()]
    attributes = [dict(vars(m)) for m in model.modules()]
    accelerate(model)
    assert [type(m) for m in model.modules()] != classes
    names = restore(model)
    assert set(EVERYTHING) <= set(names)
    assert [type(m) for m in model.modules()] == classes
    assert [dict(vars(m)) for m in model.modules()] == attributes
    torch.testing.assert_close(model(inputs), wanted, rtol=0, atol=0)
    assert restore(model) == []


def test_the_model_itself_and_twice():
    model = TrajGRU(2, 3, (1, *SIZE))
    original = type(model)
    assert list(accelerate(model).replaced) == [""]
    assert isinstance(model, original)
    assert isinstance(model, compat.precipitation_nowcasting.TrajGRU)
    again = accelerate(model)
    assert not again.replaced and not again.left_alone
    assert str(again) == "no published class was found"
    restore(model)
    assert type(model) is original


def test_what_depends_on_the_model_goes_on():
    model, inputs = Model(), frames()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = []
    model.newer.ret.weight.register_hook(lambda grad: seen.append("gradient"))
    model.newer.register_forward_hook(lambda *_: seen.append("forward"))
    state = {name: t.clone() for name, t in model.state_dict().items()}
    accelerate(model)
    assert seen == []
    assert list(model.state_dict()) == list(state)
    model.eval()
    assert not model.encoder[0].training
    model.train()
    sum(t.sum() for t in tensors(model(inputs))).backward()
    assert seen == ["forward", "gradient"]
    optimizer.step()
    assert not torch.equal(model.newer.ret.weight, state["newer.ret.weight"])
    model.load_state_dict(state)
    wanted = Model()(inputs)
    torch.testing.assert_close(model(inputs), wanted, rtol=0, atol=1e-10)
    model.float()
    model.layers["gru"].cell_list[0].dtype = torch.FloatTensor
    assert {t.dtype for t in tensors(model(inputs.float()))} == {torch.float32}


def test_copies_and_pickles():
    model, inputs = Model(), frames()
    accelerate(model)
    wanted = model(inputs)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(saved, weights_only=False),
    ):
        torch.testing.assert_close(other(inputs), wanted, rtol=0, atol=0)
        assert set(EVERYTHING) <= set(restore(other))
        torch.testing.assert_close(other(inputs), wanted, rtol=0, atol=1e-10)
    assert set(EVERYTHING) <= set(restore(model))


def test_accelerated_models_compile():
    model = nn.Sequential(TrajGRU(2, 3, (1, *SIZE)))
    accelerate(model)
    inputs = torch.randn(5, 1, 2, *SIZE)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))


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
    assert "its class has its own forward" in report.left_alone["0"]
    assert type(model[0]) is Shuffled
    assert list(report.replaced) == ["0.cell_list.0"]
    inherits = nn.Sequential(OtherGates(2, 3, (3, 3), True))
    assert list(accelerate(inherits).replaced) == ["0"]


def changed(kind, *args, **attributes):
    module = kind(*args)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def other_gates(self, input_tensor, cur_state):
    """In the order f, i, o, g."""
    h, c = cur_state
    f, i, o, g = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def hooked(module):
    """Old-style normalisation computes the weight in a hook before the layer."""
    module.ret.register_forward_pre_hook(lambda *_: None)
    return module


def normed(module):
    nn.utils.parametrizations.weight_norm(module.ret)
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
        (lambda: changed(*TRAJ, _act_type=torch.sin), "act_type must be.*'sin'"),
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
        (lambda: changed(*CELL, hidden_dim=4), "conv.weight must be .16, 6, 3, 3., "),
        (lambda: changed(*LSTM, num_layers=2), "num_layers=2"),
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


class TutorialCell(convlstm.ConvLSTMCell):
    """Gates in the order f, i, o, g; the name is that of the original below."""

    def forward(self, input_tensor, cur_state):
        h, c = cur_state
        f, i, o, g = self.conv(torch.cat([input_tensor, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


TutorialCell.__name__ = "ConvLSTMCell"


def test_other_numbers_are_noticed():
    model = nn.Sequential(TutorialCell(2, 3, (3, 3), True))
    assert re.search(
        "its numbers are others: result . by .*, result . by", left(model)["0"]
    )
    assert type(model[0]) is TutorialCell
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_verify(dtype):
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
    model = OnStates(TutorialCell(2, 3, (3, 3), True))
    sample = torch.randn(2, 2, *SIZE), torch.randn(2, 3, *SIZE)
    message = "relative differences: .* by .*, and 3 more"
    with pytest.raises(ValueError, match=message):
        accelerate(model, verify=sample, probe=False)
    assert type(model.cell) is TutorialCell
    assert restore(model) == []


def test_verify_takes_one_tensor():
    model = nn.Sequential(nn.Identity(), TrajGRU(2, 3, (BATCH, *SIZE)))
    sample = torch.randn(STEPS, BATCH, 2, *SIZE)
    assert list(accelerate(model, verify=sample).replaced) == ["1"]


def test_errors():
    with pytest.raises(TypeError, match="accelerate: model must be a Module, got int"):
        accelerate(3)
    with pytest.raises(ValueError, match="accelerate: recompute must be one of"):
        accelerate(nn.Identity(), recompute="all")
