"""Layers in which a person altered something: they compute what their modules do."""

import copy
import io
import pickle

import pytest
import torch
from alterations import ALTERATIONS, IN_DOUBLE, assert_same, outputs_and_gradients
from as_built_layers import (
    BATCH,
    CHANNELS,
    CONVOLUTIONS,
    EVERY,
    LAYERS,
    PLACES,
    SIZE,
    STEPS,
    TOLERANCE,
    altered,
    made,
    make_traj_gru,
    normal,
)
from torch import nn
from torch.nn.utils import prune, remove_weight_norm

from trajgru_ext.nn import (
    ConvGRUCell,
    ConvLSTMCell,
    TrajGRUCell,
)


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
