"""gru_gates, gru_reset, gru_output: their values and gradients on every backend."""

import itertools
import math
from functools import partial

import pytest
import torch
from accuracy import DTYPES
from flow_warp_inputs import STRIDES, strided
from gate_inputs import (
    FORMATS,
    assert_equal,
    assert_updates,
    derivatives,
    normal,
)

from trajgru_ext import gru_gates, gru_output, gru_reset, reference

ACTIVATIONS = ["tanh", "relu", "leaky_relu"]
UPDATES = ["keep", "replace"]
LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
PARTS = pytest.mark.parametrize("parts", ["both", "x", "h"])


def sample_inputs(
    device,
    dtype=torch.float32,
    size=(2, 5, 4, 6),
    layout=FORMATS[0],
    parts="both",
    gates=3,
    gates_dtype=None,
):
    """The two parts of the gates, the old state, and a gradient to the new one."""
    generator = torch.Generator().manual_seed(sum(size))
    batch, features, height, width = size
    low = gates_dtype or dtype

    def image(count, dtype):
        shape = (batch, count * features, height, width)
        values = normal(generator, device, dtype, *shape)
        return values.contiguous(memory_format=layout)

    x_gates = image(gates, low) if parts in ("both", "x") else None
    h_gates = image(gates, low) if parts in ("both", "h") else None
    return x_gates, h_gates, image(1, dtype), image(1, dtype)


def sample_output(device, dtype=torch.float32, size=(2, 5, 4, 6), layout=FORMATS[0]):
    """An update gate, a candidate, the old state, and a gradient to the new one."""
    u, candidate, h, grad = sample_inputs(device, dtype, size, layout, gates=1)
    return u.sigmoid(), candidate, h, grad


def zoneout(device, size=(2, 5, 4, 6)):
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(size, generator=generator) < 0.4).to(device)


def both(ours, naive, **options):
    """The operator and the naive formula, whose mask lies on the CPU."""
    ours = partial(ours, **options)
    if options.get("zoneout_mask") is not None:
        options["zoneout_mask"] = options["zoneout_mask"].cpu()
    return ours, partial(naive, **options)


@pytest.mark.kernels
@PARTS
@pytest.mark.parametrize("masked", [False, True], ids=["", "zoneout"])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_option_matches_the_naive_formula(
    backend, activation, update, masked, parts
):
    for order, layout in itertools.product(
        map("".join, itertools.permutations("run")), FORMATS
    ):
        *tensors, grad = sample_inputs(
            backend.device, torch.float64, layout=layout, parts=parts
        )
        options = {"order": order, "activation": activation, "update": update}
        options["negative_slope"] = 0.3
        if masked:
            options["zoneout_mask"] = zoneout(backend.device)
        ours, naive = both(gru_gates, reference.gru_gates, **options)
        on_cpu = [None if t is None else t.cpu() for t in tensors]
        got = derivatives(ours, tensors, grad)
        wanted = derivatives(naive, on_cpu, grad.cpu())
        assert_equal([g.cpu() for g in got], wanted)


@pytest.mark.kernels
@PARTS
def test_reset_matches_the_naive_formula(backend, parts):
    for order, layout in itertools.product(("ru", "ur"), FORMATS):
        *tensors, u_grad = sample_inputs(
            backend.device, torch.float64, layout=layout, parts=parts, gates=2
        )
        seeds = (u_grad, u_grad.flip(3))
        ours, naive = both(gru_reset, reference.gru_reset, order=order)
        on_cpu = [None if t is None else t.cpu() for t in tensors]
        got = derivatives(ours, tensors, seeds)
        wanted = derivatives(naive, on_cpu, [seed.cpu() for seed in seeds])
        assert_equal([g.cpu() for g in got], wanted)


@pytest.mark.kernels
@pytest.mark.parametrize("masked", [False, True], ids=["", "zoneout"])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_output_matches_the_naive_formula(backend, activation, update, masked):
    options = {"activation": activation, "update": update}
    if masked:
        options["zoneout_mask"] = zoneout(backend.device)
    ours, naive = both(gru_output, reference.gru_output, **options)
    for layout in FORMATS:
        *tensors, grad = sample_output(backend.device, torch.float64, layout=layout)
        got = derivatives(ours, tensors, grad)
        wanted = derivatives(naive, [t.cpu() for t in tensors], grad.cpu())
        assert_equal([g.cpu() for g in got], wanted)


SIZES = pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 1), (2, 3, 1, 1), (1, 67, 3, 4), (3, 4, 5, 1), (2, 35, 9, 11)],
    ids=str,
)


@pytest.mark.kernels
@LAYOUTS
@SIZES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_sizes_match_the_naive_formula(backend, dtype, size, layout):
    *tensors, grad = sample_inputs(backend.device, dtype, size, layout)
    got = assert_updates(gru_gates, reference.gru_gates, tensors, (grad,))
    assert all(one.dtype == dtype for one in got)
    format_of_gates = torch.empty(size).contiguous(memory_format=layout).stride()
    assert got[0].stride() == format_of_gates or size[1:] == (1, 1, 1)

    *tensors, grad = sample_inputs(backend.device, dtype, size, layout, gates=2)
    assert_updates(gru_reset, reference.gru_reset, tensors, (grad, 2 * grad))
    *tensors, grad = sample_output(backend.device, dtype, size, layout)
    assert_updates(gru_output, reference.gru_output, tensors, (grad,))


@pytest.mark.kernels
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gates_of_a_lower_dtype(backend, low, activation):
    """As under autocast: the arithmetic is the state's, each gradient its tensor's."""
    state = torch.float64 if low == torch.float32 else torch.float32
    options = {"activation": activation}
    for layout, gates in itertools.product(FORMATS, (3, 2)):
        *tensors, grad = sample_inputs(
            backend.device, state, (2, 19, 3, 5), layout, gates=gates, gates_dtype=low
        )
        functions = (gru_reset, reference.gru_reset)
        if gates == 3:
            functions = both(gru_gates, reference.gru_gates, **options)
        got = assert_updates(*functions, tensors, (grad,) * (4 - gates))
        assert got[0].dtype == got[-1].dtype == state
        assert got[-3].dtype == got[-2].dtype == low
    x_gates, h_gates, h, grad = sample_inputs(backend.device, state)
    mixed = (x_gates.to(low), h_gates, h)
    got = assert_updates(gru_gates, reference.gru_gates, mixed, (grad,))
    assert [one.dtype for one in got] == [state, low, state, state]
    u, candidate, h, grad = sample_output(backend.device, state)
    tensors = (u, candidate.to(low), h)
    got = assert_updates(gru_output, reference.gru_output, tensors, (grad,))
    assert [one.dtype for one in got] == [state, state, low, state]


@pytest.mark.kernels
@pytest.mark.parametrize("which", range(4), ids=["x_gates", "h_gates", "h", "grad"])
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(backend, strides, which):
    for layout in FORMATS:
        arguments = list(sample_inputs(backend.device, torch.float64, layout=layout))
        wanted = derivatives(gru_gates, arguments[:3], arguments[3])
        arguments[which] = strided(arguments[which], strides)
        got = derivatives(gru_gates, arguments[:3], arguments[3])
        assert_equal(got, wanted)


@pytest.mark.kernels
@LAYOUTS
def test_slices_of_larger_tensors_and_mixed_formats(backend, layout):
    x_gates, h_gates, h, grad = sample_inputs(
        backend.device, torch.float64, layout=layout
    )
    wanted = derivatives(gru_gates, (x_gates, h_gates, h), grad)
    part = torch.cat([h_gates, x_gates, h_gates], 1)[:, 15:30]
    one_time_step = torch.stack([h, 2 * h], 1)[:, 0]
    got = derivatives(gru_gates, (part, h_gates, one_time_step), grad.expand_as(h))
    assert_equal(got, wanted)
    other = FORMATS[1 - FORMATS.index(layout)]
    mixed = [t.contiguous(memory_format=other) for t in (h_gates, h)]
    got = derivatives(gru_gates, (x_gates, *mixed), grad)
    assert_equal(got, wanted)
    assert got[0].is_contiguous(memory_format=layout)
    ones = torch.ones(1, dtype=torch.float64, device=backend.device).expand_as(h)
    got = derivatives(gru_gates, (x_gates, h_gates, h), ones)
    wanted = derivatives(gru_gates, (x_gates, h_gates, h), ones.contiguous())
    assert_equal(got, wanted)


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize("empty", range(4), ids=["batch", "features", "height", "w"])
def test_empty_tensors(backend, empty, layout):
    size = [2, 3, 4, 5]
    size[empty] = 0
    *tensors, grad = sample_inputs(backend.device, size=tuple(size), layout=layout)
    got = derivatives(gru_gates, tensors, grad)
    for one, like in zip(got, (grad, *tensors), strict=True):
        assert one.shape == like.shape
    *tensors, grad = sample_inputs(backend.device, size=tuple(size), gates=2)
    assert derivatives(gru_reset, tensors, (grad, grad))[1].shape == grad.shape
    *tensors, grad = sample_output(backend.device, size=tuple(size))
    assert derivatives(gru_output, tensors, grad)[0].shape == grad.shape


EXTREMES = [0.0, -0.0, 1e-30, 20.0, -20.0, 88.5, -88.5, 1e4, -1e4, 6e4, -6e4]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saturated_gates(backend, dtype, activation):
    """Finite values and gradients, and those of the formula."""
    values = torch.tensor(EXTREMES, dtype=torch.float64)
    grid = torch.cartesian_prod(values, values, values).T.reshape(1, 3, 11, 121)
    # Away from the kink of the activation, where rounding decides the gradient.
    grid[:, 2] += 0.25
    x_gates = grid.to(backend.device, dtype)
    h_gates = torch.full_like(x_gates, 0.5)
    h, grad = torch.full_like(x_gates[:, :1], -2.0), torch.ones_like(x_gates[:, :1])
    ours, naive = both(gru_gates, reference.gru_gates, activation=activation)
    got = derivatives(ours, (x_gates, h_gates, h), grad)
    assert all(one.isfinite().all() for one in got)
    cpu = [t.cpu().double() for t in (x_gates, h_gates, h, grad)]
    wanted = derivatives(naive, cpu[:3], cpu[3])
    eps = torch.finfo(dtype).eps
    for one, other in zip(got, wanted, strict=True):
        # A gate's slope, sigma (1 - sigma) in round-off, times the state or candidate.
        atol = 8 * eps * max(6e4, other.abs().max().item())
        torch.testing.assert_close(one.cpu().double(), other, rtol=8 * eps, atol=atol)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sigma_and_tanh_are_accurate_to_a_few_eps(backend, dtype):
    """In relative terms, from tiny to saturated arguments."""
    magnitudes = torch.logspace(-20, 2.2, 4000, dtype=torch.float64)
    x = torch.cat([-magnitudes.flip(0), torch.zeros(1), magnitudes])
    x = x.to(backend.device, dtype)[None, None, None]
    gates = torch.cat([x, x], 1)
    u, _ = gru_reset(gates, None, torch.ones_like(x))
    n = gru_output(torch.zeros_like(x), x, torch.ones_like(x))
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for got, wanted in ((u, x.double().sigmoid()), (n, x.double().tanh())):
        torch.testing.assert_close(got.double(), wanted, rtol=4 * eps, atol=4 * tiny)


@pytest.mark.kernels
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_where_it_is(backend, activation):
    size = (1, 4, 3, 5)
    for which, layout in itertools.product(range(3), FORMATS):
        *tensors, grad = sample_inputs(backend.device, size=size, layout=layout)
        tensors[which][0, 1, 2, 3] = math.nan
        ours = partial(gru_gates, activation=activation)
        output, *gradients = derivatives(ours, tensors, grad)
        here = torch.zeros(size, dtype=torch.bool, device=backend.device)
        here[0, 1, 2, 3] = True
        assert output.isnan().equal(here)
        for gradient in gradients:
            folded = gradient.isnan().unflatten(1, (-1, 4)).any(1)
            assert not (folded & ~here).any()


def test_a_mask_broadcasts_and_may_be_a_number(backend):
    *tensors, _ = sample_inputs(backend.device)
    old, new = tensors[2], gru_gates(*tensors)
    numbers = torch.tensor([[[0.0]], [[1]], [[1]], [[0]], [[0.5]]])
    for mask in (numbers.to(backend.device), zoneout(backend.device)):
        got = gru_gates(*tensors, zoneout_mask=mask)
        assert torch.equal(got, torch.where(mask != 0, old, new))
