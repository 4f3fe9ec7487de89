"""Decompositions where they differ from the usual lines; the rest is in test_check."""

import pytest
import torch

from trajgru_ext import flow_warp, ops, spatial_pyramid_pool
from trajgru_ext.decompositions import decomposed
from trajgru_ext.ops import _registry


def test_every_operator_has_one():
    assert set(_registry._decompositions) == set(ops.__all__)


def both(function, *arguments):
    with decomposed():
        by_pytorch = function(*arguments)
    return by_pytorch, function(*arguments)


@pytest.mark.parametrize("size", [(1, 6), (5, 1), (1, 1), (4, 6)], ids=str)
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_flows_far_outside_and_along_one_pixel(padding, size):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, *size, generator=generator).double()
    flow = torch.randn(2, 2, *size, generator=generator).double()
    for far in (0.0, 1e4, -1e30, torch.inf, -torch.inf, torch.nan):
        flow[0, 0, 0, 0] = far
        got, wanted = both(flow_warp, image, flow, 1.0, padding)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_bins_of_padding_alone(mode):
    image = torch.randn(2, 3, 5, 9).double() - 10
    got, wanted = both(spatial_pyramid_pool, image, 5, mode)
    assert (wanted == 0).any()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_torchs_own_table_is_left_alone():
    """Under CI, torch.compile refuses to call an operator that has an entry in it."""
    packets = [getattr(torch.ops.trajgru_ext, name) for name in _registry.names()]
    assert not torch._decomp.get_decompositions(packets)
