"""Forecasts without learning from other frames: persistence and extrapolation.

The motion between past frames is the field that, through `trajgru_ext.flow_warp`,
carries each frame onto the later ones: found coarse to fine by Adam, with a penalty on
its gradients. The last frame is then carried on along it.

NaN pixels are unknown: the known ones around them are interpolated without them. All
is computed in float32 (float64 for float64), and runs under `torch.inference_mode` too.
As Adam's steps and scipy's filter are no graph, `torch.compile` leaves these functions
out of what it compiles (with `fullgraph=True` that is an error), and `torch.export`
refuses them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.nowcasting._threads import one_thread
from trajgru_ext.ops import flow_warp
from trajgru_ext.ops._arguments import check_tensors

P = ParamSpec("P")
R = TypeVar("R")

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
# Of frames up to so many pixels, the thousands of small operations take one thread no
# longer than two: 3.6 s against 5.7 of 480x480 where others use the processor too.
BY_ONE_THREAD = 2**20
SMALLEST = 16  # pixels a side: two pixels at the coarsest level
_LEAST_SHARE = 1e-4  # of a pixel that is known; less is round-off of the shares' sum


def _outside_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """A function that torch.compile calls as it is, and torch.export refuses."""
    name = function.__name__
    reason = f"{name} runs Adam or scipy's filter, which are no graph"

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_exporting():
            raise RuntimeError(f"{name}: cannot be exported, as {reason}")
        return function(*args, **options)

    disable: Any = torch.compiler.disable
    outside: Callable[P, R] = disable(call, reason=reason)
    return outside


def persistence(past: Tensor, steps: int) -> Tensor:
    """The last of the frames `[T, B, C, H, W]` again, `[steps, B, C, H, W]`."""
    return past[-1:].expand(steps, *past.shape[1:])


@_outside_of_graphs
def extrapolation(past: Tensor, steps: int, smoothing: float = 0.0) -> Tensor:
    """The last frame carried on along the motion between the past ones.

    What is unknown in the last frame is taken from the frame before, carried on, and so
    on: the forecast is unknown only where no past frame knew its content.

    Args:
        past: pixels `[T, B, 1, H, W]` in [0, 1], as of `estimate_motion`.
        steps: number of coming frames.
        smoothing: as of `carry_on`.

    Returns:
        The forecast `[steps, B, 1, H, W]`, in the dtype of `past`; 0 where the content
        was outside, NaN where it is unknown.

    Raises:
        TypeError, ValueError: as `estimate_motion`; steps is not positive.

    """
    motion = estimate_motion(past)
    last = past[-1]
    for age in range(1, len(past)):
        if not last.isnan().any():
            break
        carried, inside = carry_on(past[-1 - age], motion, age)
        last = torch.where(last.isnan() & inside[-1], carried[-1], last)
    return carry_on(last, motion, steps, smoothing)[0]


@_outside_of_graphs
def estimate_motion(past: Tensor) -> Tensor:
    """Find the motion that carries each past frame onto those that follow it.

    Minimises the mean absolute error over all pairs of frames, those several frames
    apart by way of the accumulated displacement, plus `SMOOTHNESS` times the mean
    squared gradient of the motion; for every sequence by itself. Errors count by how
    much of the pixel is known in both frames; where nothing is, the motion is smooth,
    and 0 where nothing at all is known.

    Args:
        past: pixels `[T, B, 1, H, W]` in [0, 1], NaN where unknown, of a floating
            dtype, T >= 2, H and W >= 16.

    Returns:
        motion `[B, 2, H, W]`, pixels a frame: where the content goes, along x and y; in
        float32, float64 for float64. No gradient leads through it.

    Raises:
        TypeError: the frames are no tensor of a floating dtype.
        ValueError: the frames are too few, too small or not of this shape.

    """
    check_tensors("estimate_motion", past=past)
    if not past.is_floating_point():
        raise TypeError(
            f"estimate_motion: past must be of a floating dtype, got {past.dtype}"
        )
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
    few = past[0].numel() <= BY_ONE_THREAD
    # Adam needs gradients, which tensors of inference mode, unlike copies, never get.
    with (
        one_thread() if few else contextlib.nullcontext(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(past.device.type, enabled=False),
    ):
        return _motion(_wide(past.detach().clone()))


def _motion(past: Tensor) -> Tensor:
    sequences, _, height, width = past.shape[1:]
    unknown = past.isnan()
    known = torch.where(unknown, 0, past)
    # The shares of pixels that are unknown follow the frames as a channel, if any are.
    shares = unknown.to(past) if unknown.any() else past[:, :, :0]
    both = torch.cat([known, shares], 2).flatten(0, 1)
    motion = past.new_zeros(sequences, 2, 1, 1)
    for pool, points in LEVELS:
        frames = F.avg_pool2d(both, pool, ceil_mode=True)
        frames = torch.cat([_of_known(frames), frames[:, 1:]], 1)
        frames = frames.view(-1, sequences, *frames.shape[1:])
        grid = [round(points * n / min(height, width)) for n in (height, width)]
        control = _resize(motion, grid).requires_grad_()
        spacing = min(height, width) / points
        adam = torch.optim.Adam([control], lr=STEP_SIZE * pool)
        for _ in range(STEPS):
            pooled = _resize(control, frames.shape[3:]) / pool
            slopes = [control.diff(dim=d).div(spacing).square() for d in (2, 3)]
            roughness = torch.stack([slope.mean() for slope in slopes]).sum()
            # Summed over sequences: to each, the others do not matter.
            loss = _mismatch(frames, pooled) + sequences * SMOOTHNESS * roughness
            (control.grad,) = torch.autograd.grad(loss, control)
            adam.step()
        motion = control.detach()
    return _resize(motion, [height, width])


def _resize(field: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(field, size=tuple(size), mode="bicubic", align_corners=False)


def _wide(pixels: Tensor) -> Tensor:
    """In float32, which displacements of some pixels need, or float64."""
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32))


def _known_share(both: Tensor) -> Tensor:
    """How much of each pixel is known, by the channel after the frame's, if any."""
    return 1 - both[:, 1:].sum(1, keepdim=True)


def _of_known(both: Tensor) -> Tensor:
    """The frame where unknown pixels, 0 in it, have been averaged with others."""
    share = _known_share(both)
    return both[:, :1] / share.where(share > _LEAST_SHARE, 1)


def _mismatch(both: Tensor, motion: Tensor) -> Tensor:
    """Mean absolute error of each frame carried onto each later one.

    Of each sequence, added up. `both` is `[T, B, 1 or 2, H, W]`: frames, and shares of
    pixels that are unknown.
    """
    # Content from outside the frame counts as an error too, which keeps motion from
    # pointing inwards at the edges: nothing is known there that could come in.
    losses = []
    known, unknown = both[:, :, :1], both[:, :, 1:]
    held = torch.cat([known * (1 - unknown.sum(2, keepdim=True)), unknown], 2)
    apart = range(1, len(both))
    for steps, displacement in zip(apart, displacements(motion), strict=False):
        before, after = held[:-steps], both[steps:].flatten(0, 1)
        along = displacement.expand(len(before), *displacement.shape)
        carried = flow_warp(before.flatten(0, 1), along.flatten(0, 1), flow_scale=-1)
        # Without a gradient, as else content would hide in what is unknown.
        share = (_known_share(carried) * _known_share(after)).detach()
        error = share * (_of_known(carried) - after[:, :1]).abs()
        each = torch.stack([error, share]).view(2, *before.shape[:2], -1)
        errors, shares = each.sum((1, 3))
        losses.append((errors / shares.clamp(min=_LEAST_SHARE)).sum())
    return torch.stack(losses).mean()


def displacements(motion: Tensor) -> Iterator[Tensor]:
    """How far content that arrives at each pixel has come in 1, 2, 3, ... frames.

    Semi-Lagrangian: D_{k+1}(p) = D_k(p) + m(p - D_k(p)).
    """
    displacement = motion
    while True:
        yield displacement
        displacement = displacement + flow_warp(motion, displacement, flow_scale=-1)


@_outside_of_graphs
def carry_on(
    last: Tensor, motion: Tensor, steps: int, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Carry frames on along their motion, by one interpolation a lead time.

    Args:
        last: pixels `[B, 1, H, W]`, NaN where unknown.
        motion: pixels a frame `[B, 2, H, W]`.
        steps: number of coming frames.
        smoothing: growth of the smoothing width a frame, in pixels.

    Returns:
        The forecast `[steps, B, 1, H, W]` in the dtype of `last`, and True where its
        content was known inside the last frame. What lay outside is 0 in the forecast;
        NaN is what would be made of unknown pixels alone.

    Raises:
        TypeError, ValueError: steps is not positive; or as `trajgru_ext.flow_warp`.

    """
    (steps,) = check_positive("carry_on", steps=steps)
    check_tensors("carry_on", last=last, motion=motion)
    forecast, known = [], []
    leads = range(1, steps + 1)
    for lead, displacement in zip(leads, displacements(_wide(motion)), strict=False):
        source = _wide(_smooth(last, smoothing * lead))
        present = ~source.isnan()
        parts = [torch.where(present, source, 0), present, ~present]
        images = torch.cat([part.to(source.dtype) for part in parts], 1)
        carried = flow_warp(images, displacement, flow_scale=-1)
        pixels, share, unknown = carried.chunk(3, 1)
        # The mean of what is known; what is outside, unlike the unknown, is 0.
        some = share > 0
        mean = torch.where(some, pixels / share.where(some, 1), torch.nan)
        forecast.append(torch.where(unknown > 0, mean, pixels).to(last.dtype))
        known.append(share > 0.5)
    return torch.stack(forecast), torch.stack(known)


def _smooth(frames: Tensor, width: float) -> Tensor:
    """Smooth the features of each frame but keep its distribution of values.

    Each pixel gets the value of its rank, so that areas of strong rain keep their
    extent instead of being averaged away. What is unknown stays so.
    """
    if width == 0:
        return frames

    def smooth(image: Tensor) -> Tensor:
        filtered = gaussian_filter(_wide(image).cpu().numpy(), (0, 0, width, width))
        return torch.from_numpy(filtered).to(frames.device)

    unknown = frames.detach().isnan()
    smoothed = smooth(torch.where(unknown, 0, frames.detach()))
    if unknown.any():
        smoothed = torch.where(
            unknown, torch.nan, smoothed / smooth((~unknown).to(frames))
        )
    # Both have their NaN last.
    ranks = smoothed.flatten(1).argsort(dim=1, stable=True)
    values = frames.flatten(1).sort(dim=1).values
    return torch.empty_like(values).scatter(1, ranks, values).view_as(frames)
