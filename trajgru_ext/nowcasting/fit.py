"""Fit the network of chances of exceedance to the frames of one or several archives.

Of forecasts that start throughout the wet part of every event, pixels are drawn with
what came there, as many of each event. Their rain is taken a random factor harder or
weaker; turns and mirrors need not be learned, as no feature has a direction.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from trajgru_ext.nowcasting import cli
from trajgru_ext.nowcasting.archive import Series
from trajgru_ext.nowcasting.exceedance import (
    FURTHEST,
    RATES,
    STILL,
    Exceedance,
    Scene,
    check_times,
    frames_read,
    pixel_metres,
    save,
)
from trajgru_ext.nowcasting.extrapolation import carried_along
from trajgru_ext.nowcasting.motion import displacements, estimate_motion
from trajgru_ext.nowcasting.radar import ZR, pixel_thresholds

WET = 0.005  # share of pixels with 0.5 mm/h from which on a start is rain
FACTORS = 2.0  # by which rain is made harder or weaker at most
DRAWN = 2000  # pixels of a lead time
RATE = 5e-3  # highest, of AdamW
DECAY = 0.1  # of weights
LEAST_SPREAD = 0.1  # of a feature: smaller ones are not enlarged more
STEPS, BATCH = 400, 2048
CROP = 384  # pixels


@dataclass(frozen=True)
class Samples:
    """Pixels to fit to: of an event, or of several."""

    still: Tensor  # [N, STILL]
    moving: Tensor  # [N, MOVING]
    came: Tensor  # share of the pixel at or above the rates [N, 3], NaN where unknown


def starts(
    series: Series, bound: float, past: int, ahead: int, wanted: int
) -> list[int]:
    """The last past frames of some forecasts, spread evenly over the wet ones."""
    wet = [
        end
        for end in range(past - 1, len(series.times) - ahead)
        if (series[slice(end, end + 1)] >= bound).float().mean() > WET
    ]
    places = np.linspace(0, len(wet) - 1, min(wanted, len(wet)))
    return [wet[round(place)] for place in places.tolist()]


def wettest(frames: Tensor, bound: float, size: int) -> tuple[slice, slice]:
    """The rows and columns of the window `size` a side with most rain."""
    above = (frames >= bound).double().mean(0)
    height, width = (min(size, extent) for extent in above.shape)
    sums = F.pad(above.cumsum(0).cumsum(1), (1, 0, 1, 0))
    sums = sums[height:] - sums[:-height]
    sums = sums[:, width:] - sums[:, :-width]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return slice(row, row + height), slice(column, column + width)


def weights(scene: Scene) -> Tensor:
    """How often pixels are drawn: mostly where strong rain is, or at least some.

    By what the network sees, not by what came: chances are the same for any weights.
    """
    rain, strong = scene.around(0, 32.0) > 0.01, scene.around(2, 4.0) > 0.02
    return 0.1 + 0.4 * rain + strong


def samples_of(
    frames: Tensor,
    past: int,
    zr: ZR,
    minutes: float,
    metres: float,
    random: torch.Generator,
) -> Samples:
    """Pixels of one forecast, of frames `[past + ahead, H, W]`."""
    factor = FACTORS ** (2 * torch.rand((), generator=random).item() - 1)
    # The same pixels, as rain that is harder by the factor.
    zr = ZR(zr.a * factor**-zr.b, zr.b)
    motion = estimate_motion(frames[:past, None, None])
    ahead = len(frames) - past
    scene = Scene.of(frames[:past], motion, ahead, zr, minutes, metres)
    bounds = pixel_thresholds(RATES, zr).to(frames)[:, None, None]
    still, moving, came = [], [], []
    for lead, back in zip(range(ahead), displacements(-motion), strict=False):
        then = frames[past + lead]
        # What came, at the place where its rain is at the time of the last frame.
        above = torch.where(then.isnan(), torch.nan, (then >= bounds).to(then))[:, None]
        along = back.expand(len(above), -1, -1, -1)
        found, inside = (one[:, 0] for one in carried_along(above, along))
        usable = scene.known & inside[0] & ~found[0].isnan()
        weight = usable * weights(scene)
        count = min(DRAWN, int(usable.sum()))
        if count == 0:
            continue
        drawn = torch.multinomial(weight.flatten(), count, generator=random)
        still.append(scene.still.flatten(1)[:, drawn].T)
        moving.append(scene.moving(lead).flatten(1)[:, drawn].T)
        came.append(found.flatten(1)[:, drawn].T)
    return Samples(torch.cat(still), torch.cat(moving), torch.cat(came))


def joined(parts: Sequence[Samples]) -> Samples:
    """All pixels of several."""
    names = "still", "moving", "came"
    return Samples(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


def fit(
    events: Sequence[Samples], steps: int = STEPS, batch: int = BATCH, seed: int = 0
) -> Exceedance:
    """A network of the least cross entropy, every event counting alike.

    Events have offsets of their own, even in the lead time, which are thrown away: how
    much it will rain is not for the network to tell.
    """
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    net = Exceedance()
    features = [torch.cat([one.still, one.moving], 1) for one in events]
    net.center.copy_(torch.stack([one.mean(0) for one in features]).mean(0))
    spreads = torch.stack([one.std(0) for one in features]).mean(0)
    net.spread.copy_(spreads.clamp(min=LEAST_SPREAD))
    offsets = torch.zeros(len(events), 1, 2, len(RATES), requires_grad=True)
    optimizer = torch.optim.AdamW(
        [
            {"params": net.parameters(), "lr": RATE, "weight_decay": DECAY},
            {"params": [offsets], "lr": 4 * RATE, "weight_decay": 0.0},
        ]
    )
    rates = [one["lr"] for one in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps)
    share = max(1, batch // len(events))
    for _ in tqdm(range(steps), desc="fitting", unit="step"):
        chosen = [torch.randint(len(x), (share,), generator=random) for x in features]
        x = torch.stack([one[k] for one, k in zip(features, chosen, strict=True)])
        y = torch.stack([one.came[k] for one, k in zip(events, chosen, strict=True)])
        first, slope = offsets.unbind(2)
        logits = net(x[..., :STILL], x[..., STILL:]) + first + slope * x[..., -1:]
        loss = F.binary_cross_entropy_with_logits(logits, y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return net.eval()


def gathered(
    series: Series, count: int, size: int, random: torch.Generator
) -> Samples | None:
    """Pixels of forecasts of an event, or None if it is too short or dry.

    Args:
        series: the event.
        count: forecasts at most.
        size: pixels a side of the window of most rain, which is looked at.
        random: draws the pixels.

    Raises:
        ValueError: the frames are at a step that the network does not know.

    """
    minutes, zr = series.archive.minutes, series.archive.zr
    past, ahead = frames_read(minutes), int(FURTHEST / minutes)
    check_times(past, ahead, minutes)
    bound = pixel_thresholds(RATES[:1], zr).item()
    metres = pixel_metres(series)
    parts = []
    for end in tqdm(starts(series, bound, past, ahead, count), desc="reading"):
        frames = series[slice(end - past + 1, end + 1 + ahead)]
        window = (slice(None), *wettest(frames[:past], bound, size))
        parts.append(samples_of(frames[window], past, zr, minutes, metres, random))
    return joined(parts) if parts else None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    cli.add_frames(parser, several=True)
    learn = parser.add_argument_group("fitting").add_argument
    learn("--starts", type=cli.positive, default=12, help="forecasts of an event")
    learn("--crop", type=cli.positive, default=CROP, help="pixels a side, of most rain")
    learn("--steps", type=cli.positive, default=STEPS)
    learn("--batch", type=cli.positive, default=BATCH, help="pixels a step")
    learn("--seed", type=cli.natural, default=0)
    learn("--output", type=Path, default=Path("out/exceedance.pt"), help="checkpoint")


def run(args: argparse.Namespace) -> None:
    """Fit as the options say."""
    if args.index and len(args.frames) > 1:
        raise ValueError(f"--index: wanted one of --frames, got {len(args.frames)}")
    random = torch.Generator().manual_seed(args.seed)
    events: list[Samples] = []
    for path in args.frames:
        archive = cli.archive_of(argparse.Namespace(**vars(args) | {"frames": path}))
        print(f"{path}:", *archive.report, sep="\n  ", flush=True)
        if archive.quantity == "brightness":
            raise ValueError(f"{path}: wanted rain, got brightness")
        archive.check_values(archive.series)
        for series in archive.series:
            found = gathered(series, args.starts, args.crop, random)
            events += [found] if found else []
    if not events:
        raise ValueError("--frames: wanted an hour and more of rain without a gap")
    net = fit(events, args.steps, args.batch, args.seed)
    names = "starts", "crop", "steps", "batch", "seed"
    save(net, {name: getattr(args, name) for name in names}, args.output)
    print(f"{args.output}: of {len(events)} events")
