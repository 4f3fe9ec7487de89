"""Estimate motion by gradient descent through a warp, and forecast by following it.

The motion between past frames is the field that, through `trajgru_ext.flow_warp`,
carries each frame onto the later ones: found coarse to fine by Adam, with a penalty
on its gradients. The last frame is then carried on along it, and the forecast is
compared with persistence, the last frame repeated.

Run `python examples/extrapolate.py --help` for the options; without `--frames` it
follows moving handwritten digits.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from digits import moving_digits
from drawing import Picture, draw
from frames import (
    FramesError,
    brightness_pixels,
    rain_rate,
    read_frames,
    reflectivity_pixels,
)
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.metrics import jaccard_score
from torch import Tensor
from tqdm import tqdm

from trajgru_ext import flow_warp

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
# forecast smooths the last frame grows by this much each frame ahead.
SMOOTHING = 0.5
RAIN_THRESHOLDS = (0.5, 2.0, 5.0)  # mm/h, the lower three of HKO-7
SMALLEST = 16  # pixels a side: two pixels at the coarsest level


@dataclass(frozen=True)
class Score:
    """How forecast and persistence compare with what came."""

    lead_minutes: float
    threshold: float | None  # mm/h for CSI, None for the mean squared error
    forecast: float | None  # None where neither has rain to score
    persistence: float | None


def estimate_motion(past: Tensor, bar: tqdm | None = None) -> Tensor:
    """Find the motion that carries each past frame onto those that follow it.

    Minimises the mean absolute error over all pairs of frames, those several frames
    apart by way of the accumulated displacement, plus `SMOOTHNESS` times the mean
    squared gradient of the motion.

    Args:
        past: pixels `[T, 1, H, W]` in [0, 1], T >= 2.
        bar: progress bar to move on by one a step.

    Returns:
        motion `[1, 2, H, W]`, pixels a frame: where the content goes, along x and y.

    """
    height, width = past.shape[2:]
    motion = past.new_zeros(1, 2, 1, 1)
    for pool, points in LEVELS:
        frames = F.avg_pool2d(past, pool, ceil_mode=True)
        grid = [round(points * n / min(height, width)) for n in (height, width)]
        control = _resize(motion, grid).requires_grad_()
        spacing = min(height, width) / points
        adam = torch.optim.Adam([control], lr=STEP_SIZE * pool)
        for _ in range(STEPS):
            pooled = _resize(control, frames.shape[2:]) / pool
            roughness = sum(
                control.diff(dim=d).div(spacing).square().mean() for d in (2, 3)
            )
            loss = _mismatch(frames, pooled) + SMOOTHNESS * roughness
            adam.zero_grad()
            loss.backward()
            adam.step()
            if bar is not None:
                bar.update()
        motion = control.detach()
    return _resize(motion, past.shape[2:])


def _resize(field: Tensor, size: list[int] | torch.Size) -> Tensor:
    return F.interpolate(field, size=tuple(size), mode="bicubic", align_corners=False)


def _mismatch(frames: Tensor, motion: Tensor) -> Tensor:
    """Mean absolute error of each frame carried onto each later one."""
    # Content from outside the frame counts as an error too, which keeps motion from
    # pointing inwards at the edges: nothing is known there that could come in.
    losses = []
    steps = range(1, len(frames))
    for apart, displacement in zip(steps, displacements(motion), strict=False):
        along = displacement.expand(len(frames) - apart, -1, -1, -1)
        carried = flow_warp(frames[:-apart], along, flow_scale=-1)
        losses.append((carried - frames[apart:]).abs().mean())
    return torch.stack(losses).mean()


def displacements(motion: Tensor) -> Iterator[Tensor]:
    """How far content that arrives at each pixel has come in 1, 2, 3, ... frames.

    Semi-Lagrangian: D_{k+1}(p) = D_k(p) + m(p - D_k(p)).
    """
    displacement = motion
    while True:
        yield displacement
        displacement = displacement + flow_warp(motion, displacement, flow_scale=-1)


def extrapolate(
    last: Tensor, motion: Tensor, ahead: int, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Carry the last frame on along the motion, by one interpolation a lead time.

    Args:
        last: pixels `[1, 1, H, W]`.
        motion: pixels a frame `[1, 2, H, W]`.
        ahead: number of coming frames.
        smoothing: growth of the smoothing width a frame, in pixels.

    Returns:
        The forecast `[ahead, H, W]`, and True where its content was inside the last
        frame; what lay outside is unknown, and 0 in the forecast.

    """
    forecast, known = [], []
    steps = range(1, ahead + 1)
    for lead, displacement in zip(steps, displacements(motion), strict=False):
        source = _smooth(last, smoothing * lead)
        both = torch.cat((source, torch.ones_like(source)), 1)
        carried, inside = flow_warp(both, displacement, flow_scale=-1)[0]
        forecast.append(carried)
        known.append(inside > 0.5)
    return torch.stack(forecast), torch.stack(known)


def _smooth(frame: Tensor, width: float) -> Tensor:
    """Smooth the features of a frame but keep its distribution of values.

    Each pixel gets the value of its rank, so that areas of strong rain keep their
    extent instead of being averaged away.
    """
    if width == 0:
        return frame
    smoothed = gaussian_filter(frame.cpu().numpy(), (0, 0, width, width))
    ranks = torch.from_numpy(smoothed).flatten().argsort(stable=True).to(frame.device)
    matched = torch.empty_like(frame).flatten()
    matched[ranks] = frame.flatten().sort().values
    return matched.view_as(frame)


def critical_success_index(
    forecast: NDArray, observed: NDArray, threshold: float
) -> float | None:
    """CSI = hits / (hits + misses + false alarms) of rain at or above a threshold."""
    predicted, came = forecast >= threshold, observed >= threshold
    if not (predicted.any() or came.any()):
        return None
    return float(jaccard_score(came.ravel(), predicted.ravel()))


def score(
    forecast: NDArray, last: NDArray, observed: NDArray, minutes: float, rain: bool
) -> list[Score]:
    """Score pixels `[ahead, H, W]` by lead time: CSI of rain, else squared error."""
    scores = []
    for lead, frames in enumerate(zip(forecast, observed, strict=True), start=1):
        predicted, came = frames
        if not rain:
            errors = [float(np.mean((f - came) ** 2)) for f in (predicted, last)]
            scores.append(Score(lead * minutes, None, *errors))
            continue
        rates = [rain_rate(pixels) for pixels in (predicted, last, came)]
        for threshold in RAIN_THRESHOLDS:
            csi = [critical_success_index(r, rates[2], threshold) for r in rates[:2]]
            scores.append(Score(lead * minutes, threshold, *csi))
    return scores


def table(scores: list[Score]) -> str:
    """The scores as text, a line a lead time and threshold."""
    lines = [f"{'lead [min]':>10}  {'score':<14} {'forecast':>9} {'persistence':>12}"]
    for s in scores:
        name = "MSE" if s.threshold is None else f"CSI {s.threshold:g} mm/h"
        values = ["-" if v is None else f"{v:.4f}" for v in (s.forecast, s.persistence)]
        lines.append(
            f"{s.lead_minutes:>10g}  {name:<14} {values[0]:>9} {values[1]:>12}"
        )
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"wanted a finite number, got {text}")
    return value


def _parser() -> _Parser:
    parser = _Parser(prog="extrapolate", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--frames", type=Path, help=".npz, .npy or a folder of PNG or PGM images")
    add("--past", type=int, default=4, help="frames the motion is estimated from")
    add("--ahead", type=int, default=12, help="frames to forecast")
    add("--minutes-per-frame", type=_number, default=5.0)
    add(
        "--now",
        type=int,
        help="index of the last observed frame (default: the latest "
        "that leaves --ahead frames to verify against)",
    )
    add(
        "--quantity",
        choices=("reflectivity", "brightness"),
        help="what values mean (default: reflectivity, for digits brightness)",
    )
    add("--gain", type=_number, default=0.5, help="dBZ = gain * value + offset")
    add("--offset", type=_number, default=-32.0, help="in dBZ")
    add("--seed", type=int, default=0, help="of the digits")
    add("--output", type=Path, default=Path("out/extrapolate.png"), help="the picture")
    add("--scores", type=Path, help="write the scores to this JSON file")
    add("--credit", default="", help="whose data the picture shows")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Say no to options that cannot work, before any work is done."""
    wanted = (
        (args.past >= 2, f"--past: wanted at least 2 frames, got {args.past}"),
        (args.ahead >= 1, f"--ahead: wanted at least 1 frame, got {args.ahead}"),
        (args.minutes_per_frame > 0, "--minutes-per-frame: wanted more than 0"),
        (args.seed >= 0, f"--seed: wanted 0 or more, got {args.seed}"),
        (args.output.suffix.lower() == ".png", f"--output: {args.output} is not .png"),
        (
            args.scores is None or args.scores.suffix.lower() == ".json",
            f"--scores: {args.scores} is not .json",
        ),
        (
            args.device == "cpu" or torch.cuda.is_available(),
            "--device: no CUDA device is available",
        ),
    )
    for holds, message in wanted:
        if not holds:
            raise FramesError(message)


def _window(args: argparse.Namespace) -> tuple[NDArray, int]:
    """The frames that the run needs, past and coming, and where they begin."""
    past, ahead, now = args.past, args.ahead, args.now
    if args.frames is None:
        name = "moving digits"
        frames = moving_digits(max(past, (now or 0) + 1) + ahead, args.seed)
    else:
        name = str(args.frames)
        frames = read_frames(args.frames)
    count, smallest = len(frames), min(frames.shape[1:])
    if count < past + ahead:
        raise FramesError(
            f"{name}: wanted at least {past} past and {ahead} coming frames, "
            f"got {count} in all"
        )
    if smallest < SMALLEST:
        raise FramesError(
            f"{name}: frames are {smallest} pixels wide or high, "
            f"wanted at least {SMALLEST}"
        )
    now = count - 1 - ahead if now is None else now
    if not past - 1 <= now < count - ahead:
        raise FramesError(
            f"{name}: --now: wanted {past - 1} to {count - 1 - ahead}, so that {past} "
            f"past and {ahead} coming frames exist, got {now}"
        )
    return frames[now + 1 - past : now + 1 + ahead], now


def run(args: argparse.Namespace) -> None:
    """Forecast, score and draw as the options say."""
    _check(args)
    values, now = _window(args)
    by_default = "brightness" if args.frames is None else "reflectivity"
    rain = (args.quantity or by_default) == "reflectivity"
    if rain:
        pixels = reflectivity_pixels(values, args.gain, args.offset)
    else:
        pixels = brightness_pixels(values, values[: args.past])
    for path in (args.output, args.scores):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    past = torch.from_numpy(pixels[: args.past, None]).to(args.device)
    with tqdm(total=STEPS * len(LEVELS), desc="motion", unit="step") as bar:
        motion = estimate_motion(past, bar)
    smoothing = SMOOTHING if rain else 0.0
    forecast, known = extrapolate(past[-1:], motion, args.ahead, smoothing)

    last, observed = pixels[args.past - 1], pixels[args.past :]
    predicted = forecast.cpu().numpy()
    scores = score(predicted, last, observed, args.minutes_per_frame, rain)
    print(table(scores))
    if args.scores is not None:
        records = [vars(s) for s in scores]
        args.scores.write_text(json.dumps(records, indent=1) + "\n")
    shown = rain_rate if rain else np.asarray
    picture = Picture(
        last=shown(last),
        observed=shown(observed),
        forecast=np.where(known.cpu().numpy(), shown(predicted), np.nan),
        motion=motion[0].cpu().numpy(),
        scores=scores,
        minutes=args.minutes_per_frame,
        rain=rain,
        title=f"{args.frames.name if args.frames else 'Moving digits'}, frame {now}",
        credit=args.credit,
    )
    draw(picture, args.output)
    print(f"picture: {args.output}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; errors of input are one line and exit status 2."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        run(args)
    except (FramesError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
