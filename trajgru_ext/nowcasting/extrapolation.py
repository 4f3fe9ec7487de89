"""Forecasts without learning from other frames: persistence and extrapolation.

The last frame is carried on, through `trajgru_ext.flow_warp`, along the motion between
the past ones, of `trajgru_ext.nowcasting.motion`.

NaN pixels are unknown: the known ones around them are interpolated without them. All
is computed in float32 (float64 for float64), and runs under `torch.inference_mode` too.
As iterations and scipy's filter are no graph, `torch.compile` leaves these functions
out of what it compiles (with `fullgraph=True` that is an error), and `torch.export`
refuses them.
"""

from collections.abc import Sequence

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.nowcasting.motion import (
    displacements,
    estimate_motion,
    outside_of_graphs,
    wide,
)
from trajgru_ext.ops import flow_warp
from trajgru_ext.ops._arguments import check_tensors

# Small features of rain live shorter than large ones: the width in pixels by which the
# forecast of rain smooths the last frame best grows by this much each frame ahead.
RAIN_SMOOTHING = 0.5


def persistence(past: Tensor, steps: int) -> Tensor:
    """The last of the frames `[T, B, C, H, W]` again, `[steps, B, C, H, W]`.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import persistence
        >>> persistence(torch.rand(3, 2, 1, 16, 16), steps=5).shape
        torch.Size([5, 2, 1, 16, 16])

    """
    return past[-1:].expand(steps, *past.shape[1:])


@outside_of_graphs
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

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import extrapolation
        >>> extrapolation(torch.rand(3, 1, 1, 32, 32), steps=5).shape
        torch.Size([5, 1, 1, 32, 32])

    """
    motion = estimate_motion(past)
    last = past[-1]
    if last.isnan().any():
        last = first_known(moved_past(past, motion))
    return carry_on(last, motion, steps, smoothing)[0]


def moved_past(past: Tensor, motion: Tensor) -> list[Tensor]:
    """Where the content of each past frame is at the time of the last, newest first.

    NaN where that is unknown, or was outside.
    """
    moved = [past[-1]]
    earlier = past[:-1].flip(0)
    for frames, displacement in zip(earlier, displacements(motion), strict=False):
        carried, inside = carried_along(wide(frames), displacement)
        moved.append(torch.where(inside, carried, torch.nan).to(past.dtype))
    return moved


def first_known(frames: Sequence[Tensor]) -> Tensor:
    """Each pixel as the first of the frames that knows it has it."""
    found = frames[0]
    for other in frames[1:]:
        found = torch.where(found.isnan(), other, found)
    return found


@outside_of_graphs
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

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import carry_on
        >>> last = torch.tensor([[[[0.0, 1.0, 0.0, 0.0]]]])
        >>> right = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 1, 4)
        >>> ahead, known = carry_on(last, right, steps=2)
        >>> ahead.flatten(1)
        tensor([[0., 0., 1., 0.],
                [0., 0., 0., 1.]])

    """
    (steps,) = check_positive("carry_on", steps=steps)
    check_tensors("carry_on", last=last, motion=motion)
    forecast, known = [], []
    leads = range(1, steps + 1)
    for lead, displacement in zip(leads, displacements(wide(motion)), strict=False):
        source = wide(_smooth(last, smoothing * lead))
        made, inside = carried_along(source, displacement)
        forecast.append(made.to(last.dtype))
        known.append(inside)
    return torch.stack(forecast), torch.stack(known)


def carried_along(frames: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Frames `[B, 1, H, W]` moved once, and where that is known; as `carry_on`."""
    present = ~frames.isnan()
    parts = [torch.where(present, frames, 0), present, ~present]
    images = torch.cat([part.to(frames.dtype) for part in parts], 1)
    carried = flow_warp(images, displacement, flow_scale=-1)
    pixels, share, unknown = carried.chunk(3, 1)
    # The mean of what is known; what is outside, unlike the unknown, is 0.
    some = share > 0
    mean = torch.where(some, pixels / share.where(some, 1), torch.nan)
    return torch.where(unknown > 0, mean, pixels), share > 0.5


def _smooth(frames: Tensor, width: float) -> Tensor:
    """Smooth the features of each frame but keep its distribution of values.

    Each pixel gets the value of its rank, so that areas of strong rain keep their
    extent instead of being averaged away. What is unknown stays so.
    """
    if width == 0:
        return frames

    def smooth(image: Tensor) -> Tensor:
        filtered = gaussian_filter(wide(image).cpu().numpy(), (0, 0, width, width))
        return torch.from_numpy(filtered).to(frames.device)

    unknown = frames.detach().isnan()
    smoothed = smooth(torch.where(unknown, 0, frames.detach()))
    if unknown.any():
        smoothed = torch.where(
            unknown, torch.nan, smoothed / smooth((~unknown).to(frames))
        )
    return rank_matched(smoothed, frames)


def rank_matched(field: Tensor, values: Tensor) -> Tensor:
    """Each pixel of a field gets the value of its rank, of as many with as many NaN."""
    # Both have their NaN last.
    ranks = field.flatten(1).argsort(dim=1, stable=True)
    ordered = values.flatten(1).sort(dim=1).values
    return torch.empty_like(ordered).scatter(1, ranks, ordered).view_as(values)
