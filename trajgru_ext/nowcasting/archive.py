"""Archives of frames: recordings at one step, read when they are needed."""

import hashlib
import warnings
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting._cache import CACHE_BYTES, Cache, Place
from trajgru_ext.nowcasting._doubts import Doubts
from trajgru_ext.nowcasting.frames import (
    Frames,
    FramesError,
    Reading,
    physical,
    to_pixels,
)
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.index import Entry, Index, Kind
from trajgru_ext.nowcasting.radar import HKO7, ZR
from trajgru_ext.nowcasting.readers import opened, with_start
from trajgru_ext.nowcasting.times import written

SAMPLED = 12  # frames whose values are looked at before anything is made of them


@dataclass(frozen=True)
class Series:
    """Frames of an archive that follow each other at one step: an event or part of it.

    A `Recording`: indexing reads frames as pixels.
    """

    archive: "Archive" = field(repr=False)
    kind: Kind
    times: NDArray[np.datetime64]
    # Which file, which sequence in it, and which of its frames each one is: [T, 3].
    places: NDArray[np.int64] = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(T, H, W)`."""
        return (len(self.times), *self.kind.shape[2:])

    def __getitem__(self, part: slice) -> Tensor:
        return self.archive.pixels(
            [tuple(place) for place in self.places[part].tolist()]
        )

    def between(self, begin: np.datetime64, end: np.datetime64) -> "Series":
        """The part of it from one time up to another."""
        inside = (self.times >= begin) & (self.times < end)
        return replace(self, times=self.times[inside], places=self.places[inside])


class Archive:
    """The frames of a file or a folder tree.

    Frames are sorted by time, each grid for itself, and cut into series wherever a
    frame is missing or the step changes; of frames of one time, the first is taken.
    `report` has a sentence for each kind of thing that was found.

    Args:
        root: file or folder.
        reading: how files are read.
        index: where the index is kept; None makes one in memory.
        step: minutes between frames; None for the most frequent difference.
        cache: bytes of decoded frames to hold.
        progress: whether to show how far the index is.

    Raises:
        FramesError: there are no frames, their times are unknown, or a file is damaged.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import Archive, Decoding, Reading
        >>> np.save("rain.npy", np.random.rand(6, 64, 64).astype("float32"))
        >>> reading = Reading(Decoding("rain"), start="2020-01-01", step=5)
        >>> archive = Archive("rain.npy", reading, progress=False)
        >>> [series.shape for series in archive.series]
        [(6, 64, 64)]

    """

    def __init__(
        self,
        root: str | Path,
        reading: Reading | None = None,
        *,
        index: Path | None = None,
        step: float | None = None,
        cache: int = CACHE_BYTES,
        progress: bool = True,
    ) -> None:
        self.root, self.reading = Path(root), reading or Reading()
        self.entries = Index(index, self.reading).update(self.root, progress=progress)
        self._file_zrs = {kind.zr for kind in self.entries.kinds.values()} - {None}
        self.cache = Cache(cache)
        self.report: list[str] = []
        self.step = np.timedelta64(0, "s")
        self.series = self._cut(self._groups(), step)

    @property
    def minutes(self) -> float:
        """From one frame to the next."""
        return float(self.step / np.timedelta64(1, "m"))

    @property
    def zr(self) -> ZR:
        """The Z-R relation that is known, else HKO-7's."""
        return self.known_zr or HKO7

    @property
    def known_zr(self) -> ZR | None:
        """The Z-R relation of the options, else of the files, if they say one."""
        mine = self.reading.decoding.zr
        if mine is None and len(self._file_zrs) > 1:
            raise FramesError(
                f"{self.root}: files of several Z-R relations: choose one by --zr"
            )
        return mine or next(iter(self._file_zrs), None)

    @property
    def quantity(self) -> str:
        """What the frames are of: by the files, else by the options."""
        known = self.reading.decoding.quantity or "unknown"
        found = {one.kind.quantity or known for one in self.series}
        # Rain and reflectivity are made pixels of one scale; brightness has its own.
        if "brightness" in found and len(found) > 1:
            got = " and ".join(sorted(found))
            raise FramesError(f"{self.root}: wanted brightness alone, got {got}")
        return self.series[0].kind.quantity or known

    @property
    def latest(self) -> Series:
        """The series that ends last; of several, the longest."""
        return max(self.series, key=lambda one: (one.times[-1], len(one.times)))

    def pixels(self, places: Sequence[tuple[int, int, int]]) -> Tensor:
        """Pixels `[T, H, W]` of frames by file, sequence and number, NaN if missing."""
        found = {place: self.cache.get(place) for place in places}
        wanted = [place for place, frame in found.items() if frame is None]
        for file, sequence, part in _stretches(wanted):
            frames = self.read(file, sequence, part)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # said once, of a sample
                decoding = replace(self.reading.decoding, zr=self.zr)
                where = str(self.entries[file].path)
                pixels = to_pixels(frames, decoding, where=where)
            for number, frame in enumerate(pixels, part.start):
                found[file, sequence, number] = frame
                self.cache.put((file, sequence, number), frame.clone())
        made = [found[place] for place in places]
        return torch.stack([frame for frame in made if frame is not None])

    def read(self, file: int, sequence: int, part: slice) -> Frames:
        """Frames as the file has them.

        Raises:
            FramesError: the file has changed since it was put into the index.

        """
        entry = self.entries[file]
        with opened(entry.path, self.reading) as contents:
            frames = contents.frames(sequence, part)
        if frames.values.shape[1:] != entry.kind.shape[2:]:
            raise FramesError(f"{entry.path}: has changed since it was indexed")
        return frames

    def check_values(self, series: Sequence[Series]) -> str:
        """Warn of numbers that cannot be rain, by a sample of the frames.

        Returns:
            a digest of the sample, by which data are known again.

        Warns:
            UserWarning: as `to_pixels`.

        Raises:
            FramesError: as `to_pixels`.

        """
        places = np.concatenate([one.places for one in series])
        doubts, digest = Doubts(), hashlib.sha256()
        for k in np.unique(np.linspace(0, len(places) - 1, SAMPLED).astype(int)):
            file, sequence, number = places[k].tolist()
            frames = self.read(file, sequence, slice(number, number + 1))
            where = str(self.entries[file].path)
            values, quantity = physical(frames, self.reading.decoding, where)
            doubts.add(values, quantity)
            digest.update(quantity.encode() + values.numpy().tobytes())
        doubts.warn(str(self.root))
        return digest.hexdigest()[:16]

    def _groups(self) -> list[tuple[Kind, NDArray[np.datetime64], NDArray[np.int64]]]:
        """Times and places of all frames of each grid and sequence, by time."""
        grouped: dict[Any, array[int]] = {}  # seconds, file, sequence, frame; again
        kinds: dict[Any, Kind] = {}
        before = 0
        for file, entry in enumerate(self.entries):
            sequences, count = entry.kind.shape[:2]
            times = self._times(entry, before)
            before += count
            for sequence in range(sequences):
                # Sequences of an array have nothing to do with each other.
                apart = (file, sequence) if sequences > 1 else None
                key = self._place_of(entry.kind, kinds), apart
                kinds.setdefault(key, entry.kind)
                rows = grouped.setdefault(key, array("q"))
                for number, seconds in enumerate(times.astype(np.int64).tolist()):
                    rows.extend((seconds, file, sequence, number))
        found = []
        for key, rows in grouped.items():
            table = np.array(rows, np.int64).reshape(-1, 4)
            found.append(
                (kinds[key], table[:, 0].astype("datetime64[s]"), table[:, 1:])
            )
        return found

    def _place_of(self, kind: Kind, kinds: dict[Any, Kind]) -> Any:
        """The key of a grid: that of one that is the same but for rounding."""
        for (place, _), other in kinds.items():
            if kind is other:
                return place
            sizes = (
                kind.shape[2:] == other.shape[2:] and kind.quantity == other.quantity
            )
            grids = kind.grid, other.grid
            if sizes and (
                grids[0] is grids[1]
                or (grids[0] and grids[1] and grids[0].same(grids[1]))
            ):
                return place
        return len(kinds)

    def _times(self, entry: Entry, before: int) -> NDArray[np.datetime64]:
        if entry.times is not None:
            return entry.times
        if self.reading.start is None or self.reading.step is None:
            raise FramesError(
                f"{entry.path}: no time in its name or contents: give --time-pattern, "
                "or --begin and --step"
            )
        sequences, count = entry.kind.shape[:2]
        return with_start(count, self.reading, 0 if sequences > 1 else before)

    def _cut(
        self,
        groups: Sequence[tuple[Kind, NDArray[np.datetime64], NDArray[np.int64]]],
        minutes: float | None,
    ) -> list[Series]:
        sorted_groups, doubles = [], 0
        for kind, *both in groups:
            order = np.argsort(both[0], kind="stable")
            times, places = (one[order] for one in both)
            new = np.concatenate([[True], np.diff(times) > np.timedelta64(0, "s")])
            doubles += int((~new).sum())
            sorted_groups.append((kind, times[new], places[new]))
        steps: Counter[int] = Counter()
        for _, times, _ in sorted_groups:
            steps.update(np.diff(times).astype(int).tolist())
        if minutes is None and not steps:
            raise FramesError(f"{self.root}: one frame says no step: give --step")
        seconds = round(60 * minutes) if minutes else steps.most_common(1)[0][0]
        self.step = np.timedelta64(seconds, "s")
        series = []
        for kind, times, places in sorted_groups:
            bounds = np.flatnonzero(np.diff(times) != self.step) + 1
            parts = zip(np.split(times, bounds), np.split(places, bounds), strict=True)
            series += [Series(self, kind, t, p) for t, p in parts]
        series.sort(key=lambda one: one.times[0])
        self._tell(series, steps, doubles, len(sorted_groups))
        return series

    def _tell(
        self, series: Sequence[Series], steps: Counter[int], doubles: int, groups: int
    ) -> None:
        """Say what was found, and what was made of it."""
        frames = sum(len(one.times) for one in series)
        first = min(one.times[0] for one in series)
        last = max(one.times[-1] for one in series)
        self.report.append(
            f"{frames} frames in {len(self.entries)} files, {written(first)} to "
            f"{written(last)}, every {self.minutes:g} minutes: {len(series)} events"
        )
        if doubles:
            self.report.append(f"{doubles} frames of times that others had: left out")
        kinds = {str(one.kind.grid or one.kind.shape[2:]) for one in series}
        if groups > 1 and len(kinds) > 1:
            self.report.append(
                f"{len(kinds)} grids, never in one window: {_some(kinds)}"
            )
        short = int(self.step.astype(int))
        gaps = sum(n for step, n in steps.items() if step > short)
        odd = {step / 60 for step in steps if step < short or step % short}
        if gaps:
            self.report.append(f"{gaps} gaps, around which windows are cut")
        if odd:
            minutes = _some(f"{step:g}" for step in sorted(odd))
            self.report.append(f"other steps, cut around: {minutes} minutes")

    def grid(self) -> Grid | None:
        """The grid of the first series."""
        return self.series[0].kind.grid


def _stretches(places: Sequence[Place]) -> Iterator[tuple[int, int, slice]]:
    """Frames that follow each other in a file, together."""
    begin = 0
    for k in range(1, len(places) + 1):
        file, sequence, number = places[k - 1]
        if k == len(places) or places[k] != (file, sequence, number + 1):
            yield file, sequence, slice(places[begin][2], number + 1)
            begin = k


def _some(names: Iterable[str], most: int = 4) -> str:
    """Some of the names, and how many more."""
    ordered = sorted(names)
    more = len(ordered) - most
    return "; ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")


def read_frames(path: str | Path, reading: Reading | None = None) -> Frames:
    """Read all frames of a file or a folder tree, in the order of time if they say it.

    Args:
        path: files of numpy, greyscale images, NetCDF, Zarr, GeoTIFF, HDF5 composites
            of ODIM and KNMI, GRIB of MRMS; or gzipped ones; or a folder of them.
        reading: how they are read.

    Raises:
        FramesError: the path does not lead to real frames of one size and quantity, or
            a library that reads them is not installed.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import read_frames
        >>> np.save("rain.npy", np.random.rand(6, 64, 64).astype("float32"))
        >>> read_frames("rain.npy").values.shape
        (6, 64, 64)

    """
    reading = reading or Reading()
    entries = Index(None, reading).update(Path(path), progress=False)
    parts = []
    for entry in entries:
        with opened(entry.path, reading) as contents:
            for sequence in range(contents.shape[0]):
                parts.append((str(entry.path), contents.frames(sequence)))
    first = parts[0][1]
    for name, part in parts:
        size, before = part.values.shape[1:], first.values.shape[1:]
        if size != before:
            raise FramesError(f"{name}: size {size}, but those before it {before}")
        if part.quantity != first.quantity:
            raise FramesError(
                f"{name}: {part.quantity}, but those before it {first.quantity}"
            )
    values = np.concatenate([part.values for _, part in parts])
    if any(part.times is None for _, part in parts):
        return replace(first, values=values, times=None)
    times = np.concatenate([part.times for _, part in parts])
    order = np.argsort(times, kind="stable")
    return replace(first, values=values[order], times=times[order])
