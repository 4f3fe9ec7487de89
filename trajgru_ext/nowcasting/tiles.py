"""Large frames in overlapping tiles."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from tqdm import tqdm

# Frames up to so many pixels are forecast whole. A TrajGRU network takes some 0.5 KiB a
# pixel, so that a tile with all that it needs stays far below a GiB.
WHOLE = 1024 * 1024
TILE = 512  # pixels a side, a multiple of the network's divisor
# As far as rain moves in an hour at 60 km/h on pixels of 1 km: what is further inside a
# tile has seen where it comes from.
OVERLAP = 64


def in_tiles(make: Callable[[Tensor], Tensor], past: Tensor, ahead: int) -> Tensor:
    """Make frames tile by tile; where tiles overlap, the mean by nearness to a middle.

    Args:
        make: of `[T, h, w]`, the frames `[ahead, h, w]` that follow.
        past: `[T, H, W]`.
        ahead: number of frames.

    Returns:
        `[ahead, H, W]`.

    """
    height, width = past.shape[1:]
    if height * width <= WHOLE:
        return make(past)
    total = torch.zeros(ahead, height, width)
    weight = torch.zeros(height, width)
    corners = list(product(_begins(height), _begins(width)))
    for top, left in tqdm(corners, desc="forecasting", unit="tile"):
        tile = past[:, top : top + TILE, left : left + TILE]
        rows, columns = (_ramp(n) for n in tile.shape[1:])
        share = rows[:, None] * columns
        place = slice(top, top + TILE), slice(left, left + TILE)
        total[:, place[0], place[1]] += share * make(tile)
        weight[place] += share
    return total.div_(weight)


def _begins(extent: int) -> list[int]:
    if extent <= TILE:
        return [0]
    return [*range(0, extent - TILE, TILE - OVERLAP), extent - TILE]


def _ramp(extent: int) -> Tensor:
    """Weights that rise from the edges over the overlap."""
    distance = torch.minimum(torch.arange(extent) + 1, extent - torch.arange(extent))
    return (distance / OVERLAP).clamp(max=1)
