"""How good forecasts are on rain that nobody trained on, and how long they take.

Persistence, extrapolation and the spectral prognosis of this package against pysteps'
semi-Lagrangian extrapolation and S-PROG (both along the motion of its Lucas-Kanade,
where pysteps and OpenCV are installed), on the same five past frames, starts spread
evenly over the wet part of each event, in the window of `--size` pixels with most rain.
With `--fit` and two events or more, also the network of chances of exceedance, fitted
for each event to all the others, and the same of the frames turned by 90 degrees and
mirrored, where a network that knew a wind by heart would be lost.

CSI at 0.5, 2 and 5 mm/h, and the fractions skill score in squares of about 8 and 32 km,
10 to 60 minutes ahead: of pixels that all of them forecast, and of all that were
observed, where what a forecast does not know counts as dry. Intervals of 90 % are by a
bootstrap over starts, the same for all methods; starts of one event resemble each
other, so that they are rather too narrow. What is said of all events together is by a
bootstrap over events and their starts. Times are medians over starts on one thread,
without fitting. The spectral prognosis was developed on three starts of the FMI event
of 2016 alone.
"""

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import add_arguments, write
from skill_intervals import compared, over_all
from torch import Tensor

from trajgru_ext.nowcasting import PROFILES, Archive, FramesError, Reading, carry_on
from trajgru_ext.nowcasting.archive import Series
from trajgru_ext.nowcasting.baselines import BASELINES, LEAST_RAIN
from trajgru_ext.nowcasting.exceedance import (
    MODEL,
    Exceedance,
    exceedance,
    pixel_metres,
)
from trajgru_ext.nowcasting.fit import CROP, fit, gathered, starts, wettest
from trajgru_ext.nowcasting.motion import estimate_motion
from trajgru_ext.nowcasting.radar import ZR, pixels_to_rain, rain_to_pixels
from trajgru_ext.nowcasting.verification import Verification

PAST = 5
MINUTES = (10, 20, 30, 40, 50, 60)
THRESHOLDS = (0.5, 2.0, 5.0)
KILOMETRES = (8, 32)
WHAT = {
    "minutes": list(MINUTES),
    "thresholds_mm_h": list(THRESHOLDS),
    "fss_km": list(KILOMETRES),
}
# Of MeteoSwiss, of which pysteps' importer wants to be told what is in the files.
MCH = Reading(
    importer="mch_gif",
    importer_options=(("product", "AQC"), ("unit", "mm"), ("accutime", 5.0)),
    time_pattern="AQC%y%j%H%M?_00005",
)
FITTED = 5  # forecasts of every event that the network is fitted to
ZERO_DB = -15.0  # of pysteps' transform: no rain, 5 dB below the least

Maker = Callable[[Tensor, ZR, int], tuple[Tensor, dict[str, float]]]


def ours(name: str) -> Maker:
    def make(past: Tensor, zr: ZR, leads: int) -> tuple[Tensor, dict[str, float]]:
        begin = time.perf_counter()
        made = BASELINES[name](past, leads, zr)
        return made, {"whole": time.perf_counter() - begin}

    return make


def pysteps_method(name: str) -> Maker:
    """pysteps' nowcast, after its motion, in dB of the rain rate as its examples do."""
    from pysteps import motion, nowcasts  # noqa: PLC0415
    from pysteps.utils.transformation import dB_transform  # noqa: PLC0415

    find, forecast = motion.get_method("LK"), nowcasts.get_method(name)
    least = 10 * float(np.log10(LEAST_RAIN))

    def make(past: Tensor, zr: ZR, leads: int) -> tuple[Tensor, dict[str, float]]:
        rain = pixels_to_rain(past, zr).double().numpy()
        db, _ = dB_transform(rain, threshold=LEAST_RAIN, zerovalue=ZERO_DB)
        begin = time.perf_counter()
        velocity = find(db)
        between = time.perf_counter()
        if name == "sprog":
            made = forecast(db[-3:], velocity, leads, precip_thr=least)
            made, _ = dB_transform(made, threshold=least, inverse=True)
        else:
            made = forecast(rain[-1], velocity, leads)
        end = time.perf_counter()
        pixels = rain_to_pixels(torch.from_numpy(made), zr).float()
        return pixels, {"motion": between - begin, "forecast": end - between}

    def quiet(past: Tensor, zr: ZR, leads: int) -> tuple[Tensor, dict[str, float]]:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(past, zr, leads)

    return quiet


def by_chances(net: Exceedance, minutes: float, metres: float, turned: bool) -> Maker:
    def make(past: Tensor, zr: ZR, leads: int) -> tuple[Tensor, dict[str, float]]:
        begin = time.perf_counter()
        # A turn by 90 degrees, then a mirror.
        past = past.rot90(1, (1, 2)).flip(1) if turned else past
        made, _ = exceedance(net, past, leads, zr, minutes, metres)
        made = made.flip(1).rot90(-1, (1, 2)) if turned else made
        return made, {"whole": time.perf_counter() - begin}

    return make


def makers() -> dict[str, Maker]:
    found = {name: ours(name) for name in BASELINES}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found["pysteps extrapolation"] = pysteps_method("extrapolation")
            found["pysteps S-PROG"] = pysteps_method("sprog")
    except ImportError:
        print("pysteps is not installed: ours alone")
    return found


def check() -> None:
    """The scores against their formulas, pixel by pixel and square by square."""
    generator = torch.Generator().manual_seed(0)
    forecast, observed = torch.rand(2, 1, 9, 11, generator=generator)
    forecast[0, 2, 3], observed[0, 4, 4] = torch.nan, torch.nan
    verification = Verification((1.0,), scales=(3,))
    verification.add("", forecast, observed)
    bound = rain_to_pixels(torch.tensor(1.0)).item()
    h = w = f = 0
    numerator = denominator = 0.0
    known = ~(forecast.isnan() | observed.isnan())[0]
    above = [(one[0] >= bound) & known for one in (forecast, observed)]
    for i in range(9):
        for j in range(11):
            a, b = bool(above[0][i, j]), bool(above[1][i, j])
            h, w, f = h + (a and b), w + (b and not a), f + (a and not b)
            if known[i, j]:
                square = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
                x, y = (one[square].sum().item() / 9 for one in above)
                numerator += (x - y) ** 2
                denominator += x * x + y * y
    found = verification.compute()
    for name, wanted in (
        ("csi", h / (h + w + f)),
        ("fss", 1 - numerator / denominator),
    ):
        if abs(found[name].item() - wanted) > 1e-6:
            raise AssertionError(f"{name} is {found[name].item()}, wanted {wanted}")


def recordings(paths: list[Path], mch: list[Path]) -> Iterator[tuple[str, Series]]:
    """The events of each path that are long enough, and their names."""
    for path in [*paths, *mch]:
        reading = MCH if path in mch else None
        if path.suffix == ".npz":
            reading = Reading(PROFILES["fmi"], start="2016-09-28T14:45", step=5)
        try:
            archive = Archive(path, reading, progress=False)
        except FramesError as error:
            print(f"{path.name} is left out: {error}")
            continue
        print(path.name, *archive.report, sep="\n  ", flush=True)
        for number, series in enumerate(archive.series, 1):
            if len(series.times) >= PAST + MINUTES[-1] / archive.minutes:
                yield f"{path.name} {number}", series


@dataclass
class Event:
    """The sums of all methods' scores, and their times."""

    zr: ZR
    scales: tuple[int, ...]
    sums: dict[str, dict[str, Verification]] = field(default_factory=dict)
    times: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, start: str, made: dict[str, Tensor], came: Tensor, inside: Tensor):
        every = inside.clone()
        for forecast in made.values():
            every &= ~forecast.isnan()
        for name, forecast in made.items():
            for kind, seen in (
                ("known to all", torch.where(every, forecast, torch.nan)),
                ("all pixels", forecast.nan_to_num(0.0)),
            ):
                of = self.sums.setdefault(kind, {})
                one = of.setdefault(
                    name, Verification(THRESHOLDS, self.zr, self.scales)
                )
                one.add(start, seen, came)


def forecast_event(
    series: Series, sides: dict[str, Maker], wanted: int, size: int
) -> Event:
    zr, minutes, metres = (
        series.archive.zr,
        series.archive.minutes,
        pixel_metres(series),
    )
    leads = round(MINUTES[-1] / minutes)
    kept = [round(m / minutes) - 1 for m in MINUTES]
    event = Event(zr, tuple(max(1, round(1000 * k / metres)) for k in KILOMETRES))
    bound = rain_to_pixels(torch.tensor(THRESHOLDS[0]), zr).item()
    for end in starts(series, bound, PAST, leads, wanted):
        frames = series[slice(end - PAST + 1, end + 1 + leads)]
        rows, columns = wettest(frames[:PAST], bound, size)
        frames = frames[:, rows, columns]
        past, came = frames[:PAST], frames[PAST:][kept]
        made = {}
        for name, make in sides.items():
            forecast, seconds = make(past, zr, leads)
            made[name] = forecast[kept]
            event.times.setdefault(name, []).append(seconds)
        begin = time.perf_counter()
        motion = estimate_motion(past[:, None, None])
        for name in ("spectral_prognosis", "extrapolation"):
            event.times[name][-1]["motion"] = time.perf_counter() - begin
        ones = torch.ones(1, 1, *past.shape[1:])
        inside = carry_on(ones, motion, leads)[1][kept, 0, 0]
        event.add(str(end), made, came, inside)
        print(".", end="", flush=True)
    print()
    return event


def print_scores(title: str, report: dict[str, dict], seconds: dict[str, dict]) -> None:
    print(
        f"\n{title}\nCSI, minutes ahead        " + "".join(f"{m:>7}" for m in MINUTES)
    )
    for k, threshold in enumerate(THRESHOLDS):
        for name, one in report.items():
            cells = "".join(f"{lead[k]:7.3f}" for lead in one["csi"])
            print(f"  {threshold:>3g} mm/h {name:<22}{cells}")
    for name, one in seconds.items():
        print(f"  {name:<22}" + ", ".join(f"{k} {v:.2f} s" for k, v in one.items()))


def fitted(events: dict[str, Series], options: argparse.Namespace) -> dict[str, Any]:
    """For each event the network that is fitted to all the others."""
    random = torch.Generator().manual_seed(0)
    samples = {
        name: gathered(series, FITTED, options.size or CROP, random)
        for name, series in events.items()
    }
    wet = {name: one for name, one in samples.items() if one is not None}
    return {
        name: fit([one for other, one in wet.items() if other != name])
        for name in events
    }


def main() -> None:
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "skill")
    parser.add_argument(
        "frames", type=Path, nargs="*", help="folders of services, or an .npz of FMI's"
    )
    parser.add_argument("--mch", type=Path, nargs="+", default=[], help="MeteoSwiss'")
    parser.add_argument("--starts", type=int, default=8, help="forecasts of an event")
    parser.add_argument("--size", type=int, default=2**20, help="pixels a side at most")
    parser.add_argument("--fit", action="store_true", help="the network, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check()
    records, events = [], dict(recordings(options.frames, options.mch))
    nets = fitted(events, options) if options.fit and len(events) > 1 else {}
    sums = {}
    for name, series in events.items():
        sides, scale = makers(), (series.archive.minutes, pixel_metres(series))
        if name in nets:
            sides[MODEL] = by_chances(nets[name], *scale, turned=False)
            sides[f"{MODEL}, turned"] = by_chances(nets[name], *scale, turned=True)
        event = forecast_event(series, sides, options.starts, options.size)
        if not event.times:
            print(f"{name} is dry")
            continue
        sums[name] = event
        seconds = {
            side: {
                key: round(statistics.median(one[key] for one in several), 3)
                for key in several[0]
            }
            for side, several in event.times.items()
        }
        for kind, verifications in event.sums.items():
            best = MODEL if MODEL in sides else "spectral_prognosis"
            report = compared(verifications, best)
            print_scores(f"{name}, {kind}", report, seconds)
            records.append(
                {
                    "event": name,
                    "pixels": kind,
                    "starts": len(event.times["persistence"]),
                    "size": [min(n, options.size) for n in series.shape[1:]],
                    **WHAT,
                    "seconds": seconds,
                    "skill": report,
                }
            )
        write(options.json, records)
    if nets and len(sums) > 1:
        for kind in ("known to all", "all pixels"):
            record = {"pixels": kind, "events": len(sums)} | WHAT
            record |= over_all([event.sums[kind] for event in sums.values()])
            records.append(record)
            print(kind, *records[-1].items(), sep="\n  ")
        write(options.json, records)


if __name__ == "__main__":
    main()
