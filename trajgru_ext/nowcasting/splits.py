"""Which frames are trained on, validated with and tested with."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting.archive import Archive, Series
from trajgru_ext.nowcasting.times import period

# Of all frames, the share at the end that is validated with when nobody chooses.
VALIDATED = 0.1
_EVENTS = re.compile(r"events?:(\d+)(?:-(\d+))?")


def chosen(archive: Archive, text: str) -> list[NDArray[np.bool_]]:
    """Which frames of each series a choice names.

    Args:
        archive: whose series are events 1, 2, 3, ... in the order of time.
        text: times and events with commas between them: `2016-09` is a month,
            `2016-09-28` a day, `2016-09-28T14:45/2016-09-28T16` a range, to the end of
            what its second half names; `event:3` and `event:3-5` are events.

    Raises:
        ValueError: a part is none of these, or chooses nothing.

    """
    series = archive.series
    masks = [np.zeros(len(one.times), bool) for one in series]
    for part in filter(None, (part.strip() for part in text.split(","))):
        events = _EVENTS.fullmatch(part)
        some = False
        if events:
            first, last = int(events[1]), int(events[2] or events[1])
            for number in range(max(first, 1), min(last, len(series)) + 1):
                masks[number - 1][:] = some = True
        else:
            begin, end = period(part)
            for k, one in enumerate(series):
                inside = (one.times >= begin) & (one.times < end)
                masks[k] |= inside
                some |= bool(inside.any())
        if not some:
            raise ValueError(f"{part!r} chooses none of the frames of {archive.root}")
    return masks


def split(
    archive: Archive,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    *,
    past: int,
    ahead: int,
) -> dict[str, list[Series]]:
    """Split an archive so that no frame is in two parts.

    A frame is in the first of test, validation and train that chooses it. Without
    `train`, all others are; without `validation`, the last tenth of what would be
    trained on is, or one window where that is more, if two windows leave another.

    Returns:
        "train", "validation" and "test": series of `past + ahead` frames or more.

    Raises:
        ValueError: as `chosen`.

    Examples:
        >>> import numpy as np
        >>> from trajgru_ext.nowcasting import Archive, Decoding, Reading, split
        >>> np.save("rain.npy", np.random.rand(48, 64, 64).astype("float32"))
        >>> reading = Reading(Decoding("rain"), start="2020-01-01", step=60)
        >>> archive = Archive("rain.npy", reading, progress=False)
        >>> parts = split(archive, test="2020-01-02", past=5, ahead=5)
        >>> {name: sum(len(series.times) for series in parts[name]) for name in parts}
        {'test': 24, 'validation': 10, 'train': 14}

    """
    length = past + ahead
    free = [np.ones(len(one.times), bool) for one in archive.series]
    parts = {}
    for name, text in (("test", test), ("validation", validation), ("train", train)):
        if text is None:
            none = name != "train"
            masks = [np.zeros_like(f) if none else f.copy() for f in free]
        else:
            masks = [m & f for m, f in zip(chosen(archive, text), free, strict=True)]
        free = [f & ~m for f, m in zip(free, masks, strict=True)]
        parts[name] = _pieces(archive.series, masks, length)
    if validation is None:
        parts["train"], parts["validation"] = _last(parts["train"], length)
    return parts


def _pieces(
    series: Sequence[Series], masks: Sequence[NDArray[np.bool_]], length: int
) -> list[Series]:
    """The unbroken stretches of what is chosen that are long enough."""
    pieces = []
    for one, mask in zip(series, masks, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(int)))
        for begin, end in edges.reshape(-1, 2).tolist():
            if end - begin >= length:
                pieces.append(_part(one, begin, end))
    return pieces


def _part(series: Series, begin: int, end: int) -> Series:
    times, places = series.times[begin:end], series.places[begin:end]
    return replace(series, times=times, places=places)


def _last(train: list[Series], length: int) -> tuple[list[Series], list[Series]]:
    """What is left to train on, and the last tenth to validate with."""
    wanted = max(length, round(VALIDATED * sum(len(one.times) for one in train)))
    kept, taken = list(train), []
    while kept and wanted > 0:
        last = kept.pop()
        count = len(last.times)
        if count <= wanted:
            if not kept:
                return train, []
            taken.append(last)
            wanted -= count
            continue
        cut = count - max(wanted, length)
        if cut < length:
            # Too short to be cut: one to validate with if others are left.
            (taken if kept else kept).append(last)
            break
        kept.append(_part(last, 0, cut))
        taken.append(_part(last, cut, count))
        break
    return kept, taken[::-1]
