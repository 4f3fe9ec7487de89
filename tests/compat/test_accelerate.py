"""accelerate and restore, on plain PyTorch renderings of the published classes."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from ports import convgru_pytorch as convgru
from ports import convlstm_pytorch as convlstm
from ports import convolutional_lstm_pytorch as gate_by_gate
from ports import openstl
from ports.precipitation_nowcasting import HKO7, ConvLSTM, TrajGRU, network
from trajgru_ext import accelerate, compat, restore

SIZE = (6, 8)
STEPS, BATCH = 3, 2
KERNELS = [(3, 3), (5, 3)]
COMPAT = "trajgru_ext.compat"


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
                "nowcasting": ConvLSTM(2, 3, bhw, 3),
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
    kind = type(model)
    with pytest.raises(AttributeError):
        accelerate(model, verify="not frames")
    assert type(model) is kind
    assert accelerate(model, recompute="gates").replaced
    assert model.recompute == "gates"
    restore(model)
    assert type(model) is original
    assert str(accelerate(nn.Identity())) == "nothing was found to make fast"


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


def test_peepholes_that_are_no_parameters():
    """As the original has them on a GPU."""
    model = ConvLSTM(2, 3, (BATCH, *SIZE), 3)
    for name in ("Wci", "Wcf", "Wco"):
        values = getattr(model, name).detach()
        delattr(model, name)
        setattr(model, name, values)
    inputs, states = torch.randn(2, BATCH, 2, *SIZE), torch.randn(2, BATCH, 3, *SIZE)
    wanted = model(inputs, states, 2)
    assert list(accelerate(model).replaced) == [""]
    torch.testing.assert_close(model(inputs, states, 2), wanted)
    model.load_state_dict(model.state_dict())


def test_calls_of_the_originals():
    """By keyword; results are viewed; without inputs the number is the class's own."""
    model = convlstm.ConvLSTM(2, [3], KERNELS[:1], 1)
    inputs = torch.randn(STEPS, BATCH, 2, *SIZE)
    wanted = model(inputs)
    assert list(accelerate(model.cell_list[0]).replaced) == [""]
    torch.testing.assert_close(model(input_tensor=inputs), wanted)
    accelerate(model)
    outputs, _ = model(input_tensor=inputs)
    assert outputs[0].view(BATCH * STEPS, 3, *SIZE).shape == (6, 3, *SIZE)
    layer = TenFrames(2, 3, (1, *SIZE))
    accelerate(layer)
    assert len(layer(None, torch.ones(1, 3, *SIZE))[0]) == 10


class TenFrames(TrajGRU):
    def forward(self, inputs=None, states=None, seq_len=10):
        return super().forward(inputs, states, seq_len)


TenFrames.__name__ = "TrajGRU"


def test_accelerated_models_compile():
    model = nn.Sequential(TrajGRU(2, 3, (1, *SIZE)))
    accelerate(model)
    inputs = torch.randn(5, 1, 2, *SIZE)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(inputs), model(inputs))


@pytest.mark.parametrize("recompute", ["none", "gates", "flows"])
def test_network(recompute):
    """Its stages run on images whose channels are together."""
    sizes = HKO7._replace(image=60, sizes=[12, 4, 2], frames=2, ahead=3)
    torch.manual_seed(0)
    model, inputs = network(sizes).double(), torch.rand(2, 3, 1, 60, 60).double()
    wanted = outputs_and_gradients(copy.deepcopy(model), inputs)
    report = accelerate(model, verify=inputs, recompute=recompute)
    halves = ("encoder", "forecaster")
    names = {
        f"{half}.{kind}{k}"
        for half in halves
        for kind in ("stage", "rnn")
        for k in (1, 2, 3)
    }
    assert set(report.replaced) == names
    seen = []
    model.encoder.stage2[0].register_forward_hook(lambda m, x, y: seen.append(y))
    outputs, gradients = outputs_and_gradients(model, inputs)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs, wanted[0], rtol=0, atol=1e-10)
    for got, one in zip(gradients, wanted[1], strict=True):
        assert (got is None) == (one is None)
        if got is not None:
            torch.testing.assert_close(got, one, rtol=1e-8, atol=1e-9)
    assert set(restore(model)) == names
    assert type(model.encoder.stage1) is nn.Sequential
    torch.testing.assert_close(model(inputs), wanted[0][0], rtol=0, atol=0)
    assert not accelerate(model.encoder.stage1).replaced
