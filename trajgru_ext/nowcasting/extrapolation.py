"""Forecasts without learning from other frames: persistence and extrapolation.

The motion between past frames is the field that, through `trajgru_ext.flow_warp`,
carries each frame onto the later ones: found coarse to fine by Adam, with a penalty on
its gradients. The last frame is then carried on along it.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from trajgru_ext.ops import flow_warp

# Coarse to fine: (pixels pooled into one, control points along the shorter side).
# On 480 km of radar the finest control points lie 30 km apart, the size of a rain band.
# A further level of unpooled pixels costs as much as all of these and gains nothing.
LEVELS = ((8, 4), (4, 8), (2, 16))
STEPS = 60  # of Adam a level; 120 changed no score beyond 0.001
STEP_SIZE = 0.05  # pooled pixels: the coarsest level reaches 60 * 0.05 * 8 = 24 pixels
# Weight of the squared gradient of the motion against the absolute error of pixels in
# [0, 1]. Scores change little from 0.03 to 1, for rain and for digits alike.
SMOOTHNESS = 0.3
# Small features of rain live shorter than large ones: the width in pixels by which the
# forecast of rain smooths the last frame best grows by this much each frame ahead.
RAIN_SMOOTHING = 0.5
SMALLEST = 16  # pixels a side: two pixels at the coarsest level


def persistence(past: Tensor, steps: int) -> Tensor:
    """The last of the frames `[T, B, C, H, W]` again, `[steps, B, C, H, W]`."""
    return past[-1:].expand(steps, *past.shape[1:])


def extrapolation(past: Tensor, steps: int, smoothing: float = 0.0) -> Tensor:
    """The last frame carried on along the motion between the past ones.

    Args:
        past: pixels `[T, B, 1, H, W]` in [0, 1], as of `estimate_motion`.
        steps: number of coming frames.
        smoothing: as of `carry_on`.

    Returns:
        The forecast `[steps, B, 1, H, W]`; 0 where the content was outside.

    Raises:
        ValueError: as `estimate_motion`.

    """
    return carry_on(past[-1], estimate_motion(past), steps, smoothing)[0]


@torch.enable_grad()
def estimate_motion(past: Tensor) -> Tensor:
    """Find the motion that carries each past frame onto those that follow it.

    Minimises the mean absolute error over all pairs of frames, those several frames
    apart by way of the accumulated displacement, plus `SMOOTHNESS` times the mean
    squared gradient of the motion; for every sequence by itself.

    Args:
        past: pixels `[T, B, 1, H, W]` in [0, 1], T >= 2, H and W >= 16.

    Returns:
        motion `[B, 2, H, W]`, pixels a frame: where the content goes, along x and y.

    Raises:
        ValueError: the frames are too few, too small or not of this shape.

    """
    if past.dim() != 5 or past.shape[2] != 1 or len(past) < 2:
        raise ValueError(
            "estimate_motion: past must be [T, B, 1, H, W] with T of 2 or more, got "
            f"{list(past.shape)}"
        )
    height, width = past.shape[3:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"estimate_motion: past must be {SMALLEST} pixels wide and high or more, "
            f"got {height}x{width}"
        )
    sequences = past.shape[1]
    motion = past.new_zeros(sequences, 2, 1, 1)
    for pool, points in LEVELS:
        frames = F.avg_pool2d(past.flatten(0, 1), pool, ceil_mode=True)
        frames = frames.unflatten(0, (-1, sequences))
        grid = [round(points * n / min(height, width)) for n in (height, width)]
        control = _resize(motion, grid).requires_grad_()
        spacing = min(height, width) / points
        adam = torch.optim.Adam([control], lr=STEP_SIZE * pool)
        for _ in range(STEPS):
            pooled = _resize(control, frames.shape[3:]) / pool
            roughness = sum(
                control.diff(dim=d).div(spacing).square().mean() for d in (2, 3)
            )
            # Summed over sequences: to each, the others do not matter.
            loss = sequences * (_mismatch(frames, pooled) + SMOOTHNESS * roughness)
            (control.grad,) = torch.autograd.grad(loss, control)
            adam.step()
        motion = control.detach()
    return _resize(motion, past.shape[3:])


def _resize(field: Tensor, size: list[int] | torch.Size) -> Tensor:
    return F.interpolate(field, size=tuple(size), mode="bicubic", align_corners=False)


def _mismatch(frames: Tensor, motion: Tensor) -> Tensor:
    """Mean absolute error of each frame carried onto each later one."""
    # Content from outside the frame counts as an error too, which keeps motion from
    # pointing inwards at the edges: nothing is known there that could come in.
    losses = []
    steps = range(1, len(frames))
    for apart, displacement in zip(steps, displacements(motion), strict=False):
        before = frames[:-apart]
        along = displacement.expand(len(before), *displacement.shape)
        carried = flow_warp(before.flatten(0, 1), along.flatten(0, 1), flow_scale=-1)
        losses.append((carried - frames[apart:].flatten(0, 1)).abs().mean())
    return torch.stack(losses).mean()


def displacements(motion: Tensor) -> Iterator[Tensor]:
    """How far content that arrives at each pixel has come in 1, 2, 3, ... frames.

    Semi-Lagrangian: D_{k+1}(p) = D_k(p) + m(p - D_k(p)).
    """
    displacement = motion
    while True:
        yield displacement
        displacement = displacement + flow_warp(motion, displacement, flow_scale=-1)


def carry_on(
    last: Tensor, motion: Tensor, steps: int, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Carry frames on along their motion, by one interpolation a lead time.

    Args:
        last: pixels `[B, 1, H, W]`.
        motion: pixels a frame `[B, 2, H, W]`.
        steps: number of coming frames.
        smoothing: growth of the smoothing width a frame, in pixels.

    Returns:
        The forecast `[steps, B, 1, H, W]`, and True where its content was inside the
        last frame; what lay outside is unknown, and 0 in the forecast.

    """
    forecast, known = [], []
    leads = range(1, steps + 1)
    for lead, displacement in zip(leads, displacements(motion), strict=False):
        source = _smooth(last, smoothing * lead)
        both = torch.cat((source, torch.ones_like(source)), 1)
        carried, inside = flow_warp(both, displacement, flow_scale=-1).chunk(2, 1)
        forecast.append(carried)
        known.append(inside > 0.5)
    return torch.stack(forecast), torch.stack(known)


def _smooth(frames: Tensor, width: float) -> Tensor:
    """Smooth the features of each frame but keep its distribution of values.

    Each pixel gets the value of its rank, so that areas of strong rain keep their
    extent instead of being averaged away.
    """
    if width == 0:
        return frames
    smoothed = gaussian_filter(frames.cpu().numpy(), (0, 0, width, width))
    smoothed = torch.from_numpy(smoothed).to(frames.device)
    ranks = smoothed.flatten(1).argsort(dim=1, stable=True)
    values = frames.flatten(1).sort(dim=1).values
    return torch.empty_like(values).scatter_(1, ranks, values).view_as(frames)
