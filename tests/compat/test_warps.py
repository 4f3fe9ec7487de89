"""compat.warps against plain renderings of the published functions, in float64."""

import pytest
import torch
from torch.nn.functional import grid_sample

from ports.warp import positions
from trajgru_ext.compat.warps import (
    bilinear_sampler,
    make_grid,
    nowcastnet_warp,
    pwc_net_warp,
)

SIZES = [(2, 3, 6, 8), (1, 2, 1, 7), (2, 1, 5, 1), (1, 3, 1, 1)]


def inputs(size, seed=0):
    """An image, and a flow that leaves it here and there, off whole positions."""
    generator = torch.Generator().manual_seed(seed)
    batch, _, height, width = size
    image = torch.randn(size, generator=generator, dtype=torch.float64)
    normal = torch.randn(
        (batch, 2, height, width), generator=generator, dtype=torch.float64
    )
    flow = (2 * normal).floor() + 0.5 + 0.1 * normal.clamp(-3, 3)
    return image, flow


def derivatives(function, *tensors):
    """Results, and the gradients of the first to the tensors."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    results = function(*leaves)
    results = results if isinstance(results, tuple) else (results,)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(results[0].shape, generator=generator, dtype=torch.float64)
    return *results, *torch.autograd.grad(results[0], leaves, grad, allow_unused=True)


def agree(ours, theirs, *tensors):
    for one, other in zip(
        derivatives(ours, *tensors), derivatives(theirs, *tensors), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def plain_pwc_net(x, flo, align_corners):
    """PWC-Net's."""
    grid = positions(flo)
    output = grid_sample(x, grid, align_corners=align_corners)
    mask = grid_sample(torch.ones_like(x), grid, align_corners=align_corners)
    mask = torch.where(mask < 0.9999, torch.zeros_like(mask), mask)
    return output * torch.where(mask > 0, torch.ones_like(mask), mask)


def plain_raft(img, coords, mask=False):
    """RAFT's."""
    height, width = img.shape[-2:]
    x, y = coords.split([1, 1], dim=-1)
    x, y = 2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1
    output = grid_sample(img, torch.cat([x, y], dim=-1), align_corners=True)
    inside = (x > -1) & (y > -1) & (x < 1) & (y < 1)
    return (output, inside.float()) if mask else output


def plain_nowcastnet(input, flow, mode, padding_mode):
    """NowcastNet's, from each pixel."""
    options = {"mode": mode, "padding_mode": padding_mode}
    return grid_sample(input, positions(flow), align_corners=True, **options)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("align_corners", [True, False])
def test_pwc_net(align_corners, size):
    x, flo = inputs(size)
    agree(
        lambda x, flo: pwc_net_warp(x, flo, align_corners),
        lambda x, flo: plain_pwc_net(x, flo, align_corners),
        *(x, flo),
    )


@pytest.mark.parametrize("align_corners", [True, False])
def test_pwc_net_of_small_flows(align_corners):
    """With much of the image kept, as trained networks have it."""
    x, flo = inputs((2, 3, 12, 17))
    flo = 0.2 * flo
    agree(
        lambda x, flo: pwc_net_warp(x, flo, align_corners),
        lambda x, flo: plain_pwc_net(x, flo, align_corners),
        *(x, flo),
    )
    assert (pwc_net_warp(x, flo, align_corners) != 0).double().mean() > 0.5


def test_pwc_net_keeps_the_edge_and_nothing_past_it():
    x = torch.ones(1, 1, 3, 4, dtype=torch.float64)
    flo = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    assert torch.equal(pwc_net_warp(x, flo), x)
    for past, kept in ((5e-5, 1), (2e-4, 0)):
        flo[0, 0, 1, 3] = past
        assert pwc_net_warp(x, flo)[0, 0, 1, 3].round() == kept
    flo[0, 0, 1, 3] = torch.nan
    assert pwc_net_warp(x, flo).isnan().sum() == 1


@pytest.mark.parametrize("size", [None, (5, 8), (9, 3)], ids=str)
@pytest.mark.parametrize("mask", [False, True])
def test_raft(mask, size):
    image, flow = inputs((2, 3, 6, 8))
    if size is None:
        coords = (flow + make_grid(image)).permute(0, 2, 3, 1)
    else:
        coords = 9 * torch.rand(2, *size, 2, dtype=torch.float64) - 1
    agree(
        lambda image, coords: bilinear_sampler(image, coords, mask=mask),
        lambda image, coords: plain_raft(image, coords, mask),
        *(image, coords),
    )


def test_rafts_mask_excludes_the_edge():
    image = torch.randn(1, 1, 5, 7)
    coords = make_grid(image).permute(0, 2, 3, 1)
    sampled, inside = bilinear_sampler(image, coords, mask=True)
    assert torch.equal(sampled, image)
    assert inside.shape == (1, 5, 7, 1)
    assert torch.equal(inside[0, 1:-1, 1:-1, 0], torch.ones(3, 5))
    assert inside.sum() == 15


def test_raft_of_one_line_is_as_undefined_as_the_original():
    image, coords = torch.randn(1, 2, 1, 4), torch.rand(1, 1, 4, 2)
    torch.testing.assert_close(
        *(bilinear_sampler(image, coords), plain_raft(image, coords)), equal_nan=True
    )


def test_grid():
    grid = make_grid(torch.empty(2, 3, 4, 5, dtype=torch.float64))
    assert grid.dtype == torch.float32
    assert grid.shape == (2, 2, 4, 5)
    assert torch.equal(grid[1, 0, 2], torch.arange(5.0))
    assert torch.equal(grid[0, 1, :, 3], torch.arange(4.0))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_nowcastnet(mode, padding_mode, size):
    image, flow = inputs(size)
    grid = make_grid(image)
    options = (mode, padding_mode)
    agree(
        lambda image, flow: nowcastnet_warp(image, flow, grid, *options),
        lambda image, flow: plain_nowcastnet(image, flow, *options),
        *(image, flow),
    )


def test_nowcastnet_of_another_grid():
    image, flow = inputs((2, 3, 6, 8))
    agree(
        lambda image, flow: nowcastnet_warp(image, flow, make_grid(image) - 0.25),
        lambda image, flow: plain_nowcastnet(image, flow - 0.25, "bilinear", "zeros"),
        *(image, flow),
    )


def test_zero_flow_is_the_identity():
    image = torch.randn(2, 3, 37, 53)
    zero = torch.zeros(2, 2, 37, 53)
    assert torch.equal(pwc_net_warp(image, zero), image)
    for padding_mode in ("zeros", "border"):
        warped = nowcastnet_warp(
            image, zero, make_grid(image), padding_mode=padding_mode
        )
        assert torch.equal(warped, image)
