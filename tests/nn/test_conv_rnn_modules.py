"""ConvLSTM and ConvGRU as modules: layers, states, layouts, published parameters."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from ports import convgru_pytorch, convlstm_pytorch
from trajgru_ext import reference
from trajgru_ext.nn import ConvGRU, ConvGRUCell, ConvLSTM, ConvLSTMCell

KINDS = pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ConvLSTM, {}),
        (ConvLSTM, {"peephole": "channel", "forget_bias": 1.0}),
        (ConvLSTM, {"peephole": "element", "image_size": (4, 5)}),
        (ConvGRU, {}),
        (ConvGRU, {"reset": "before", "update": "replace", "bias": False}),
    ],
    ids=["lstm", "lstm_channel", "lstm_element", "gru", "gru_before"],
)


def make(kind, **options):
    torch.manual_seed(0)
    module = kind(2, [3, 4], [3, 5], 2, dtype=torch.float64, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def sample_inputs(steps=3):
    generator = torch.Generator().manual_seed(1)
    shape = (steps, 2, 2, 4, 5)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@KINDS
def test_steps_of_the_cells(kind, options):
    """Layer over layer, step over step."""
    module, inputs = make(kind, **options), sample_inputs()
    outputs, states = module(inputs)
    last = [None, None]
    for t in range(3):
        image = inputs[t]
        for k, cell in enumerate(module.cell_list):
            last[k] = cell(image, last[k])
            image = last[k][0] if kind is ConvLSTM else last[k]
        assert_close(outputs[t], image)
    assert_close(states, last)


CELLS = pytest.mark.parametrize(
    "make_cell",
    [ConvLSTMCell, ConvGRUCell, lambda *sizes: ConvGRUCell(*sizes, reset="before")],
    ids=["lstm", "gru", "gru_before"],
)


@CELLS
def test_a_step_is_that_of_a_sequence(make_cell):
    """Where it takes another way, too: no pixels, numbers set on a convolution."""
    cell = make_cell(3, 4)
    for size in ((2, 3, 0, 5), (2, 3, 5, 0), (0, 3, 5, 6), (2, 3, 5, 6)):
        x = torch.randn(size)
        found, wanted = cell(x), cell.sequence(x[None])[0][0]
        torch.testing.assert_close(found[0] if type(found) is tuple else found, wanted)
    wanted = cell(x)
    for conv in cell.children():
        conv.padding, conv.dilation = 1, 1
    torch.testing.assert_close(cell(x), wanted)


@CELLS
def test_a_cell_without_inputs_takes_none(make_cell):
    cell, x, h = make_cell(0, 4), torch.randn(2, 0, 6, 7), torch.randn(2, 4, 6, 7)
    state = (h, h) if isinstance(cell, ConvLSTMCell) else h
    with pytest.raises(ValueError, match="input must be None for input_channels=0"):
        cell(x, state)


def test_a_step_of_other_sizes_than_the_peepholes():
    cell = ConvLSTMCell(3, 4, peephole="element", image_size=(6, 7))
    with pytest.raises(ValueError, match="conv_lstm: peephole"):
        cell(torch.randn(2, 3, 5, 5))


@KINDS
def test_states_carry_on(kind, options):
    module, inputs = make(kind, **options), sample_inputs(5)
    outputs, states = module(inputs)
    first, between = module(inputs[:2])
    second, last = module(inputs[2:], between)
    assert_close(torch.cat([first, second]), outputs)
    assert_close(last, states)
    # Without inputs, from states alone.
    alone, _ = module(None, states, steps=2)
    assert alone.shape == (2, 2, 4, 4, 5)


@KINDS
def test_no_steps(kind, options):
    module, inputs = make(kind, **options), sample_inputs()
    _, states = module(inputs)
    outputs, after = module(inputs[:0], states)
    assert outputs.shape == (0, 2, 4, 4, 5)
    assert_close(after, states)
    _, zeros = module(inputs[:0])
    assert torch.stack([*zeros[0]]).eq(0).all()


@KINDS
def test_batch_first_and_all_layers(kind, options):
    inputs = sample_inputs()
    outputs, states = make(kind, **options)(inputs)
    module = make(kind, batch_first=True, return_all_layers=True, **options)
    layers, last = module(inputs.transpose(0, 1))
    assert [tuple(one.shape) for one in layers] == [(2, 3, 3, 4, 5), (2, 3, 4, 4, 5)]
    assert_close(layers[1].transpose(0, 1), outputs)
    assert_close(last, states)


@KINDS
def test_lengths(kind, options):
    module, inputs = make(kind, **options), sample_inputs()
    outputs, states = module(inputs, lengths=[1, 3])
    short, early = module(inputs[:1, :1])
    assert_close(outputs[:1, :1], short)
    assert_close(outputs[2, :1], short[0])
    for got, wanted in zip(states, early, strict=True):
        pairs = [(got, wanted)] if kind is ConvGRU else zip(got, wanted, strict=True)
        for one, other in pairs:
            assert_close(one[:1], other)


@KINDS
def test_both_directions(kind, options):
    """As documented: reversed time in, reversed time out."""
    module, inputs = make(kind, **options), sample_inputs()
    backwards = module(inputs.flip(0))[0].flip(0)
    assert_close(backwards[2], module(inputs[2:])[0][0])


@KINDS
def test_recompute_and_training(kind, options):
    gradients = []
    for recompute in ("none", "gates"):
        module = make(kind, recompute=recompute, **options)
        outputs, _ = module(sample_inputs())
        outputs.square().sum().backward()
        gradients.append([p.grad for p in module.parameters()])
        assert all(grad is not None for grad in gradients[-1])
    assert_close(*gradients)


@KINDS
def test_any_size_and_compile(kind, options):
    if "image_size" in options:
        return
    torch.compiler.reset()
    module = make(kind, **options).float()
    inputs = sample_inputs().float()
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(inputs)[0], module(inputs)[0])
    assert module(torch.randn(2, 1, 2, 7, 3))[0].shape == (2, 1, 4, 7, 3)


def test_published_conv_lstm():
    """One convolution of [x, h], its slices i, f, o, g; `cell_list.0.conv`."""
    module = ConvLSTM(2, 3, batch_first=True).double()
    shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    assert shapes == {
        "cell_list.0.conv.weight": (12, 5, 3, 3),
        "cell_list.0.conv.bias": (12,),
    }
    conv, inputs = module.cell_list[0].conv, sample_inputs()
    h = c = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    for image in inputs:
        h, c = convlstm_pytorch.step(conv, image, h, c)
    outputs, [(last_h, last_c)] = module(inputs.transpose(0, 1))
    assert_close(outputs[:, -1], h)
    assert_close((last_h, last_c), (h, c))
    # None is zero.
    without = module(None, [(h, c)], steps=1)[0]
    zero = torch.zeros(2, 1, 2, 4, 5, dtype=torch.float64)
    assert_close(without, module(zero, [(h, c)])[0])


def test_peepholes_of_a_cell():
    cell = ConvLSTMCell(2, 3, peephole="element", image_size=(4, 5), order="ifgo")
    assert {"Wci", "Wcf", "Wco"} <= set(cell.state_dict())
    assert cell.Wci.shape == (1, 3, 4, 5)
    cell = ConvLSTMCell(2, 3, peephole="channel", order="ifgo").double()
    for weight in (cell.Wci, cell.Wcf, cell.Wco):
        assert not weight.any()
        nn.init.normal_(weight)
    image = sample_inputs()[0]
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    c = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    gates = cell.conv(torch.cat([image, h], 1))
    peephole = (cell.Wci, cell.Wcf, cell.Wco)
    wanted = reference.lstm_gates(gates, None, c, peephole, "ifgo")
    assert_close(cell(image, (h, c)), wanted)


def test_published_conv_gru():
    """Reset before the convolution: `conv_gates` of reset and update, `conv_can`."""
    module = ConvGRU(2, 3, reset="before", update="replace").double()
    assert set(module.state_dict()) == {
        f"cell_list.0.{name}.{kind}"
        for name in ("conv_gates", "conv_can")
        for kind in ("weight", "bias")
    }
    cell, h = module.cell_list[0], torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    inputs = sample_inputs()
    for image in inputs:
        h = convgru_pytorch.step(cell.conv_gates, cell.conv_can, image, h)
    assert_close(module(inputs)[1][0], h)


def test_reset_after_of_a_cell():
    """Each convolution with its bias, that of the state inside the reset."""
    options = {"activation": "leaky_relu", "order": "run", "dilation": 2}
    cell = ConvGRUCell(2, 3, **options).double()
    image = sample_inputs()[0]
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    spread = {"padding": 2, "dilation": 2}
    s = conv2d(h, cell.h2h.weight, cell.h2h.bias, **spread)
    wanted = reference.gru_gates(cell.i2h(image), s, h, "run", "leaky_relu")
    assert_close(cell(image, h), wanted)
    assert_close(cell(None, h), reference.gru_gates(None, s, h, "run", "leaky_relu"))


@KINDS
def test_without_inputs(kind, options):
    """From states alone; only what depends on the state has parameters."""
    torch.manual_seed(0)
    full = kind(2, 3, dtype=torch.float64, **options)
    module = kind(0, 3, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            one = full.get_parameter(name)
            kept = one[:, -3:] if name.endswith("weight") else one
            parameter.copy_(kept)
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    state = [(h, h.cos()) if kind is ConvLSTM else h]
    for steps in (1, 3):
        got, last = module(states=state, steps=steps)
        wanted, end = full(None, state, steps=steps)
        assert_close((got, last), (wanted, end))
    got.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    cell = module.cell_list[0]
    calls = (module, "inputs", sample_inputs()), (cell, "input", sample_inputs()[0])
    for run, argument, inputs in calls:
        message = f"{type(run).__name__}: {argument} must be None for input_channels=0"
        with pytest.raises(ValueError, match=message):
            run(inputs)
    with pytest.raises(ValueError, match=r"steps must be given without inputs"):
        module(states=state)


@KINDS
def test_first_of_several_layers_without_inputs(kind, options):
    torch.manual_seed(0)
    options = {"dtype": torch.float64, **options}
    module = kind(0, [3, 4], 3, 2, **options)
    first, second = kind(0, 3, **options), kind(3, 4, **options)
    first.cell_list[0], second.cell_list[0] = module.cell_list
    states = [torch.randn(2, f, 4, 5, dtype=torch.float64) for f in (3, 4)]
    if kind is ConvLSTM:
        states = [(h, h.sin()) for h in states]
    middle, _ = first(states=states[:1], steps=3)
    wanted, _ = second(middle, states[1:])
    assert_close(module(states=states, steps=3)[0], wanted)


@pytest.mark.parametrize("reset", ["after", "before"])
def test_parameters_without_inputs(reset):
    names = {"after": ["h2h"], "before": ["conv_gates", "conv_can"]}[reset]
    cell = ConvGRUCell(0, 3, reset=reset)
    assert [name for name, _ in cell.named_children()] == names
    assert all(conv.weight.shape[1] == 3 for conv in cell.children())
    assert ConvLSTMCell(0, 3).conv.weight.shape == (12, 3, 3, 3)


def test_kernel_of_the_inputs():
    """Another than that of the state, and not dilated with it."""
    sizes = {"input_kernel_size": (3, 1), "dilation": 2}
    cell = ConvGRUCell(2, 3, 5, **sizes, dtype=torch.float64)
    image = sample_inputs()[0]
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    x = conv2d(image, cell.i2h.weight, cell.i2h.bias, padding=(1, 0))
    s = conv2d(h, cell.h2h.weight, cell.h2h.bias, padding=4, dilation=2)
    assert_close(cell(image, h), reference.gru_gates(x, s, h, "run"))
    layers = ConvGRU(2, 3, [5, 7], 2, input_kernel_size=3)
    kernels = [c.i2h.kernel_size + c.h2h.kernel_size for c in layers.cell_list]
    assert kernels == [(3, 3, 5, 5), (3, 3, 7, 7)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLSTM(-1, 3), "ConvLSTMCell: input_channels must not be below 0"),
        (lambda: ConvLSTM(2.0, 3), "input_channels must not be below 0, got 2.0"),
        (lambda: ConvGRUCell(2, 3, input_kernel_size=4), "input_kernel_size must be o"),
        (
            lambda: ConvGRUCell(2, 3, reset="before", input_kernel_size=3),
            "ConvGRUCell: input_kernel_size must be None for reset='before'.*got 3",
        ),
        (lambda: ConvLSTM(2, 3, 4), "ConvLSTMCell: kernel_size must be odd, got 4"),
        (lambda: ConvLSTM(2, 3, num_layers=0), "num_layers must be positive, got 0"),
        (lambda: ConvLSTM(2, [3], 3, 2), r"hidden_channels must be one or a list"),
        (lambda: ConvLSTMCell(2, 3, peephole=True), "peephole must be None.*True"),
        (lambda: ConvLSTMCell(2, 3, peephole="element"), "image_size must be given"),
        (lambda: ConvLSTMCell(2, 3, (3, 3, 3)), "kernel_size must be one number or"),
        (lambda: ConvGRUCell(2, 3, reset="no"), "ConvGRUCell: reset must be one of"),
        (lambda: ConvGRUCell(2, 3, order="ru"), "order must be a permutation of 'run'"),
        (lambda: ConvGRU(2, 3)(sample_inputs(), [None] * 2), "one a layer, 1, got 2"),
        (lambda: ConvGRU(2, 3)(sample_inputs(), 3), "states must be a list.*got int"),
        (lambda: ConvGRU(2, 3, activation="elu"), "activation must be one of.*'elu'"),
        (lambda: ConvGRU(2, 3, update="x"), "ConvGRUCell: update must be one of"),
        (lambda: ConvGRU(2, 3, zoneout=2), r"zoneout must lie in \[0, 1\], got 2"),
        (lambda: ConvGRU(2, 3, negative_slope=-1), "negative_slope must not be below"),
        (lambda: ConvGRU(2, 3, recompute="z"), "ConvGRU: recompute must be one of"),
        (lambda: ConvLSTM(2, 3, order="abcd"), "order must be a permutation of 'ifog'"),
        (lambda: ConvLSTM(2, 3, 3.0), "kernel_size must be one number or two, got 3.0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvLSTM(2, 3, forget_bias="a"), "forget_bias must be a number"),
        (lambda: ConvLSTMCell(2, 3)(None, sample_inputs()[0]), r"must be \(h, c\)"),
        (lambda: ConvLSTM(2, 3)(sample_inputs(), [3]), "state must be.*got int"),
        (lambda: ConvGRUCell(2, 3)(3), "ConvGRUCell: input must be a Tensor, got int"),
        (lambda: ConvGRU(2, 3, batch_first=True)([1]), "inputs must be a Tensor, got"),
    ],
)
def test_errors_of_kinds(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@KINDS
@torch.no_grad()
def test_last_states_are_tensors_of_their_own(kind, options):
    module = make(kind, **options)
    for steps in (3, 0):
        inputs = sample_inputs(steps)
        before = module(sample_inputs())[1]
        outputs, last = module(inputs, before)
        kept = outputs.clone(), copy.deepcopy(before)
        for state in last:
            for one in state if kind is ConvLSTM else [state]:
                one.zero_()
        assert torch.equal(outputs, kept[0])
        torch.testing.assert_close(before, kept[1], rtol=0, atol=0)


@KINDS
def test_copies_and_pickles(kind, options):
    module, inputs = make(kind, **options), sample_inputs()
    wanted, _ = module(inputs)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(inputs)[0], wanted)


def test_zoneout():
    options = {"zoneout": 0.3, "dtype": torch.float64}
    module, inputs = ConvGRU(2, 3, **options), sample_inputs()
    h = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.manual_seed(0)
    outputs, _ = module(inputs, [h])
    kept = [
        (a == b).float().mean() for a, b in zip([h, *outputs], outputs, strict=False)
    ]
    assert all(0.1 < one < 0.6 for one in kept)
    module.eval()
    without = ConvGRU(2, 3, dtype=torch.float64)
    without.load_state_dict(module.state_dict())
    assert torch.equal(module(inputs, [h])[0], without(inputs, [h])[0])
