"""The motion between past frames, which carries each of them onto the later ones.

Found coarse to fine by the method of Gauss and Newton: with the frames as they lie
after the motion found so far, a better one follows from linear equations, whose
solution conjugate gradients approach. A penalty on the gradients of the motion fills it
in where nothing is to be seen.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from trajgru_ext.nowcasting._threads import one_thread
from trajgru_ext.ops import flow_warp
from trajgru_ext.ops._arguments import check_tensors

P = ParamSpec("P")
R = TypeVar("R")

# Coarse to fine: (pixels pooled into one, control points along the shorter side).
# On 480 km of radar the finest control points lie 30 km apart, the size of a rain band.
LEVELS = ((16, 2), (8, 4), (4, 8), (2, 16))
ITERATIONS = 6  # of the linear equations a level
SOLVING = 25  # steps of conjugate gradients
LARGEST_STEP = 1.0  # pooled pixels an iteration: linear equations hold for no more
# Weight of the squared gradient of the motion against the absolute error of pixels in
# [0, 1].
SMOOTHNESS = 0.3
SMALL_ERROR = 0.02  # errors below it count by their square, which has no kink
# Of frames up to so many pixels, the thousands of small operations take one thread no
# longer than two where others use the processor too.
BY_ONE_THREAD = 2**20
SMALLEST = 16  # pixels a side: two pixels where eight are pooled
TINY = 1e-30  # keeps 0 / 0 from being NaN where there is nothing left to solve
LEAST_SHARE = 1e-4  # of a pixel that is known; less is round-off of the shares' sum


def outside_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """A function that torch.compile calls as it is, and torch.export refuses."""
    name = function.__name__
    reason = f"{name} runs an iteration or scipy's filter, which are no graph"

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if torch.compiler.is_exporting():
            raise RuntimeError(f"{name}: cannot be exported, as {reason}")
        return function(*args, **options)

    disable: Any = torch.compiler.disable
    outside: Callable[P, R] = disable(call, reason=reason)
    return outside


@outside_of_graphs
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

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import estimate_motion
        >>> wave = torch.linspace(0, 9, 64)
        >>> image = (wave.sin() * wave[:, None].cos() + 1) / 2
        >>> past = torch.stack([image.roll(2 * t, 1) for t in range(3)])[:, None, None]
        >>> motion = estimate_motion(past)  # 2 pixels to the right
        >>> motion[0, :, 32, 32].round().int()
        tensor([2, 0], dtype=torch.int32)

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
    with (
        torch.no_grad(),
        torch.autocast(past.device.type, enabled=False),
        one_thread() if few else contextlib.nullcontext(),
    ):
        return _motion(wide(past))


def wide(pixels: Tensor) -> Tensor:
    """In float32, which displacements of some pixels need, or float64."""
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32))


def displacements(motion: Tensor) -> Iterator[Tensor]:
    """How far content that arrives at each pixel has come in 1, 2, 3, ... frames.

    Semi-Lagrangian: D_{k+1}(p) = D_k(p) + m(p - D_k(p)).
    """
    displacement = motion
    while True:
        yield displacement
        displacement = displacement + flow_warp(motion, displacement, flow_scale=-1)


def _motion(past: Tensor) -> Tensor:
    sequences, _, height, width = past.shape[1:]
    unknown = past.isnan()
    both = torch.cat([torch.where(unknown, 0, past), unknown.to(past)], 2)
    motion = past.new_zeros(sequences, 2, 1, 1)
    for pool, points in LEVELS:
        pooled = F.avg_pool2d(both.flatten(0, 1), pool, ceil_mode=True)
        grid = [round(points * n / min(height, width)) for n in (height, width)]
        spacing = min(height, width) / points / pool
        level = _Level.of(pooled.view(*both.shape[:3], *pooled.shape[2:]), grid)
        control = _resize(motion, grid) / pool
        motion = pool * level.refined(control, SMOOTHNESS / spacing**2)
    return _resize(motion, [height, width])


def _resize(field: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(field, size=tuple(size), mode="bicubic", align_corners=False)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Of each sequence, `[B, 1, 1, 1]`."""
    return (a * b).sum((1, 2, 3), keepdim=True)


@dataclass
class _Level:
    """Pooled frames, and the motion between them by its control points.

    Lengths are in pooled pixels.
    """

    both: Tensor  # known content, 0 elsewhere, and unknown shares, [T, B, 2, h, w]
    content: Tensor  # of what is known alone, [T, B, 1, h, w]
    slopes: Tensor  # of the content along x and y, [T, B, 2, h, w]
    rows: Tensor  # by which control points make the rows of a field, [h, n]
    columns: Tensor  # and its columns, [w, m]

    @classmethod
    def of(cls, both: Tensor, grid: Sequence[int]) -> "_Level":
        """Of the means of known content and of what is unknown."""
        content, known = _of_known(both)
        slopes = torch.cat([_slope(content, known > 0, dim) for dim in (4, 3)], 2)
        # Interpolating the unit vectors gives the matrix of the interpolation.
        matrices = []
        for points, extent in zip(grid, both.shape[3:], strict=True):
            unit = torch.eye(points, dtype=both.dtype, device=both.device)
            matrices.append(_resize(unit[None, None], [extent, points])[0, 0])
        return cls(both, content, slopes, *matrices)

    def spread(self, control: Tensor) -> Tensor:
        """The field of control points."""
        return self.rows @ control @ self.columns.T

    def gather(self, field: Tensor) -> Tensor:
        """The transpose of `spread`."""
        return self.rows.T @ field @ self.columns

    def refined(self, control: Tensor, smoothness: float) -> Tensor:
        """A motion of less error, `[B, 2, n, m]`; the best of all that were met."""
        best, least = control, control.new_full((len(control), 1, 1, 1), torch.inf)
        for step in range(ITERATIONS + 1):
            error, gradient, curvature = self.linear(self.spread(control))
            error = error + smoothness * _roughness(control)
            best = torch.where(error < least, control, best)
            least = torch.minimum(error, least)
            if step == ITERATIONS:
                break
            downhill = -self.gather(gradient) - smoothness * _bending(control)
            change = self.solved(curvature, smoothness, downhill)
            control = control + change.clamp(-LARGEST_STEP, LARGEST_STEP)
        return best

    def linear(self, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean absolute error, and how it changes with the motion at each pixel.

        The error e of a pair of frames, the earlier of which is carried k steps on,
        changes by -k g with the motion, g being the slopes of the later frame, and |e|
        is taken as e^2 / |e| with a fixed denominator.

        Returns:
            error `[B, 1, 1, 1]`, gradient `[B, 2, h, w]`, and the curvatures along xx,
            xy and yy, `[B, 3, h, w]`.

        """
        apart = range(1, len(self.both))
        error = self.both.new_zeros(len(motion))
        gradient, curvature = motion.new_zeros(()), motion.new_zeros(())
        for k, displacement in zip(apart, displacements(motion), strict=False):
            before = self.both[:-k]
            along = displacement.expand(len(before), *displacement.shape)
            carried = flow_warp(before.flatten(0, 1), along.flatten(0, 1), -1.0)
            # What comes from outside the frame is known to be nothing, which keeps
            # motion from pointing inwards at the edges.
            content, known = _of_known(carried.view(before.shape))
            share = known * (1 - self.both[k:, :, 1:])
            wrong = content - self.content[k:]
            total = share.sum((2, 3, 4), keepdim=True).clamp(min=LEAST_SHARE)
            weight = share / total / len(apart)
            error += (weight * wrong.abs()).sum((0, 2, 3, 4))
            weight = weight / wrong.abs().clamp(min=SMALL_ERROR)
            slopes = self.slopes[k:]
            gradient = gradient - k * (weight * wrong * slopes).sum(0)
            x, y = slopes.chunk(2, 2)
            products = torch.cat([x * x, x * y, y * y], 2)
            curvature = curvature + k * k * (weight * products).sum(0)
        return error.view(-1, 1, 1, 1), gradient, curvature

    def solved(self, curvature: Tensor, smoothness: float, wanted: Tensor) -> Tensor:
        """Solve the linear equations by conjugate gradients."""
        xx, xy, yy = curvature.chunk(3, 1)

        def product(control: Tensor) -> Tensor:
            u, v = self.spread(control).chunk(2, 1)
            data = self.gather(torch.cat([xx * u + xy * v, xy * u + yy * v], 1))
            return data + smoothness * _bending(control)

        found, rest = torch.zeros_like(wanted), wanted
        direction, size = rest, _dot(rest, rest)
        for _ in range(SOLVING):
            turned = product(direction)
            along = size / _dot(direction, turned).clamp(min=TINY)
            found, rest = found + along * direction, rest - along * turned
            before, size = size, _dot(rest, rest)
            direction = rest + size / before.clamp(min=TINY) * direction
        return found


def _of_known(both: Tensor) -> tuple[Tensor, Tensor]:
    """Content where what is unknown, 0 in it, has been averaged with others.

    And how much of each pixel is known, of tensors `[T, B, 2, h, w]`.
    """
    held, unknown = both.chunk(2, 2)
    known = 1 - unknown
    enough = known > LEAST_SHARE
    return held / known.where(enough, 1), known * enough


def _slope(content: Tensor, known: Tensor, dim: int) -> Tensor:
    """Half the difference of both neighbours, 0 at edges and beside the unknown."""
    slope = torch.zeros_like(content)
    inner = content.shape[dim] - 2
    if inner > 0:
        before, after = (content.narrow(dim, k, inner) for k in (0, 2))
        both = known.narrow(dim, 0, inner) & known.narrow(dim, 2, inner)
        slope.narrow(dim, 1, inner).copy_(torch.where(both, (after - before) / 2, 0))
    return slope


def _roughness(control: Tensor) -> Tensor:
    """The mean square of its differences along x and along y, `[B, 1, 1, 1]`."""
    squares = [control.diff(dim=dim).square() for dim in (2, 3)]
    return sum(
        (one.mean((1, 2, 3), keepdim=True) for one in squares if one.numel()),
        control.new_zeros(len(control), 1, 1, 1),
    )


def _bending(control: Tensor) -> Tensor:
    """The gradient of `_roughness`."""
    bending = torch.zeros_like(control)
    for dim in (2, 3):
        slope = control.diff(dim=dim)
        if slope.numel():
            slope = 2 / slope[0].numel() * slope
            length = control.shape[dim] - 1
            bending.narrow(dim, 1, length).add_(slope)
            bending.narrow(dim, 0, length).sub_(slope)
    return bending
