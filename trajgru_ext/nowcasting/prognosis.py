r"""Extrapolation in which every scale of rain decays as fast as it has lately done.

S-PROG, the spectral prognosis: the field x, dB of the rain rate, is split into bands of
scales, each of which follows an autoregressive process in the frame of reference that
moves with the rain. Low-pass filters `G_k`, Gaussians of the widths `WIDTHS`, make the
bands::

    x = m + sum_k X_k,   X_k = G_k x - G_(k+1) x,   G_0 x = x,   m = mean x
    X_k(t+1) = phi_k1 X_k(t) + phi_k2 X_k(t-1)

With the correlations r1, r2 of a band with itself one and two frames before, moved on
to where the rain is now, Yule and Walker's equations give::

    phi_k1 = r1 (1 - r2) / (1 - r1^2),   phi_k2 = (r2 - r1^2) / (1 - r1^2)

What the bands add up to is flat; so each pixel gets the value of its rank among those
of the last frame, which keeps the area of rain of any rate (probability matching), and
then is carried on along the motion.

Pixels of [0, 1] are dB of the rain rate but for a shift and a factor, which no step
notices. Filters are by FFT, and leave out what is unknown: `G x = G(w x) / G(w)` with w
1 where x is known and 0 elsewhere, also beyond the edges.

Sources: Seed 2003, "A dynamic and spatial scaling approach to advection forecasting";
Pulkkinen et al. 2019, "Pysteps: an open-source Python library for probabilistic
precipitation nowcasting".
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.nowcasting.extrapolation import (
    carried_along,
    first_known,
    moved_past,
    rank_matched,
)
from trajgru_ext.nowcasting.motion import (
    displacements,
    estimate_motion,
    outside_of_graphs,
    wide,
)

WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # pixels, of the filters between bands
FRAMES = 3  # that an autoregression of order 2 is estimated from
# A pixel without rain is this much below the least rain: the 5 dB of rain rate, 8 dBZ,
# that S-PROG's authors take.
GAP = 0.11
# Rain of 0.1 mm/h by the Z-R relation of Finland, below which fields are noise.
LEAST_RAIN = 0.26
REACH = 2.5  # widths of the widest filter, beyond which its weight is next to nothing
LARGEST = 0.999  # correlation; a process of 1 has no equation


@outside_of_graphs
def spectral_prognosis(
    past: Tensor, steps: int, least_rain: float = LEAST_RAIN
) -> Tensor:
    """The last frame carried on while its scales decay, small ones soonest.

    What is unknown in the last frame is taken from the frames before, as by
    `extrapolation`.

    Args:
        past: pixels `[T, B, 1, H, W]` in [0, 1], as of `estimate_motion`; of the last
            three frames come the correlations (of two, of order 1).
        steps: number of coming frames.
        least_rain: pixels below it are without rain.

    Returns:
        The forecast `[steps, B, 1, H, W]`, in the dtype of `past`; 0 where the content
        was outside, NaN where it is unknown.

    Raises:
        TypeError, ValueError: as `estimate_motion`; steps is not positive.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import spectral_prognosis
        >>> spectral_prognosis(torch.rand(3, 1, 1, 32, 32), steps=5).shape
        torch.Size([5, 1, 1, 32, 32])

    """
    (steps,) = check_positive("spectral_prognosis", steps=steps)
    motion = estimate_motion(past)
    with torch.no_grad(), torch.autocast(past.device.type, enabled=False):
        return prognosis(wide(past), motion, steps, least_rain).to(past.dtype)


def prognosis(past: Tensor, motion: Tensor, steps: int, least_rain: float) -> Tensor:
    """`spectral_prognosis` along a motion that is known, in float32 or float64."""
    fields = decayed(moved_past(past, motion), steps, least_rain)
    carried = zip(fields, displacements(motion), strict=False)
    return torch.stack([carried_along(field, one)[0] for field, one in carried])


def decayed(moved: Sequence[Tensor], steps: int, least_rain: float) -> Iterator[Tensor]:
    """The last frame as its scales decay, where it is before it is carried on.

    Args:
        moved: of `moved_past`, `[B, 1, H, W]` each.
        steps: number of coming frames.
        least_rain: as of `spectral_prognosis`.

    Yields:
        `[B, 1, H, W]`, for one lead time after the other.

    """
    last = first_known(moved)
    frames = torch.stack([last, *moved[1:FRAMES]])
    field = torch.where(frames < least_rain, least_rain - GAP, frames)
    known = ~field.isnan()
    split, mean = bands(field)
    first, second = autoregression(split, known)
    now, before = split[0], split[1]
    # What the band was where no frame tells: its mean, given what it is.
    expected = correlation(split[0], split[1], known[0] & known[1]) * now
    before = torch.where(known[1], before, expected)
    for _ in range(steps):
        now, before = first * now + second * before, now
        whole = torch.where(known[0], now.sum(1, keepdim=True) + mean[0], torch.nan)
        yield rank_matched(whole, last)


def bands(fields: Tensor) -> tuple[Tensor, Tensor]:
    """Split fields by scale.

    Args:
        fields: `[T, B, 1, H, W]`, NaN where unknown.

    Returns:
        The bands from small to large `[T, B, K, H, W]` and the means
        `[T, B, 1, 1, 1]`, which add up to the fields; the bands are 0 where those are
        unknown.

    """
    known = ~fields.isnan()
    weights = known.to(fields)
    total = weights.sum((3, 4), keepdim=True).clamp(min=1)
    held = torch.where(known, fields, 0)
    mean = held.sum((3, 4), keepdim=True) / total
    held = torch.where(known, held - mean, 0)
    widths = [one for one in WIDTHS if one <= max(fields.shape[3:]) / 4]
    smooth = [held, *(torch.where(known, x, 0) for x in means(held, weights, widths))]
    parts = [fine - coarse for fine, coarse in pairwise(smooth)]
    return torch.cat([*parts, smooth[-1]], 2), mean


def means(held: Tensor, weights: Tensor, widths: Sequence[float]) -> Iterator[Tensor]:
    """The Gaussian means of what is known, for one width in pixels after the other.

    Args:
        held: `[..., H, W]`, 0 where unknown.
        weights: 1 where known, 0 elsewhere; broadcastable with `held`.
        widths: standard deviations of the filters.

    """
    height, width = held.shape[-2:]
    reach = REACH * max(widths, default=0)
    size = [next_fast_len(int(n + reach), real=True) for n in (height, width)]
    down = torch.fft.fftfreq(size[0], device=held.device, dtype=held.dtype)
    right = torch.fft.rfftfreq(size[1], device=held.device, dtype=held.dtype)
    squares = down[:, None].square() + right.square()
    both = [torch.fft.rfft2(one, s=size) for one in (held, weights)]
    for one in widths:
        response = torch.exp(-2 * (torch.pi * one) ** 2 * squares)
        content, share = (
            torch.fft.irfft2(x * response, s=size)[..., :height, :width] for x in both
        )
        # Where a pixel is known, a share is far above the round-off of the FFT.
        yield content / share.clamp(min=0.02)


def correlation(a: Tensor, b: Tensor, known: Tensor) -> Tensor:
    """Of the bands of two fields, `[B, K, 1, 1]`; 1 where they do not vary."""
    products = [torch.where(known, x * y, 0) for x, y in ((a, b), (a, a), (b, b))]
    ab, aa, bb = (one.sum((2, 3), keepdim=True) for one in products)
    size = (aa * bb).sqrt()
    return torch.where(size > 0, ab / size.where(size > 0, 1), 1).clamp(0, LARGEST)


def autoregression(split: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """phi_k1 and phi_k2, `[B, K, 1, 1]`, of bands `[T, B, K, H, W]`, newest first."""
    r1 = correlation(split[0], split[1], known[0] & known[1])
    if len(split) < FRAMES:
        return r1, torch.zeros_like(r1)
    r2 = correlation(split[0], split[2], known[0] & known[2])
    rest = 1 - r1.square()
    # From that of a process with equal roots, below which a band would swing, to that
    # of one that forgets nothing after the first frame.
    root = rest.sqrt()
    least = (1 - root) * (1 + 2 * root) / (1 + root)
    r2 = torch.minimum(torch.maximum(r2, least), r1)
    return r1 * (1 - r2) / rest, (r2 - r1.square()) / rest
