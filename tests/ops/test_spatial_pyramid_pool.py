"""spatial_pyramid_pool where bins are many, few, wide, empty, or hold equal values."""

import math

import pytest
import torch
from gate_inputs import derivatives, exact
from test_flow_conv import LAYOUTS
from torch.nn.functional import max_pool2d

import trajgru_ext
from trajgru_ext import reference

pytestmark = pytest.mark.kernels


def compare(ours, naive, x, **tolerance):
    """Values and gradients; the seeds are whole numbers, exact in any order of sums."""
    wanted = naive(exact(x))
    seed = torch.arange(wanted.numel(), dtype=x.dtype).view_as(wanted) % 7 - 3
    got = derivatives(ours, [x], seed.to(x.device))
    wanted = derivatives(naive, [exact(x)], exact(seed))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(
            one.detach().cpu(), other.detach(), equal_nan=True, **tolerance
        )


@pytest.mark.parametrize("mode", ["max", "mean"])
@LAYOUTS
@pytest.mark.parametrize(
    "size, levels",
    [
        ((2, 3, 13, 13), 4),
        ((1, 33, 5, 70), 3),  # more columns and channels than a warp has threads
        ((2, 35, 3, 32), 2),
        ((1, 40, 40, 2), 5),
        ((1, 2, 21, 34), 9),  # more bins of a level than a block has room for
        ((1, 32, 4, 3), 9),  # bins without pixels, on either side
        ((2, 2, 1, 1), 9),
    ],
    ids=str,
)
def test_bins_of_any_number_and_size(backend, size, levels, layout, mode):
    generator = torch.Generator().manual_seed(levels)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    compare(
        lambda x: trajgru_ext.spatial_pyramid_pool(x, levels, mode),
        lambda x: reference.spatial_pyramid_pool(x, levels, mode),
        x.to(backend.device).contiguous(memory_format=layout),
        **({"rtol": 0, "atol": 0} if mode == "max" else {}),
    )


def test_many_bins_of_float32_are_those_of_the_naive_formula(backend):
    """Which ThreadSanitizer takes: in channels last, where a block has many bins."""
    x = torch.randn((1, 2, 21, 34), generator=torch.Generator().manual_seed(0))
    for mode in ("max", "mean"):
        compare(
            lambda x, mode=mode: trajgru_ext.spatial_pyramid_pool(x, 9, mode),
            lambda x, mode=mode: reference.spatial_pyramid_pool(x, 9, mode),
            x.to(backend.device).contiguous(memory_format=torch.channels_last),
            check_dtype=False,
        )


@LAYOUTS
def test_the_first_of_equal_values_and_the_last_nan(backend, layout):
    """As PyTorch's pooling, which the gradient shows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-1, 2, (2, 34, 11, 37), generator=generator).double()
    x[0, :, :, 20:] = -math.inf
    x[0, 3] = -0.0
    x[1, :5, 2:9, 4:30:7] = math.nan

    def pool(x):
        # Kernel, stride and padding of n bins of 11 and 37 pixels.
        levels = [
            ((11, 37), 0),
            ((6, 19), (1, 1)),
            ((4, 13), (1, 1)),
            ((3, 10), (1, 2)),
        ]
        pooled = [max_pool2d(x, kernel, kernel, pad) for kernel, pad in levels]
        return torch.cat([level.flatten(1) for level in pooled], 1)

    compare(
        lambda x: trajgru_ext.spatial_pyramid_pool(x, 4),
        pool,
        x.to(backend.device).contiguous(memory_format=layout),
        rtol=0,
        atol=0,
    )
