"""A TrajGRUCell's step of plain arguments: one call, of the numbers of a sequence."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from trajgru_ext import _C
from trajgru_ext.nn import TrajGRUCell
from trajgru_ext.ops import traj_gru

OPTIONS = {
    "usual": (3, {}),
    "tanh": (3, {"activation": "tanh"}),
    "relu, no biases": (3, {"activation": "relu", "bias": False}),
    "no inputs": (0, {"negative_slope": 0.1}),
    "other kernels": (16, {"kernel_size": 5, "flow_kernel_size": 3}),
}
FEATURES, LINKS = 16, 3


@pytest.fixture
def calls(monkeypatch):
    """How often a step is one call."""
    made, step = [], _C.traj_gru_cell

    def counted(*args):
        made.append(args)
        return step(*args)

    monkeypatch.setattr(_C, "traj_gru_cell", counted)
    return made


def make(name, dtype):
    torch.manual_seed(0)
    channels, options = OPTIONS[name]
    cell = TrajGRUCell(
        channels, FEATURES, LINKS, flow_channels=6, zero_flows=False, **options
    )
    nn.init.normal_(cell.flows_conv.weight, std=0.3)
    return cell.to(dtype), channels


def image(channels, dtype, layout, batch=2):
    if channels == 0:
        return None
    made = torch.randn(batch, channels, 9, 11, dtype=dtype)
    return made.to(memory_format=layout).requires_grad_()


def by_operator(cell, x, h, mask=None):
    """The same by the operator of whole sequences."""
    pairs = [
        (conv.weight, conv.bias) if conv is not None else None
        for conv in (
            getattr(cell, "i2h", None),
            getattr(cell, "i2f_conv1", None),
            cell.h2f_conv1,
            cell.flows_conv,
            cell.ret,
        )
    ]
    if x is None:
        pairs[:2] = None, None
    inputs = None if x is None else x[None]
    options = {"activation": cell.activation, "negative_slope": cell.negative_slope}
    outputs, _ = traj_gru(inputs, h, *pairs, steps=1, zoneout_mask=mask, **options)
    return outputs[0]


def derivatives(cell, function, tensors):
    """The state, its gradients, and the gradients of their squares."""
    wanted = [*filter(lambda t: t is not None, tensors), *cell.parameters()]
    state = function(cell, *tensors)
    seed = torch.linspace(-1, 1, state.numel(), dtype=state.dtype).reshape(state.shape)
    (seed * state).sum().backward(retain_graph=True, inputs=wanted)
    first = [one.grad.clone() for one in wanted]
    total = (seed * state).sum()
    grads = torch.autograd.grad(total, wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), wanted)
    for one in wanted:
        one.grad = None
    return [state.detach(), *first, *second]


LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", OPTIONS)
def test_numbers_and_gradients(name, layout, calls):
    cell, channels = make(name, torch.float64)
    x, h = (image(count, torch.float64, layout) for count in (channels, FEATURES))
    got = derivatives(cell, lambda cell, x, h: cell(x, h), (x, h))
    assert len(calls) == 1
    wanted = derivatives(cell, by_operator, (x, h))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
    assert got[0].is_contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(cell(x, h), got[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("recording", [True, False])
def test_float32(recording, calls):
    cell, _ = make("other kernels", torch.float32)
    x, h = (image(16, torch.float32, torch.contiguous_format) for _ in range(2))
    with torch.set_grad_enabled(recording):
        got = cell(x, h)
    assert len(calls) == 1 and got.requires_grad == recording
    wanted = by_operator(cell.double(), x.double(), h.double())
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-5)


def test_zoneout(calls):
    cell, _ = make("usual", torch.float64)
    cell.zoneout = 0.5
    x, h = image(3, torch.float64, torch.contiguous_format), torch.randn(2, 16, 9, 11)
    h = h.double()
    torch.manual_seed(3)
    got = cell(x, h)
    assert len(calls) == 1
    kept = got == h
    assert 0.3 < kept.double().mean() < 0.7
    mask = kept[None]
    torch.testing.assert_close(got, by_operator(cell, x, h, mask), rtol=1e-9, atol=1e-9)


def hooked(cell):
    cell.flows_conv.register_forward_hook(lambda module, args, result: 2 * result)


def pruned(cell):
    prune.l1_unstructured(cell.h2f_conv1, "weight", 0.5)


def replaced(cell):
    torch.manual_seed(4)
    cell.ret = nn.Conv2d(LINKS * FEATURES, 3 * FEATURES, 3, padding=1).double()


@pytest.mark.parametrize("change", [hooked, pruned, replaced])
def test_what_people_do_to_the_convolutions(change, calls):
    """A module that is not what was built is called as it is."""
    cell, _ = make("usual", torch.float64)
    x, h = (image(n, torch.float64, torch.contiguous_format) for n in (3, FEATURES))
    before = cell(x, h)
    change(cell)
    del calls[:]
    after = cell(x, h)
    assert not calls
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(cell(x, h, return_flows=True)[0], after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_take_wider_flows(dtype, calls):
    cell, _ = make("usual", dtype)
    x, h = (torch.randn(2, n, 9, 11, dtype=dtype) for n in (3, FEATURES))
    assert cell(x, h).dtype == dtype
    assert not calls
    torch.testing.assert_close(cell(x, h), by_operator(cell, x, h), rtol=0, atol=0)


def test_traced_and_transformed_steps_are_the_operator(calls):
    cell, _ = make("usual", torch.float64)
    x, h = (torch.randn(2, n, 9, 11).double() for n in (3, FEATURES))
    wanted = cell(x, h)
    del calls[:]
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, h), wanted, rtol=1e-9, atol=1e-9)
    _, tangent = torch.func.jvp(lambda h: cell(x, h), (h,), (torch.ones_like(h),))
    assert tangent.shape == h.shape
    assert not calls
