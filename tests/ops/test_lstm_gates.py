"""lstm_gates: its values and gradients on every backend."""

import itertools
import math

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

from trajgru_ext import lstm_gates, reference

LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
PEEPHOLES = pytest.mark.parametrize("peephole", ["none", "channel", "element"])


def sample_inputs(
    device,
    dtype=torch.float32,
    size=(2, 5, 4, 6),
    layout=FORMATS[0],
    parts="both",
    peephole="none",
    gates_dtype=None,
):
    """Both parts of the gates, the cell state, three weights; gradients to h', c'."""
    generator = torch.Generator().manual_seed(sum(size))
    batch, features, height, width = size

    def image(count, dtype):
        shape = (batch, count * features, height, width)
        values = normal(generator, device, dtype, *shape)
        return values.contiguous(memory_format=layout)

    x_gates = image(4, gates_dtype or dtype) if parts in ("both", "x") else None
    h_gates = image(4, gates_dtype or dtype) if parts in ("both", "h") else None
    c = image(1, dtype)
    shape = (1, features, 1, 1) if peephole == "channel" else (1, *size[1:])
    weights = [
        None if peephole == "none" else normal(generator, device, dtype, *shape)
        for _ in range(3)
    ]
    return [x_gates, h_gates, c, *weights], (image(1, dtype), image(1, dtype))


def flat(function, **options):
    """With the weights as arguments of their own."""

    def of_tensors(x_gates, h_gates, c, *weights):
        peephole = None if weights[0] is None else weights
        return function(x_gates, h_gates, c, peephole, **options)

    return of_tensors


def on_cpu(tensors):
    return [None if t is None else t.detach().cpu() for t in tensors]


@pytest.mark.kernels
@PEEPHOLES
@pytest.mark.parametrize("parts", ["both", "x", "h"])
@LAYOUTS
def test_every_order_matches_the_naive_formula(backend, layout, parts, peephole):
    tensors, seeds = sample_inputs(
        backend.device,
        torch.float64,
        layout=layout,
        parts=parts,
        peephole=peephole,
    )
    for order in map("".join, itertools.permutations("ifog")):
        options = {"order": order, "forget_bias": 0.7}
        got = derivatives(flat(lstm_gates, **options), tensors, seeds)
        naive = flat(reference.lstm_gates, **options)
        wanted = derivatives(naive, on_cpu(tensors), on_cpu(seeds))
        assert_equal([g.cpu() for g in got], wanted)


@pytest.mark.kernels
@PEEPHOLES
@LAYOUTS
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 1), (2, 3, 1, 1), (1, 67, 3, 4), (3, 4, 5, 1), (2, 35, 9, 11)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_sizes_match_the_naive_formula(
    backend, dtype, size, layout, peephole
):
    tensors, seeds = sample_inputs(
        backend.device, dtype, size, layout, peephole=peephole
    )
    pixels = size[2] * size[3] if peephole == "channel" else 1
    terms = [1] * 5 + [size[0] * pixels] * 3 * (peephole != "none")
    got = assert_updates(
        flat(lstm_gates), flat(reference.lstm_gates), tensors, seeds, terms
    )
    assert all(one.dtype == dtype for one in got)
    format_of_gates = torch.empty(size).contiguous(memory_format=layout).stride()
    for one in got[:2]:
        assert one.stride() == format_of_gates or size[1:] == (1, 1, 1)


@pytest.mark.kernels
@PEEPHOLES
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gates_of_a_lower_dtype(backend, low, peephole):
    """As under autocast: the arithmetic is the state's, each gradient its tensor's."""
    state = torch.float64 if low == torch.float32 else torch.float32
    for layout in FORMATS:
        tensors, seeds = sample_inputs(
            backend.device, state, (2, 19, 3, 5), layout, "both", peephole, low
        )
        tensors[3:] = [None if w is None else w.to(low) for w in tensors[3:]]
        terms = [1] * 5 + [30] * 3 * (peephole != "none")
        got = assert_updates(
            flat(lstm_gates), flat(reference.lstm_gates), tensors, seeds, terms
        )
        assert [one.dtype for one in got[:5]] == [state, state, low, low, state]
        assert all(one.dtype == low for one in got[5:])


@pytest.mark.kernels
@PEEPHOLES
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(backend, strides, peephole):
    for layout, which in itertools.product(FORMATS, range(6)):
        tensors, seeds = sample_inputs(
            backend.device, torch.float64, layout=layout, peephole=peephole
        )
        wanted = derivatives(flat(lstm_gates), tensors, seeds)
        if which < 3:
            tensors[which] = strided(tensors[which], strides)
        elif which == 5:
            seeds = [strided(seed, strides) for seed in seeds]
        elif peephole != "none":
            tensors[which] = strided(tensors[which], strides)
        assert_equal(derivatives(flat(lstm_gates), tensors, seeds), wanted)


@pytest.mark.kernels
@PEEPHOLES
@pytest.mark.parametrize("which", [0, 1], ids=["h", "c"])
def test_a_gradient_to_one_of_the_results(backend, which, peephole):
    tensors, seeds = sample_inputs(backend.device, torch.float64, peephole=peephole)
    got = derivatives(
        lambda *given: flat(lstm_gates)(*given)[which], tensors, seeds[which]
    )
    both = [seed.cpu() * (k == which) for k, seed in enumerate(seeds)]
    wanted = derivatives(flat(reference.lstm_gates), on_cpu(tensors), both)
    wanted = (wanted[which], *wanted[2:])
    assert_equal([g.cpu() for g in got], wanted)


@pytest.mark.kernels
@PEEPHOLES
@LAYOUTS
@pytest.mark.parametrize("empty", range(4), ids=["batch", "features", "height", "w"])
def test_empty_tensors(backend, empty, layout, peephole):
    size = [2, 3, 4, 5]
    size[empty] = 0
    tensors, seeds = sample_inputs(
        backend.device, size=tuple(size), layout=layout, peephole=peephole
    )
    got = derivatives(flat(lstm_gates), tensors, seeds)
    given = [t for t in tensors if t is not None]
    for one, like in zip(got, (*seeds, *given), strict=True):
        assert one.shape == like.shape
    assert not any(one.any() for one in got[5:])


@pytest.mark.kernels
@PEEPHOLES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_gates(backend, dtype, peephole):
    """Finite values and gradients."""
    values = torch.tensor([0.0, 1e-30, 20.0, -88.5, 88.5, 6e4, -6e4])
    grid = torch.cartesian_prod(*[values] * 4).T.reshape(1, 4, 49, 49)
    x_gates = grid.to(backend.device, dtype)
    c = torch.full_like(x_gates[:, :1], -2.0)
    weights = [None] * 3
    if peephole != "none":
        shape = (1, 1, 1, 1) if peephole == "channel" else c.shape
        weights = [torch.full(shape, w).to(c) for w in (0.5, 1.0, -1.0)]
    tensors, seeds = [x_gates, None, c, *weights], (c / 2, c / 4)
    got = derivatives(flat(lstm_gates), tensors, seeds)
    assert all(one.isfinite().all() for one in got)
    terms = [1] * 4 + [49 * 49] * 3 * (peephole != "none")
    if dtype in (torch.float32, torch.float64):
        tensors[0] = x_gates.clamp(-100, 100)
        assert_updates(
            flat(lstm_gates), flat(reference.lstm_gates), tensors, seeds, terms
        )


@pytest.mark.kernels
def test_nan_stays_where_it_is(backend):
    size = (1, 4, 3, 5)
    for which, layout in itertools.product(range(3), FORMATS):
        tensors, seeds = sample_inputs(backend.device, size=size, layout=layout)
        tensors[which][0, 5 % tensors[which].shape[1], 2, 3] = math.nan
        h, c, *gradients = derivatives(flat(lstm_gates), tensors, seeds)
        here = torch.zeros(size, dtype=torch.bool, device=backend.device)
        here[0, 1, 2, 3] = True
        assert h.isnan().equal(here)
        assert c.isnan().equal(here)
        for gradient in gradients:
            folded = gradient.isnan().unflatten(1, (-1, 4)).any(1)
            assert not (folded & ~here).any()
