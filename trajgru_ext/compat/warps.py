"""The warps of published flow networks, drop-in functions on `flow_warp`.

- `pwc_net_warp`: the backward warp of PWC-Net (NVlabs/PWC-Net)
- `bilinear_sampler`: RAFT's (princeton-vl/RAFT)
- `nowcastnet_warp`, `make_grid`: NowcastNet's, there `warp` and `make_grid`

Arguments and coordinates are the originals'. Results differ by the round-off of the
originals' positions, which they normalise for `grid_sample`, and in what `flow_warp`
defines otherwise: the gradient to the flow at whole positions is that of the cell to
the right and below, and where the flow is NaN, so are result and gradient. What is no
bilinear warp to the image's own size, `grid_sample` computes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from trajgru_ext.ops._options import PADDINGS
from trajgru_ext.ops.flow_warp import flow_warp

__all__ = ["bilinear_sampler", "make_grid", "nowcastnet_warp", "pwc_net_warp"]


def _pixels(like: Tensor, size: Sequence[int]) -> Tensor:
    """Of each pixel x and y, `[2, H, W]`."""
    height, width = size
    x, y = (
        torch.arange(n, device=like.device, dtype=like.dtype) for n in (width, height)
    )
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)))


def _each(like: Tensor, x: float, y: float) -> Tensor:
    """A number for x and one for y, to be broadcast to a flow."""
    return torch.tensor((x, y), device=like.device, dtype=like.dtype)[:, None, None]


def _last(size: Sequence[int]) -> tuple[int, int]:
    """What PWC-Net and NowcastNet divide x and y by."""
    height, width = size
    return max(width - 1, 1), max(height - 1, 1)


def _normalised(positions: Tensor, x_last: int, y_last: int) -> Tensor:
    """Positions `[..., 2]` in pixels as `grid_sample` wants them."""
    return 2 * positions / positions.new_tensor((x_last, y_last)) - 1


def _aligned(flow: Tensor) -> Tensor:
    """The flow as `align_corners=True` has it: none along an axis of one pixel."""
    height, width = flow.shape[2:]
    if height > 1 and width > 1:
        return flow
    return flow * _each(flow, width > 1, height > 1)


def pwc_net_warp(x: Tensor, flo: Tensor, align_corners: bool = True) -> Tensor:
    """Warp features back along a flow, 0 where they are read past the image's edge.

    A pixel is kept where a warp of ones is at least 0.9999, and is 0 elsewhere.

    Args:
        x: features `[B, C, H, W]`.
        flo: displacements `[B, 2, H, W]` in pixels, to the right and down.
        align_corners: what the original leaves to `grid_sample`. True is its default up
            to torch 1.2, with which PWC-Net was written; False today's, by which
            positions are spread by W / (W - 1), and half a pixel off.

    Returns:
        `[B, C, H, W]`.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.warps import pwc_net_warp
        >>> features = torch.tensor([[[[1.0, 2.0, 3.0]]]])
        >>> right = torch.tensor([1.0, 0.0])[None, :, None, None]
        >>> pwc_net_warp(features, right.expand(1, 2, 1, 3))
        tensor([[[[2., 3., 0.]]]])

    Source: Sun et al. 2018, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and
    Cost Volume" (arXiv 1709.02371); github.com/NVlabs/PWC-Net, `PWCDCNet.warp`.

    """
    if align_corners:
        flow = _aligned(flo)
    else:
        size = x.shape[2:]
        (width, height), (x_last, y_last) = reversed(size), _last(size)
        spread = _each(flo, width / x_last, height / y_last)
        pixels = _pixels(flo, size)
        flow = flo * spread + (pixels * (spread - 1) - 0.5)
    with torch.no_grad():  # the original's mask is made of constants
        seen = flow_warp(x.new_ones(()).expand(x[:, :1].shape), flow)
        mask = torch.where(seen.isnan(), seen, (seen >= 0.9999).to(seen.dtype))
    return flow_warp(x, flow) * mask


def bilinear_sampler(
    img: Tensor, coords: Tensor, mode: str = "bilinear", mask: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Sample an image at positions in pixels, 0 outside of it.

    Args:
        img: `[B, C, H, W]`.
        coords: positions `[B, H', W', 2]`, (x, y).
        mode: not read, as in the original.
        mask: whether to return where positions lie within the image, its edge excluded.

    Returns:
        `[B, C, H', W']`, and with `mask` also `[B, H', W', 1]` of 0 and 1.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.warps import bilinear_sampler
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> bilinear_sampler(image, torch.tensor([[[[1.5, 1.0], [1.0, 0.5]]]]))
        tensor([[[[4.5000, 2.5000]]]])

    Source: Teed and Deng 2020, "RAFT: Recurrent All-Pairs Field Transforms for Optical
    Flow" (arXiv 2003.12039); github.com/princeton-vl/RAFT, `core/utils/utils.py`.

    """
    height, width = img.shape[-2:]
    # Of one line or column the original makes NaN, or infinity.
    flows = coords.shape[1:3] == img.shape[-2:] and height > 1 and width > 1
    if flows and not mask:
        return _read_at(img, coords)
    positions = _normalised(coords, width - 1, height - 1)
    sampled = (
        _read_at(img, coords)
        if flows
        else grid_sample(img, positions, align_corners=True)
    )
    if not mask:
        return sampled
    inside = ((positions > -1) & (positions < 1)).all(-1, keepdim=True)
    return sampled, inside.float()


def _read_at(img: Tensor, coords: Tensor) -> Tensor:
    to = coords.permute(0, 3, 1, 2)
    return flow_warp(img, to - _pixels(to, img.shape[-2:]))


def make_grid(input: Tensor) -> Tensor:
    """The position of each pixel, x and y, `[B, 2, H, W]` in float32.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.warps import make_grid
        >>> make_grid(torch.zeros(1, 1, 2, 2))
        tensor([[[[0., 1.],
                  [0., 1.]],
                 [[0., 0.],
                  [1., 1.]]]])

    """
    batch, _, height, width = input.shape
    like = torch.empty(0, device=input.device, dtype=torch.float32)
    return _pixels(like, (height, width)).repeat(batch, 1, 1, 1)


def nowcastnet_warp(
    input: Tensor,
    flow: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Read a field where `grid + flow` points to.

    Args:
        input: `[B, C, H, W]`.
        flow: displacements `[B, 2, H, W]` in pixels, to the right and down.
        grid: where they start, as `make_grid` makes it.
        mode: of `grid_sample`, which computes all but "bilinear".
        padding_mode: of `grid_sample`, which computes all but "zeros" and "border".

    Returns:
        `[B, C, H, W]`.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.warps import make_grid, nowcastnet_warp
        >>> field = torch.tensor([[[[1.0], [2.0], [3.0]]]])
        >>> down = torch.tensor([0.0, 1.0])[None, :, None, None]
        >>> flow = down.expand(1, 2, 3, 1)
        >>> nowcastnet_warp(field, flow, make_grid(field), padding_mode="border")
        tensor([[[[2.],
                  [3.],
                  [3.]]]])

    Source: Zhang et al. 2023, "Skilful nowcasting of extreme precipitation with
    NowcastNet" (Nature 619); `nowcasting/layers/utils.py` of its published code.

    """
    size = input.shape[2:]
    if mode != "bilinear" or padding_mode not in PADDINGS or flow.shape[2:] != size:
        positions = _normalised((grid + flow).permute(0, 2, 3, 1), *_last(size))
        options = {"mode": mode, "padding_mode": padding_mode}
        return grid_sample(input, positions, align_corners=True, **options)
    # The difference is exact, and so the displacement is what it was.
    moved = (grid - _pixels(grid, size)) + flow
    return flow_warp(input, _aligned(moved), padding_mode=padding_mode)
