"""Layers in which a person altered something: they compute what their modules do."""

import copy
import io
import pickle

import pytest
import torch
from alterations import ALTERATIONS, IN_DOUBLE, assert_same, outputs_and_gradients
from torch import nn
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat
from torch.nn.utils import prune, remove_weight_norm

from ports import precipitation_nowcasting as published
from ports.updates import blend, gru_reset_after, lstm, lstm_with_peepholes
from trajgru_ext import reference
from trajgru_ext.nn import (
    EESP,
    ConvGRU,
    ConvGRUCell,
    ConvLSTM,
    ConvLSTMCell,
    SelectiveKernelConv,
    TrajGRU,
    TrajGRUCell,
    hko7_conv_gru,
)

STEPS, BATCH, CHANNELS, SIZE = 3, 2, 2, (5, 6)
EVERY = pytest.mark.parametrize("alter", IN_DOUBLE.values(), ids=IN_DOUBLE)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}


def normal(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def lstm_step(cell, x, state):
    h, c = state
    both = h if cell.input_channels == 0 else torch.cat([x, h], 1)
    i, f, o, g = cell.conv(both).chunk(4, 1)
    gates = i, f + cell.forget_bias, g, o
    if cell.Wci is None:
        return lstm(*gates, c)
    return lstm_with_peepholes(gates, c, (cell.Wci, cell.Wcf, cell.Wco))


def gru_step(cell, x, h):
    if cell.reset == "after":
        return gru_reset_after(cell.i2h(x), cell.h2h(h), h, torch.tanh)
    r, u = cell.conv_gates(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
    n = cell.conv_can(torch.cat([x, r * h], 1)).tanh()
    return blend(u, h, n)


def layers_by_hand(layers, inputs, step, several):
    last = []
    for cell in layers.cell_list:
        features = cell.hidden_channels
        zero = inputs.new_zeros(inputs.shape[1], features, *inputs.shape[3:])
        state, outputs = (zero, zero) if several else zero, []
        for frame in inputs:
            state = step(cell, frame, state)
            outputs.append(state[0] if several else state)
        inputs = torch.stack(outputs)
        last.append(state)
    return inputs, last


def conv_lstm(layers, inputs):
    return layers_by_hand(layers, inputs, lstm_step, several=True)


def conv_gru(layers, inputs):
    return layers_by_hand(layers, inputs, gru_step, several=False)


def traj_gru(layer, inputs):
    every_flow = []

    def mix(h, against, ret):
        every_flow.append(-against)
        warped = [reference.flow_warp(h, uv) for uv in against.split(2, 1)]
        return ret(torch.cat(warped, 1).to(h.dtype))

    zero = inputs.new_zeros(inputs.shape[1], layer.hidden_channels, *inputs.shape[3:])
    outputs, h = published.traj_gru(layer, inputs, zero, len(inputs), mix=mix)
    return outputs, h, torch.stack(every_flow)


def make_traj_gru(kind, dtype):
    layer = kind(CHANNELS, 3, 2, flow_channels=4, flow_kernel_size=3, dtype=dtype)
    nn.init.normal_(layer.flows_conv.weight, std=0.1)
    return layer


# Of each layer: how it is made, where its convolutions are, the layer and the plain
# computation as functions of the layer and inputs.
def of_layer(layer, inputs):
    return layer(inputs)


def of_traj_gru(layer, inputs):
    return layer(inputs, return_flows=True)


LAYERS = {
    "lstm": (lambda d: ConvLSTM(CHANNELS, [3, 2], 3, 2, dtype=d), of_layer, conv_lstm),
    "lstm_peephole": (
        lambda d: ConvLSTM(CHANNELS, 3, peephole="channel", forget_bias=1.0, dtype=d),
        of_layer,
        conv_lstm,
    ),
    "gru": (lambda d: ConvGRU(CHANNELS, [3, 2], 3, 2, dtype=d), of_layer, conv_gru),
    "gru_before": (
        lambda d: ConvGRU(CHANNELS, 3, reset="before", bias=False, dtype=d),
        of_layer,
        conv_gru,
    ),
    "traj_gru": (lambda d: make_traj_gru(TrajGRU, d), of_traj_gru, traj_gru),
}
CONVOLUTIONS = {
    "lstm": ["cell_list.0.conv", "cell_list.1.conv"],
    "lstm_peephole": ["cell_list.0.conv"],
    "gru": ["cell_list.0.i2h", "cell_list.1.h2h"],
    "gru_before": ["cell_list.0.conv_gates", "cell_list.0.conv_can"],
    "traj_gru": ["i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret"],
}
PLACES = pytest.mark.parametrize(
    ("layer", "place"),
    [(layer, place) for layer, places in CONVOLUTIONS.items() for place in places],
)


def made(layer, dtype=torch.float64):
    torch.manual_seed(0)
    module = LAYERS[layer][0](dtype)
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("Wci", "Wcf", "Wco"):
            nn.init.normal_(parameter, std=0.3)
    return module


def altered(layer, place, alter, dtype=torch.float64):
    module = made(layer, dtype)
    owner, _, name = place.rpartition(".")
    alter(module.get_submodule(owner), name)
    return module


@PLACES
@pytest.mark.parametrize(
    ("alter", "dtype"),
    [
        *((alter, torch.float64) for alter in IN_DOUBLE.values()),
        *((alter, torch.float32) for alter in ALTERATIONS.values()),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_computes_what_its_modules_do(layer, place, alter, dtype):
    """Values, gradients of the original parameters, and what is left in buffers."""
    ours, plain = (altered(layer, place, alter, dtype) for _ in range(2))
    assert ours.computes().startswith(f"by modules: {place}")
    assert f"by modules: {place}" in repr(ours)
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE, dtype=dtype)
    _, run, by_hand = LAYERS[layer]
    got = outputs_and_gradients(ours, lambda module: run(module, inputs))
    wanted = outputs_and_gradients(plain, lambda module: by_hand(module, inputs))
    assert any(grad.any() for grad in got[1].values())
    assert_same(got, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("layer", LAYERS)
def test_by_weights_as_built(layer):
    module = made(layer)
    assert module.computes() == "by weights"
    assert "by modules" not in repr(module)
    module = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert module.computes() == "by weights"
    assert module.to(torch.float32).eval().computes() == "by weights"
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE, dtype=torch.float32)
    _, run, by_hand = LAYERS[layer]
    assert_same([run(module, inputs)], [by_hand(module, inputs)], 2e-4)


@PLACES
def test_what_is_undone_is_as_built(layer, place):
    module = made(layer)
    wanted = LAYERS[layer][1](module, inputs := normal(STEPS, BATCH, CHANNELS, *SIZE))
    conv = module.get_submodule(place)
    handle = conv.register_forward_hook(lambda *_: None)
    nn.utils.weight_norm(conv)
    assert module.computes().startswith(f"by modules: {place} has a forward hook")
    remove_weight_norm(conv)
    handle.remove()
    assert module.computes() == "by weights"
    assert_same([LAYERS[layer][1](module, inputs)], [wanted], 1e-10)


@PLACES
def test_a_state_dict_with_norms_gives_the_same(layer, place):
    """Of a model that was trained so, into one that is made so."""
    trained = altered(layer, place, ALTERATIONS["spectral_norm"])
    inputs, run = normal(STEPS, BATCH, CHANNELS, *SIZE), LAYERS[layer][1]
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    run(trained, inputs)
    torch.save(trained.state_dict(), file := io.BytesIO())
    file.seek(0)
    fresh = altered(layer, place, ALTERATIONS["spectral_norm"])
    fresh.load_state_dict(torch.load(file))
    assert_same([run(fresh.eval(), inputs)], [run(trained.eval(), inputs)], 1e-12)


@PLACES
def test_a_pruned_layer_trains(layer, place):
    module = altered(layer, place, ALTERATIONS["pruned"])
    conv, run = module.get_submodule(place), LAYERS[layer][1]
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = run(module, inputs)[0].square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    assert not conv.weight_orig.grad[conv.weight_mask == 0].any()
    prune.remove(conv, "weight")
    assert module.computes() == "by weights"
    assert (conv.weight == 0).sum() >= conv.weight.numel() // 2


@PLACES
def test_hooks_run_as_often_as_the_module(layer, place):
    module, seen = made(layer), []
    conv = module.get_submodule(place)
    conv.register_forward_pre_hook(lambda *_: seen.append("before"))
    conv.register_forward_hook(lambda *_: seen.append("after"))
    conv.register_full_backward_hook(lambda *_: seen.append("back"))
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE).requires_grad_()
    LAYERS[layer][1](module, inputs)[0].sum().backward()
    # The published TrajGRU convolves all of its inputs at once.
    times = 1 if place == "i2h" else STEPS
    assert [seen.count(what) for what in ("before", "after", "back")] == [times] * 3


@pytest.mark.parametrize("layer", LAYERS)
def test_hooks_of_all_modules_run(layer):
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    run, seen = LAYERS[layer][1], []
    wanted = run(module, inputs)
    handle = nn.modules.module.register_module_forward_hook(
        lambda one, *_: seen.append(one)
    )
    try:
        assert "hook of all modules" in module.computes()
        got = run(module, inputs)
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                assert seen.count(conv) >= 1
    finally:
        handle.remove()
    assert_same([got], [wanted], 1e-10)
    assert module.computes() == "by weights"


CELLS = ["lstm", "gru", "gru_before", "lstm_peephole"]


@pytest.mark.parametrize("layer", CELLS)
@pytest.mark.parametrize("backward", [False, True])
def test_hooks_of_a_cell_run(layer, backward):
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    inputs.requires_grad_()
    seen = []
    cell = module.cell_list[-1]
    if backward:
        cell.register_full_backward_hook(lambda *_: seen.append(1))
    else:
        cell.register_forward_hook(lambda *_: seen.append(1))
    wanted = LAYERS[layer][2](module, inputs)
    got = module(inputs)
    got[0].sum().backward()
    assert len(seen) == STEPS
    assert f"cell_list.{len(module.cell_list) - 1} has a" in module.computes()
    assert_same([got], [wanted], 1e-10)


class Halved(nn.Module):
    """Any cell, its state halved."""

    def __init__(self, cell):
        super().__init__()
        self.inner = cell

    def forward(self, input, state=None):
        new = self.inner(input, state)
        return tuple(0.5 * one for one in new) if isinstance(new, tuple) else 0.5 * new


class HalvedLSTMCell(ConvLSTMCell):
    def forward(self, input=None, state=None):
        return tuple(0.5 * one for one in super().forward(input, state))


@pytest.mark.parametrize("layer", CELLS)
@pytest.mark.parametrize("lengths", [None, [3, 1]])
def test_a_foreign_cell_is_called(layer, lengths):
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    module.cell_list[0] = Halved(module.cell_list[0])
    if lengths is not None:
        inputs[1:, 1] = torch.nan
    outputs, states = module(inputs, lengths=lengths)
    assert "cell_list.0 is a Halved" in module.computes()
    last, taken = [None] * len(module.cell_list), []
    for t in range(STEPS):
        image = inputs[t]
        for k, cell in enumerate(module.cell_list):
            new = cell(image, last[k])
            if lengths is not None:
                new = _kept(t, lengths, last[k], new)
            last[k] = new
            image = new[0] if isinstance(new, tuple) else new
        taken.append(image)
    assert_same([outputs, states], [torch.stack(taken), last], 1e-10)


def _kept(t, lengths, old, new):
    if isinstance(new, tuple):
        olds = (None, None) if old is None else old
        return tuple(_kept(t, lengths, *pair) for pair in zip(olds, new, strict=True))
    over = (t >= torch.tensor(lengths))[:, None, None, None]
    return torch.where(over, torch.zeros_like(new) if old is None else old, new)


def test_a_subclass_in_the_list_is_called():
    module, inputs = made("lstm"), normal(STEPS, BATCH, CHANNELS, *SIZE)
    cell = HalvedLSTMCell(CHANNELS, 3, dtype=torch.float64)
    cell.load_state_dict(module.cell_list[0].state_dict())
    wrapped = made("lstm")
    wrapped.cell_list[0] = Halved(wrapped.cell_list[0])
    module.cell_list[0] = cell
    assert_same([module(inputs)], [wrapped(inputs)], 1e-12)
    # One of ours of other sizes needs no steps.
    module.cell_list[0] = ConvLSTMCell(CHANNELS, 3, 5, dtype=torch.float64)
    assert module.computes() == "by weights"


@pytest.mark.parametrize("layer", CELLS)
@EVERY
def test_lengths_states_and_no_steps(layer, alter):
    """What the kernel does with them, the steps do."""
    place = CONVOLUTIONS[layer][0]
    module = altered(layer, place, alter).eval()
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    whole, after = module(inputs)
    _, between = module(inputs[:1])
    rest, last = module(inputs[1:], between)
    assert_same([rest, last], [whole[1:], after], 1e-10)
    short, _ = module(inputs[:, :1][:2])
    padded = inputs.clone()
    padded[2:, 0] = torch.nan
    outputs, ends = module(padded, lengths=[2, 3])
    assert_same([outputs[:2, :1], outputs[:, 1]], [short, whole[:, 1]], 1e-10)
    assert_same([outputs[2, :1]], [short[1]], 1e-10)
    first = ends[-1][0] if layer.startswith("lstm") else ends[-1]
    assert_same([first], [outputs[-1]], 1e-12)
    none, same = module(inputs[:0], between)
    assert none.shape == (0, *whole.shape[1:])
    assert_same([same], [between], 1e-12)
    assert module(inputs[:0])[0].shape == none.shape
    for message, call in {
        "steps must be given without inputs": lambda: module(None, between),
        "inputs or states must be given": lambda: module(None, steps=2),
        "steps must not be below 0": lambda: module(None, between, steps=-1),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("layer", ["gru", "gru_before", "traj_gru"])
def test_zoneout_is_the_same(layer):
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    cells = [module] if layer == "traj_gru" else module.cell_list
    for cell in cells:
        cell.zoneout = 0.5
    torch.manual_seed(3)
    wanted = module(inputs)
    conv = module.get_submodule(CONVOLUTIONS[layer][0])
    conv.register_forward_hook(lambda *_: None)
    torch.manual_seed(3)
    assert_same([module(inputs)], [wanted], 1e-10)


@pytest.mark.parametrize("kind", [ConvLSTMCell, ConvGRUCell, TrajGRUCell])
@EVERY
def test_cells_take_the_steps_of_layers(kind, alter):
    """A cell called twice is a layer of two steps."""
    layers = {ConvLSTMCell: "lstm", ConvGRUCell: "gru", TrajGRUCell: "traj_gru"}
    names = {ConvLSTMCell: "conv", ConvGRUCell: "h2h", TrajGRUCell: "ret"}

    def cell():
        torch.manual_seed(0)
        if kind is TrajGRUCell:
            one = make_traj_gru(TrajGRUCell, torch.float64)
        else:
            one = kind(CHANNELS, 3, dtype=torch.float64)
        alter(one, names[kind])
        return one.eval()

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell_list = nn.ModuleList([cell()])

    module = cell()
    assert module.computes().startswith(f"by modules: {names[kind]}")
    inputs, state = normal(2, BATCH, CHANNELS, *SIZE), None
    for frame in inputs:
        state = module(frame, state)
    by_hand = LAYERS[layers[kind]][2]
    plain = cell() if kind is TrajGRUCell else One()
    last = by_hand(plain, inputs)[1]
    assert_same([state], [last if kind is TrajGRUCell else last[0]], 1e-10)


def test_traj_gru_without_inputs_and_steps():
    module = altered("traj_gru", "ret", ALTERATIONS["adapter"])
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    outputs, last, flows = module(inputs, return_flows=True)
    ahead, _ = module(h=last, steps=2)
    assert ahead.shape == (2, *outputs.shape[1:])
    none, same, no_flows = module(inputs[:0], last, return_flows=True)
    assert none.shape == (0, *outputs.shape[1:])
    assert no_flows.shape == (0, *flows.shape[1:]) and no_flows.dtype == flows.dtype
    assert_same([same], [last], 0)
    # A state that there is not is not moved.
    module.flows_conv.bias.data.fill_(torch.nan)
    assert module(inputs[:1])[0].isfinite().all()
    assert module(inputs)[0].isnan().any()


def test_what_a_module_returns_is_blamed_on_it():
    for layer, place, size in (
        ("lstm", "cell_list.0.conv", r"conv must return \[2, 12, 5, 6\].*\[2, 7, 5, 6"),
        ("gru", "cell_list.0.h2h", r"h2h must return \[2, 9, 5, 6\]"),
        ("traj_gru", "flows_conv", r"TrajGRU: flows_conv must return \[2, 4, 5, 6\]"),
    ):
        module = made(layer)
        owner, _, name = place.rpartition(".")
        conv = module.get_submodule(place)
        wrong = nn.Conv2d(conv.in_channels, 7, 1, dtype=torch.float64)
        setattr(module.get_submodule(owner), name, wrong)
        with pytest.raises(ValueError, match=size):
            module(normal(STEPS, BATCH, CHANNELS, *SIZE))
    module.flows_conv = nn.Module()
    module.flows_conv.forward = lambda image: (image, image)
    with pytest.raises(TypeError, match="flows_conv must return a Tensor, got tuple"):
        module(normal(STEPS, BATCH, CHANNELS, *SIZE))


@pytest.mark.parametrize("layer", LAYERS)
def test_autocast_with_a_norm_in_float32(layer):
    """What autocast makes a module return in float32, the states follow."""
    place = CONVOLUTIONS[layer][0]
    module = altered(layer, place, ALTERATIONS["in_sequence"], torch.float32)
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE, dtype=torch.float32)
    run = LAYERS[layer][1]
    wanted = run(module, inputs)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16):
            got = run(module, inputs.to(dtype))
        assert_same([got[0].float()], [wanted[0]], 0.1)


# Backward hooks of modules are what torch.compile does not trace in one graph.
COMPILED = [name for name in IN_DOUBLE if not name.startswith("backward")]


@pytest.mark.parametrize(
    ("layer", "alter"),
    [
        *(("lstm", name) for name in COMPILED),
        *((layer, name) for layer in LAYERS for name in ("adapter", "pruned")),
    ],
)
def test_compiles_as_it_is(layer, alter):
    """Also what is altered, if it is before it is compiled."""
    alter = ALTERATIONS[alter]
    torch.compiler.reset()
    place = CONVOLUTIONS[layer][0]
    module = altered(layer, place, alter).eval()
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    wanted = LAYERS[layer][1](module, inputs)
    got = LAYERS[layer][1](compiled, inputs)
    assert_same([got], [wanted], 1e-10)


@pytest.mark.parametrize("layer", LAYERS)
def test_exports_as_it_is(layer):
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE)
    operator = {"lstm": "conv_lstm", "gru": "conv_gru", "traj": "traj_gru"}
    name = f"trajgru_ext.{operator[layer.split('_')[0]]}.default"
    if layer == "traj_gru":
        name = "trajgru_ext.traj_gru.default"
    for alter in (None, ALTERATIONS["adapter"], ALTERATIONS["forward_hook"]):
        place = CONVOLUTIONS[layer][0]
        module = made(layer) if alter is None else altered(layer, place, alter)
        exported = torch.export.export(module.eval(), (inputs,))
        called = {str(node.target) for node in exported.graph.nodes}
        whole = len(getattr(module, "cell_list", [1])) > 1 or alter is None
        assert (name in called) == whole
        assert_same([exported.module()(inputs)], [module(inputs)], 1e-10)


def norms(channels):
    return {
        "group": nn.GroupNorm(2, channels),
        "instance": nn.InstanceNorm2d(channels, affine=True),
        "tracking_instance": nn.InstanceNorm2d(channels, track_running_stats=True),
        "identity": nn.Identity(),
        "plain": nn.BatchNorm2d(channels, affine=False),
        "untracked": nn.BatchNorm2d(channels, track_running_stats=False),
        "hooked": hooked(nn.BatchNorm2d(channels)),
    }


def hooked(module):
    module.register_forward_hook(lambda one, args, result: 2 * result)
    return module


def eesp(block, x):
    projected = block.proj_1x1(x)
    branches = [branch(projected) for branch in block.spp_dw]
    sums = [sum(branches[: k + 1]) for k in range(len(branches))]
    expanded = block.conv_1x1_exp(block.br_after_cat(torch.cat(sums, 1)))
    if block.stride == 2 and block.downAvg:
        return expanded
    same = expanded.shape == x.shape
    return block.module_act(expanded + x if same else expanded)


def make_eesp(dtype=torch.float64, **options):
    torch.manual_seed(0)
    block = EESP(8, 8, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return block.to(dtype)


def same_eesp(make, training, dtype=torch.float64):
    ours, plain = make().train(training), make().train(training)
    x = normal(2, 8, 8, 8, dtype=dtype)
    got = outputs_and_gradients(ours, lambda block: block(x))
    wanted = outputs_and_gradients(plain, lambda block: eesp(block, x))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert_same(got, wanted, tolerance)
    return ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", ["proj_1x1", "br_after_cat", "conv_1x1_exp"])
@pytest.mark.parametrize("norm", norms(4))
@DTYPES
def test_eesp_with_any_norm(place, norm, training, dtype):
    def make():
        block = make_eesp(dtype)
        owner = block.get_submodule(place)
        owner.bn = norms(owner.bn.num_features)[norm].to(dtype)
        return block

    ours = same_eesp(make, training, dtype)
    assert ours.computes().startswith(f"by modules: {place}.bn")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "down_method": "avg"}])
@pytest.mark.parametrize(
    "place", ["proj_1x1.conv", "conv_1x1_exp.conv", "spp_dw.1.conv"]
)
@pytest.mark.parametrize(
    "alter",
    [
        *("spectral_norm", "pruned", "new_weight_norm", "forward_hook", "own_forward"),
        *("backward_hook", "in_sequence", "in_groups", "other_bias"),
    ],
)
def test_eesp_with_other_convolutions(place, alter, training, options):
    def make():
        block = make_eesp(**options)
        owner, _, name = place.rpartition(".")
        if alter == "other_bias":
            conv = block.get_submodule(place)
            conv.bias = nn.Parameter(torch.ones(conv.out_channels).double())
        else:
            ALTERATIONS[alter](block.get_submodule(owner), name)
        if alter == "in_groups" and place.startswith("spp_dw"):
            block.get_submodule(place).stride = (block.stride, block.stride)
        return block

    ours = same_eesp(make, training)
    # The depthwise convolutions are called in any case.
    by_modules = not place.startswith("spp_dw")
    assert (ours.computes() != "by weights") == by_modules


@pytest.mark.parametrize("training", [True, False])
def test_eesp_with_other_activations_and_more_layers(training):
    def make():
        block = make_eesp()
        block.module_act = nn.GELU()
        block.br_after_cat.act = nn.PReLU()
        block.proj_1x1.more = nn.Tanh()
        hooked(block.conv_1x1_exp)
        return block.double()

    same_eesp(make, training)
    assert same_eesp(make_eesp, training).computes() == "by weights"


def selective(module, x):
    branches = [branch(x) for branch in module.convs]
    z = module.fc(sum(branches).mean((2, 3), keepdim=True))
    weights = torch.stack([fc(z) for fc in module.fcs], 1).softmax(1)
    return (weights * torch.stack(branches, 1)).sum(1)


@EVERY
def test_selective_kernels(alter):
    def make():
        torch.manual_seed(0)
        module = SelectiveKernelConv(8, G=2, L=4).double()
        alter(module.fcs, "1")
        return module

    if alter.__name__ == "larger_kernel":
        pytest.skip("of an image of one pixel another kernel is no other result")
    ours, plain = make(), make()
    assert ours.computes().startswith("by modules: fcs.1")
    x = normal(2, 8, 6, 7)
    got = outputs_and_gradients(ours, lambda module: module(x))
    wanted = outputs_and_gradients(plain, lambda module: selective(module, x))
    assert_same(got, wanted, 1e-9)


def test_a_network_shows_what_is_altered():
    net = hko7_conv_gru()
    assert "by modules" not in repr(net)
    nn.utils.weight_norm(net.encoder[1].cell_list[0].h2h)
    assert repr(net).count("by modules") == 2  # of the layer and of its cell


@PLACES
def test_replicas_of_data_parallel_are_as_built(layer, place):
    """Their parameters are attributes."""
    module, inputs = made(layer), normal(STEPS, BATCH, CHANNELS, *SIZE)
    wanted = LAYERS[layer][1](module, inputs)
    owner, _, name = place.rpartition(".")
    conv = module.get_submodule(place)
    replica = conv._replicate_for_data_parallel()
    for key, parameter in conv.named_parameters():
        setattr(replica, key, parameter * 1)
    if conv.bias is None:
        replica._parameters["bias"] = None
    setattr(module.get_submodule(owner), name, replica)
    assert module.computes() == "by weights"
    assert_same([LAYERS[layer][1](module, inputs)], [wanted], 1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_prepared_for_quantisation(layer):
    """The whole of a layer, as torch does it."""
    results = []
    inputs = normal(STEPS, BATCH, CHANNELS, *SIZE, dtype=torch.float32)
    for run in LAYERS[layer][1:]:
        module = made(layer, torch.float32)
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                conv.qconfig = get_default_qat_qconfig("fbgemm")
        prepare_qat(module.train(), inplace=True)
        assert module.computes().startswith("by modules")
        results.append(
            outputs_and_gradients(module, lambda one, run=run: run(one, inputs))
        )
    assert len(results[0][2]) > 0
    assert_same(*results, 1e-3)
