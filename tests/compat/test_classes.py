"""The published classes, against their equations in plain PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from ports import convgru_pytorch as published_gru
from ports import convlstm_pytorch as published_lstm
from ports.updates import lstm
from trajgru_ext.compat import (
    convgru_pytorch,
    convlstm_pytorch,
    convolutional_lstm_pytorch,
    openstl,
)

SIZE = (4, 5)


def sample(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.requires_grad_()


def make(kind, *args, **options):
    torch.manual_seed(0)
    module = kind(*args, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def shapes(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def flatten(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for one in results for tensor in flatten(one)]


def assert_equal(module, got, wanted, *leaves):
    """Results of the same structure and values, with equal gradients."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    every = [*leaves, *module.parameters()]
    found = []
    for results in (got, wanted):
        total = sum((k + 1) * (t**2).sum() for k, t in enumerate(flatten(results)))
        found.append(torch.autograd.grad(total, every))
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def same(image, weight, bias=None):
    return conv2d(image, weight, bias, padding=[k // 2 for k in weight.shape[2:]])


def convolution(layer):
    """That of a layer's parameters, whatever the layer does with them."""
    return lambda image: same(image, layer.weight, layer.bias)


def lstm_step(gates, c, order):
    part = dict(zip(order, gates.chunk(4, 1), strict=True))
    return lstm(*(part[gate] for gate in "ifgo"), c)


def layers_by_steps(step, module, inputs, states):
    """Layer over layer of [B, T, ...]: outputs of each, and last states."""
    outputs, last = [], []
    for cell, before in zip(module.cell_list, states, strict=True):
        state, steps = before, []
        for image in inputs.unbind(1):
            state = step(cell, image, state)
            steps.append(state[0])
        inputs = torch.stack(steps, 1)
        outputs.append(inputs)
        last.append(list(state))
    return outputs, last


def convlstm_step(cell, image, state):
    return published_lstm.step(convolution(cell.conv), image, *state)


def convgru_step(cell, image, state):
    convs = convolution(cell.conv_gates), convolution(cell.conv_can)
    return (published_gru.step(*convs, image, *state),)


@pytest.mark.parametrize("return_all_layers", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["zero", "states"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time", "batch"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_layers(name, batch_first, bias, given, return_all_layers):
    options = {"batch_first": batch_first, "bias": bias}
    options["return_all_layers"] = return_all_layers
    sizes = (2, [3, 4], [(3, 5), (1, 3)], 2)
    if name == "lstm":
        module = make(convlstm_pytorch.ConvLSTM, *sizes, **options)
        step, count = convlstm_step, 2
    else:
        kind = convgru_pytorch.ConvGRU
        module = make(kind, SIZE, *sizes, torch.FloatTensor, **options)
        step, count = convgru_step, 1
    inputs = sample(2, 3, 2, *SIZE)
    states = [[sample(2, f, *SIZE) for _ in range(count)] for f in (3, 4)]
    if not given:
        states = [[torch.zeros_like(one) for one in each] for each in states]
    got = module(
        inputs if batch_first else inputs.transpose(0, 1), states if given else None
    )
    wanted = layers_by_steps(step, module, inputs, states)
    if not return_all_layers:
        wanted = tuple(part[-1:] for part in wanted)
    leaves = [inputs]
    if given:
        leaves += flatten(states if return_all_layers else [])
    assert_equal(module, got, wanted, *leaves)


def test_parameters_are_named_as_published():
    lstm = convlstm_pytorch.ConvLSTM(2, [3, 4], (3, 3), 2)
    assert shapes(lstm) == {
        "cell_list.0.conv.weight": (12, 5, 3, 3),
        "cell_list.0.conv.bias": (12,),
        "cell_list.1.conv.weight": (16, 7, 3, 3),
        "cell_list.1.conv.bias": (16,),
    }
    gru = convgru_pytorch.ConvGRU(SIZE, 2, 3, (3, 3), 1, None, bias=False)
    assert shapes(gru) == {
        "cell_list.0.conv_gates.weight": (6, 5, 3, 3),
        "cell_list.0.conv_can.weight": (3, 5, 3, 3),
    }
    cell = openstl.ConvLSTMCell(2, 3, *SIZE, 5, 1, True)
    assert shapes(cell) == {
        "conv_x.0.weight": (12, 2, 5, 5),
        "conv_x.1.weight": (12, *SIZE),
        "conv_x.1.bias": (12, *SIZE),
        "conv_h.0.weight": (12, 3, 5, 5),
        "conv_h.1.weight": (12, *SIZE),
        "conv_h.1.bias": (12, *SIZE),
        "conv_o.0.weight": (3, 6, 5, 5),
        "conv_o.1.weight": (3, *SIZE),
        "conv_o.1.bias": (3, *SIZE),
        "conv_last.weight": (3, 6, 1, 1),
    }
    one = convolutional_lstm_pytorch.ConvLSTM(2, [3], 3)
    assert shapes(one) == {
        **{f"cell0.Wx{gate}.weight": (3, 2, 3, 3) for gate in "ifco"},
        **{f"cell0.Wx{gate}.bias": (3,) for gate in "ifco"},
        **{f"cell0.Wh{gate}.weight": (3, 3, 3, 3) for gate in "ifco"},
    }


@pytest.mark.parametrize("layer_norm", [False, True])
def test_cell_of_openstl(layer_norm):
    cell = make(openstl.ConvLSTMCell, 2, 3, *SIZE, 3, 1, layer_norm)
    x, h, c = sample(2, 2, *SIZE), sample(2, 3, *SIZE), sample(2, 3, *SIZE)
    gates = cell.conv_x(x) + cell.conv_h(h)
    got = cell(x, h, c)
    del cell.conv_o, cell.conv_last  # without effect and gradient
    assert_equal(cell, got, lstm_step(gates, c, "ifgo"), x, h, c)


@pytest.mark.parametrize("effective_step", [[0, 2], [1], []])
def test_convolutional_lstm(effective_step):
    kind = convolutional_lstm_pytorch.ConvLSTM
    net = make(kind, 2, [3, 4], 3, step=3, effective_step=effective_step)
    image = sample(2, 2, *SIZE)
    states = {k: [torch.zeros(2, f, *SIZE).double()] * 2 for k, f in enumerate((3, 4))}
    wanted = []
    for t in range(3):
        x = image
        for k, (h, c) in states.items():
            cell = getattr(net, f"cell{k}")
            sums = [
                getattr(cell, f"Wx{g}")(x) + getattr(cell, f"Wh{g}")(h) for g in "ifco"
            ]
            states[k] = lstm_step(torch.cat(sums, 1), c, "ifgo")
            x = states[k][0]
        if t in effective_step:
            wanted.append(x)
    assert_equal(net, net(image), (wanted, states[1]), image)


def test_cells_by_themselves():
    lstm = make(convlstm_pytorch.ConvLSTMCell, 2, 3, (3, 3), True)
    image, states = sample(2, 2, *SIZE), lstm.init_hidden(2, SIZE)
    wanted = convlstm_step(lstm, image, states)
    torch.testing.assert_close(lstm(image, states), wanted, rtol=0, atol=1e-10)
    gru = make(convgru_pytorch.ConvGRUCell, SIZE, 2, 3, (3, 3), True, None)
    h = gru.init_hidden(2)
    wanted = convgru_step(gru, image, (h,))[0]
    torch.testing.assert_close(gru(image, h), wanted, rtol=0, atol=1e-10)
    cell = make(convolutional_lstm_pytorch.ConvLSTMCell, 2, 3, 3)
    h, c = cell(image, *cell.init_hidden(2, 3, SIZE))
    assert h.shape == c.shape == (2, 3, *SIZE)


@pytest.mark.parametrize("kernel_size", [3, [3, 3], "33"])
def test_kernel_sizes_are_tuples(kernel_size):
    with pytest.raises(ValueError, match="ConvLSTM: kernel_size must be a tuple or"):
        convlstm_pytorch.ConvLSTM(2, 3, kernel_size, 2)
    with pytest.raises(ValueError, match="ConvGRU: kernel_size must be a tuple or"):
        convgru_pytorch.ConvGRU(SIZE, 2, 3, kernel_size, 2, None)
