"""The blocks' operators: values and gradients on every backend."""

import math

import pytest
import torch
from accuracy import DTYPES, opmath
from block_inputs import CASES, seed_like
from flow_warp_inputs import STRIDES, strided
from gate_inputs import FORMATS, assert_equal, derivatives, exact

import trajgru_ext

pytestmark = pytest.mark.kernels

EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)


def compare(case, tensors, layout):
    """With the naive formula in float64.

    A result is a sum of at most `terms` products of three factors, a softmax or a mean
    being exact to a few roundings of its own.
    """
    seed = seed_like(case.naive(*map(exact, tensors)), layout)
    seed = seed.to(tensors[0].device, tensors[0].dtype)
    got = derivatives(case.ours, tensors, seed)
    wanted = derivatives(case.naive, [exact(t) for t in tensors], exact(seed))
    largest = max([1.0, *(t.abs().max().item() for t in (*tensors, seed) if t.numel())])
    terms = 64 + case.images * math.prod(tensors[0].shape[2:])
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == tensors[0].dtype
        eps = torch.finfo(one.dtype).eps
        torch.testing.assert_close(
            one.detach().double().cpu(),
            other.detach(),
            rtol=eps,
            atol=terms * torch.finfo(opmath(one.dtype)).eps * largest**3,
            equal_nan=True,
        )
    return got


@EVERY
@LAYOUTS
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 1), (2, 3, 1, 1), (1, 67, 3, 4), (3, 4, 5, 1), (2, 35, 9, 11)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_naive_formula(backend, case, dtype, size, layout):
    tensors = case.sample_inputs(backend.device, dtype, size, layout)
    output, *gradients = compare(case, tensors, layout)
    if output.dim() == 4:
        sizes = torch.empty(output.shape)
        strides = sizes.contiguous(memory_format=layout).stride()
        assert output.stride() == strides or size[1:] == (1, 1, 1)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert gradient.shape == tensor.shape


@EVERY
@LAYOUTS
def test_many_pixels(backend, case, layout):
    """More than one chunk of them."""
    tensors = case.sample_inputs(backend.device, torch.float64, (1, 2, 70, 90), layout)
    seed = seed_like(case.ours(*tensors), layout)
    got = derivatives(case.ours, tensors, seed)
    wanted = derivatives(case.naive, [exact(t) for t in tensors], exact(seed))
    assert_equal([one.cpu() for one in got], wanted)


@EVERY
@LAYOUTS
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(backend, case, layout, strides):
    tensors = case.sample_inputs(backend.device, torch.float64, layout=layout)
    seed = seed_like(case.ours(*tensors), layout)
    wanted = derivatives(case.ours, tensors, seed)
    for which in range(case.images):
        changed = list(tensors)
        changed[which] = strided(tensors[which], strides)
        assert_equal(derivatives(case.ours, changed, seed), wanted)
    if seed.dim() == 4:
        got = derivatives(case.ours, tensors, strided(seed, strides))
        assert_equal(got, wanted)


@EVERY
@LAYOUTS
def test_slices_mixed_formats_and_expanded_gradients(backend, case, layout):
    tensors = case.sample_inputs(backend.device, torch.float64, layout=layout)
    ones = torch.ones_like(case.ours(*tensors))
    wanted = derivatives(case.ours, tensors, ones)
    one = torch.ones((), dtype=torch.float64, device=backend.device)
    assert_equal(derivatives(case.ours, tensors, one.expand_as(ones)), wanted)
    sliced = list(tensors)
    sliced[0] = torch.cat([tensors[0], tensors[0], tensors[0]], 1)[:, 5:10]
    assert_equal(derivatives(case.ours, sliced, ones), wanted)
    other = FORMATS[1 - FORMATS.index(layout)]
    last = case.images - 1
    mixed = list(tensors)
    mixed[last] = tensors[last].contiguous(memory_format=other)
    assert_equal(derivatives(case.ours, mixed, ones), wanted)


@EVERY
@LAYOUTS
@pytest.mark.parametrize("empty", range(4), ids=["batch", "channels", "height", "w"])
def test_empty_tensors(backend, case, empty, layout):
    size = [2, 3, 4, 5]
    size[empty] = 0
    if empty > 1 and case.operator == "spatial_pyramid_pool":
        pytest.skip("has no bins")
    tensors = case.sample_inputs(backend.device, size=tuple(size), layout=layout)
    compare(case, tensors, layout)


@EVERY
@LAYOUTS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_where_it_is(backend, case, layout, value):
    """As in the naive formula."""
    tensors = case.sample_inputs(backend.device, torch.float64, layout=layout)
    for which in range(len(tensors)):
        changed = [tensor.clone() for tensor in tensors]
        changed[which][(0,) * (changed[which].dim() - 1) + (1,)] = value
        got = case.ours(*changed).cpu()
        wanted = case.naive(*[one.cpu() for one in changed])
        torch.testing.assert_close(got, wanted, equal_nan=True, rtol=0, atol=1e-10)


@LAYOUTS
def test_scale_or_slope_alone(backend, layout):
    """As where the other changes nothing."""
    *branches, scale, shift, slope = CASES["hff_concat, affine"].sample_inputs(
        backend.device, torch.float64, layout=layout
    )
    ones, zeros = torch.ones_like(scale), torch.zeros_like(scale)
    seed = seed_like(torch.cat(branches[1:], 1), layout)

    def activated(slope, *branches):
        return trajgru_ext.hff_concat(branches, 1, slope=slope)

    def normalized(scale, shift, *branches):
        return trajgru_ext.hff_concat(branches, 1, scale, shift)

    def both(scale, shift, slope, *branches):
        return trajgru_ext.hff_concat(branches, 1, scale, shift, slope)

    got = derivatives(activated, [slope, *branches], seed)
    wanted = derivatives(both, [ones, zeros, slope, *branches], seed)
    assert_equal(got, [wanted[0], *wanted[3:]])
    got = derivatives(normalized, [scale, shift, *branches], seed)
    wanted = derivatives(both, [scale, shift, ones, *branches], seed)
    assert_equal(got, [*wanted[:3], *wanted[4:]])
