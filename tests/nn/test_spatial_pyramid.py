"""SpatialPyramidPooling against PyTorch's pooling, at every size."""

import math

import pytest
import torch
from test_blocks import derivatives, image
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from ports.blocks import spatial_pyramid
from trajgru_ext.nn import SpatialPyramidPooling


def common_pyramid(pool, x, levels):
    """As it is commonly written; None where PyTorch refuses its padding."""
    try:
        return spatial_pyramid(pool, x, levels)
    except RuntimeError as error:
        assert "pad should be at most half" in str(error)
        return None


@pytest.mark.parametrize("pool_type", ["max_pool", "avg_pool"])
def test_pyramid_is_the_common_one_where_that_runs(pool_type):
    pool = {"max_pool": max_pool2d, "avg_pool": avg_pool2d}[pool_type]
    compared = 0
    for height in range(1, 18):
        for width in (1, 2, 5, 8, 9, 13, 16):
            for levels in (1, 2, 3, 4, 6):
                x = image(2, 3, height, width)
                module = SpatialPyramidPooling(levels, pool_type)
                got = derivatives(module, lambda m, x: m(x), x)
                bins = sum(n * n for n in range(1, levels + 1))
                assert got[0].shape == (2, 3 * bins)
                assert all(one.isfinite().all() for one in got)
                if common_pyramid(pool, x, levels) is None:
                    continue
                compared += 1
                wanted = derivatives(
                    module,
                    lambda m, x, pool=pool, levels=levels: common_pyramid(
                        pool, x, levels
                    ),
                    x,
                )
                for one, other in zip(got, wanted, strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert compared > 100


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_pyramid_where_the_common_one_fails(size):
    """The same bins of a map that is padded beforehand."""
    x = image(1, 2, size, size)
    assert common_pyramid(max_pool2d, x, 4) is None
    for pool_type, pool, outside in (
        ("max_pool", max_pool2d, -math.inf),
        ("avg_pool", avg_pool2d, 0),
    ):
        parts = []
        for n in range(1, 5):
            kernel = -(-size // n)
            before = (kernel * n - size + 1) // 2
            after = kernel * n - size - before
            padded = pad(x, (before, after, before, after), value=outside)
            parts.append(pool(padded, kernel).flatten(1))
        wanted = torch.cat(parts, 1)
        wanted = torch.where(wanted == -math.inf, 0, wanted)  # of padding alone
        got = SpatialPyramidPooling(4, pool_type)(x)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
