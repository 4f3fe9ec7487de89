"""Published classes, ours and accelerated ones, in which a person altered something."""

import copy

import pytest
import torch
from alterations import ALTERATIONS, IN_DOUBLE, assert_same, outputs_and_gradients
from torch import nn

from ports import convgru_pytorch as convgru
from ports import convlstm_pytorch as convlstm
from ports import convolutional_lstm_pytorch as gate_by_gate
from ports import openstl, precipitation_nowcasting
from ports.precipitation_nowcasting import TrajGRU
from trajgru_ext import accelerate, compat

STEPS, BATCH, SIZE = 3, 2, (5, 6)
BHW = (BATCH, *SIZE)


def normal(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def of_frames(module):
    return module(normal(STEPS, BATCH, 2, *SIZE))


def of_an_image(module):
    return module(normal(BATCH, 2, *SIZE))


def with_a_state(module):
    return module(normal(STEPS, BATCH, 2, *SIZE), normal(BATCH, 3, *SIZE), STEPS)


def with_states(module):
    states = normal(BATCH, 3, *SIZE), normal(3, BATCH, 3, *SIZE)[0]
    return module(normal(STEPS, BATCH, 2, *SIZE), states, STEPS)


def a_step_of_two(module):
    states = normal(BATCH, 3, *SIZE), normal(3, BATCH, 3, *SIZE)[0]
    return module(normal(BATCH, 2, *SIZE), states)


def a_step_of_one(module):
    return module(normal(BATCH, 2, *SIZE), normal(BATCH, 3, *SIZE))


def a_step_of_three(module):
    return module(normal(BATCH, 2, *SIZE), *normal(2, BATCH, 3, *SIZE))


LSTM = (2, [3, 4], [(3, 3), (5, 3)], 2)
GRU = (SIZE, 2, [3, 4], [(3, 3), (5, 3)], 2, torch.DoubleTensor)
OPENSTL = (2, 3, *SIZE, 3, 1, False)
TODAY = {"align_corners": False}
# The published class, ours, their arguments, a call, and where the convolutions are.
CASES = {
    "lstm": (
        lambda: convlstm.ConvLSTM(*LSTM, return_all_layers=True),
        lambda: compat.convlstm_pytorch.ConvLSTM(*LSTM, return_all_layers=True),
        of_frames,
        ["cell_list.0.conv", "cell_list.1.conv"],
    ),
    "gru": (
        lambda: convgru.ConvGRU(*GRU, True, return_all_layers=True),
        lambda: compat.convgru_pytorch.ConvGRU(*GRU, True, return_all_layers=True),
        lambda module: module(normal(BATCH, STEPS, 2, *SIZE)),
        ["cell_list.0.conv_gates", "cell_list.1.conv_can"],
    ),
    "gates": (
        lambda: gate_by_gate.ConvLSTM(2, [3, 4], 3, 3, [1, 2]),
        lambda: compat.convolutional_lstm_pytorch.ConvLSTM(2, [3, 4], 3, 3, [1, 2]),
        of_an_image,
        ["cell0.Wxi", "cell0.Whc", "cell1.Wxo"],
    ),
    "nowcasting": (
        lambda: precipitation_nowcasting.ConvLSTM(2, 3, BHW, 3),
        lambda: compat.precipitation_nowcasting.ConvLSTM(2, 3, BHW, 3),
        with_states,
        ["_conv"],
    ),
    "traj_gru": (
        lambda: TrajGRU(2, 3, BHW, L=2),
        lambda: compat.precipitation_nowcasting.TrajGRU(2, 3, BHW, L=2),
        of_frames,
        ["i2h", "i2f_conv1", "flows_conv", "ret"],
    ),
    "traj_gru_today": (
        lambda: TrajGRU(2, 3, BHW, L=2, **TODAY),
        lambda: compat.precipitation_nowcasting.TrajGRU(2, 3, BHW, L=2, **TODAY),
        with_a_state,
        ["flows_conv", "ret"],
    ),
    "lstm_cell": (
        lambda: convlstm.ConvLSTMCell(2, 3, (3, 3), True),
        lambda: compat.convlstm_pytorch.ConvLSTMCell(2, 3, (3, 3), True),
        a_step_of_two,
        ["conv"],
    ),
    "gru_cell": (
        lambda: convgru.ConvGRUCell(SIZE, 2, 3, (3, 3), True, None),
        lambda: compat.convgru_pytorch.ConvGRUCell(SIZE, 2, 3, (3, 3), True, None),
        a_step_of_one,
        ["conv_can"],
    ),
    "openstl_cell": (
        lambda: openstl.ConvLSTMCell(*OPENSTL),
        lambda: compat.openstl.ConvLSTMCell(*OPENSTL),
        a_step_of_three,
        ["conv_x.0"],
    ),
}
EVERY = pytest.mark.parametrize("alter", IN_DOUBLE.values(), ids=IN_DOUBLE)
PLACES = pytest.mark.parametrize(
    ("case", "place"),
    [(case, place) for case, (*_, places) in CASES.items() for place in places],
)
WAYS = pytest.mark.parametrize("way", ["ours", "accelerated"])


def published(case):
    torch.manual_seed(0)
    return CASES[case][0]().double()


def fast(case, way):
    original = published(case)
    if way == "accelerated":
        report = accelerate(original)
        assert "" in report.replaced
        return original
    module = CASES[case][1]().double()
    module.load_state_dict(original.state_dict())
    return module


def owner_and_name(module, place):
    owner, _, name = place.rpartition(".")
    return module.get_submodule(owner), name


@PLACES
@EVERY
@WAYS
def test_computes_what_the_original_does(case, place, alter, way):
    modules = fast(case, way), published(case)
    results = []
    for module in modules:
        torch.manual_seed(1)
        alter(*owner_and_name(module, place))
        results.append(outputs_and_gradients(module, CASES[case][2]))
    assert_same(*results, 1e-8)


CELL = ("lstm_cell", "gru_cell", "openstl_cell")  # call their modules in any case


@PLACES
@WAYS
def test_says_what_it_does(case, place, way):
    module = fast(case, way)
    if case == "openstl_cell":
        assert not hasattr(compat.openstl.ConvLSTMCell, "computes")
        return
    assert module.computes() == "by weights"
    assert "by modules" not in repr(module)
    handle = module.get_submodule(place).register_forward_hook(lambda *_: None)
    assert module.computes() == f"by modules: {place} has a forward hook"
    assert f"by modules: {place} has a forward hook" in repr(module)
    assert copy.deepcopy(module).computes() == module.computes()
    handle.remove()
    assert module.computes() == "by weights"


@PLACES
@WAYS
def test_hooks_that_are_added_afterwards_run(case, place, way):
    counts = []
    for module in (fast(case, way), published(case)):
        seen = []
        conv = module.get_submodule(place)
        conv.register_forward_hook(lambda *_, seen=seen: seen.append("forward"))
        conv.register_full_backward_hook(lambda *_, seen=seen: seen.append("back"))
        outputs_and_gradients(module, CASES[case][2])
        counts.append((seen.count("forward"), seen.count("back")))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0


CELLS = {"lstm": "cell_list.1", "gru": "cell_list.0", "gates": "cell0"}


class Wrapped(nn.Module):
    """A cell of a person's own around the published one, called as that is."""

    def __init__(self, cell):
        super().__init__()
        self.inner = cell
        self.hidden_dim = getattr(cell, "hidden_dim", None)

    def init_hidden(self, *args, **kwargs):
        return self.inner.init_hidden(*args, **kwargs)

    def forward(self, *args, **kwargs):
        new = self.inner(*args, **kwargs)
        return tuple(0.5 * one for one in new) if isinstance(new, tuple) else 0.5 * new


@pytest.mark.parametrize("case", CELLS)
@WAYS
def test_a_cell_that_was_replaced(case, way):
    results = []
    for module in (fast(case, way), published(case)):
        owner, name = owner_and_name(module, CELLS[case])
        wrapped = Wrapped(getattr(owner, name))
        setattr(owner, name, wrapped)
        if case == "gates" and hasattr(module, "_all_layers"):
            module._all_layers[0] = wrapped
        results.append(outputs_and_gradients(module, CASES[case][2]))
    assert_same(*results, 1e-8)


@pytest.mark.parametrize("case", CELLS)
@WAYS
def test_hooks_of_cells_get_what_the_original_gives(case, way):
    """By keyword, where it calls by keyword."""
    counts = []
    for module in (fast(case, way), published(case)):
        seen = []
        cell = module.get_submodule(CELLS[case])

        def hook(_, args, kwargs, seen=seen):
            seen.append((len(args), sorted(kwargs)))

        cell.register_forward_pre_hook(hook, with_kwargs=True)
        CASES[case][2](module)
        counts.append(seen)
    assert counts[0] == counts[1]
    assert len(counts[0]) >= STEPS


@WAYS
@pytest.mark.parametrize("alter", ["adapter", "forward_hook", "new_weight_norm"])
@pytest.mark.parametrize("case", ["lstm", "gru", "gates", "nowcasting", "traj_gru"])
def test_compiles(case, alter, way):
    torch.compiler.reset()
    module = fast(case, way)
    ALTERATIONS[alter](*owner_and_name(module, CASES[case][3][-1]))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    run = CASES[case][2]
    with torch.no_grad():
        assert_same([run(compiled)], [run(module)], 1e-10)
