"""A cell's step in inference, whose convolution updates the gates in cache."""

import pytest
import torch
from torch import nn

from trajgru_ext import conv_algorithm, reference
from trajgru_ext.nn import ConvGRUCell, ConvLSTMCell

CELLS = {
    "lstm": lambda *sizes: ConvLSTMCell(*sizes),
    "lstm_channel": lambda *sizes: ConvLSTMCell(*sizes, peephole="channel"),
    "lstm_element": lambda *sizes: ConvLSTMCell(
        *sizes,
        peephole="element",
        image_size=(17, 19),
        order="ofig",
        forget_bias=1.0,
    ),
    "gru": lambda *sizes: ConvGRUCell(*sizes, order="nur", activation="leaky_relu"),
    "gru_zoneout": lambda *sizes: ConvGRUCell(*sizes, zoneout=0.3),
    "gru_no_bias": lambda *sizes: ConvGRUCell(*sizes, bias=False, update="replace"),
    "gru_before": lambda *sizes: ConvGRUCell(
        *sizes, reset="before", order="ur", zoneout=0.3
    ),
}
# Channels, features, kernel: what Winograd's convolution pays for where it is not
# forced, and what it does not.
SIZES = [(16, 32, 3), (8, 64, 5), (0, 32, 3), (3, 5, 3)]


@pytest.fixture(params=["auto", "winograd"])
def algorithm(request):
    with conv_algorithm(request.param):
        yield


def make(name, sizes):
    torch.manual_seed(0)
    cell = CELLS[name](*sizes)
    for key, parameter in cell.named_parameters():
        if key.startswith("Wc"):
            nn.init.normal_(parameter)
    return cell


def image(channels, layout, batch=2):
    if channels == 0:
        return None
    made = torch.randn(batch, channels, 17, 19)
    return {
        "contiguous": lambda: made,
        "channels last": lambda: made.to(memory_format=torch.channels_last),
        "slice": lambda: torch.cat([made, made], 1)[:, ::2],
        "expanded": lambda: made[:1].expand(batch, -1, -1, -1),
    }[layout]()


def step(cell, x, states):
    torch.manual_seed(1)  # of a zoneout
    new = cell(x, states if isinstance(cell, ConvLSTMCell) else states[0])
    return new if isinstance(new, tuple) else (new,)


@pytest.mark.usefixtures("algorithm")
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    "layouts",
    [
        ("contiguous", "contiguous"),
        ("channels last", "channels last"),
        ("contiguous", "channels last"),
        ("channels last", "slice"),
        ("expanded", "contiguous"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", CELLS)
def test_a_step_in_inference_is_that_in_training(name, layouts, sizes):
    """The numbers, and where they lie."""
    cell = make(name, sizes)
    x = image(sizes[0], layouts[0])
    states = image(sizes[1], layouts[1]), image(sizes[1], layouts[1])
    recorded = step(cell, x, states)
    with torch.no_grad():
        found = step(cell, x, states)
    with torch.inference_mode():
        again = step(cell, x, states)
    for wanted, one, other in zip(recorded, found, again, strict=True):
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-5)
        assert one.stride() == wanted.stride()
        assert torch.equal(one, other)
        assert all(one.data_ptr() != state.data_ptr() for state in states)


@torch.no_grad()
def test_a_step_by_the_formula():
    cell = make("lstm_channel", (16, 32, 3)).double()
    x, h, c = (image(channels, "contiguous") for channels in (16, 32, 32))
    gates = nn.functional.conv2d(
        torch.cat([x, h], 1).double(), cell.conv.weight, cell.conv.bias, padding=1
    )
    weights = cell.Wci, cell.Wcf, cell.Wco
    wanted = reference.lstm_gates(gates, None, c.double(), weights)
    found = cell.float()(x, (h, c))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", CELLS)
def test_any_number_of_threads(name):
    cell = make(name, (16, 32, 3))
    x, states = image(16, "contiguous"), [image(32, "contiguous") for _ in range(2)]
    wanted, threads = step(cell, x, states), torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for one, other in zip(step(cell, x, states), wanted, strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
@pytest.mark.parametrize("name", CELLS)
def test_no_samples(name):
    states = [image(32, "contiguous", batch=0) for _ in range(2)]
    for new in step(make(name, (16, 32, 3)), image(16, "contiguous", batch=0), states):
        assert new.shape == (0, 32, 17, 19)


@torch.no_grad()
@pytest.mark.parametrize("name", CELLS)
def test_weights_that_change(name):
    """However they do: the step reads what is there."""
    cell = make(name, (16, 32, 3))
    x, states = image(16, "contiguous"), [image(32, "contiguous") for _ in range(2)]
    step(cell, x, states)
    for parameter in cell.parameters():
        parameter.data.mul_(0.5)
    fresh = CELLS[name](16, 32, 3)
    fresh.load_state_dict(cell.state_dict())
    for one, other in zip(step(cell, x, states), step(fresh, x, states), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_sequence_of_one_small_step_is_a_step(name, training):
    cell, x = make(name, (3, 5, 3)), image(3, "contiguous")
    parameters = list(cell.parameters())
    found = []
    with torch.set_grad_enabled(training):
        for run in (
            lambda: cell.sequence(x[None]),
            lambda: cell.sequence(x[None], recompute="gates"),
        ):
            torch.manual_seed(1)  # of a zoneout
            outputs, last = run()
            states = [outputs, *(last if isinstance(last, tuple) else (last,))]
            storages = {one.untyped_storage().data_ptr() for one in states}
            assert len(storages) == len(states)
            if training:
                total = sum((one * one).sum() for one in states)
                grads = torch.autograd.grad(total, parameters, allow_unused=True)
                states += [one for one in grads if one is not None]
            found.append(states)
        torch.manual_seed(1)
        alone = cell(x)
    by_step = alone[0] if isinstance(alone, tuple) else alone
    assert torch.equal(found[0][0][0], by_step)
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
