"""Windows of recordings, in time and space, to train on and to test with."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Recording(Protocol):
    """Frames at one step, read when they are looked at; a Tensor `[T, H, W]` is one."""

    @property
    def shape(self) -> Sequence[int]:
        """`(T, H, W)`."""

    def __getitem__(self, part: slice) -> Tensor:
        """Some frames, float pixels `[T', H, W]`, NaN where missing."""


def fill_missing(past: Tensor) -> Tensor:
    """Fill missing pixels with what each showed last, without rain where never known.

    Args:
        past: pixels `[T, ...]`, NaN where missing.

    Returns:
        The frames without NaN: where frame t misses a pixel it has that of frame t - 1,
        filled in turn; the first frame has 0.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import fill_missing
        >>> fill_missing(torch.tensor([[torch.nan, 0.5], [0.25, torch.nan]]))
        tensor([[0.0000, 0.5000],
                [0.2500, 0.5000]])

    """
    if not past.isnan().any():
        return past
    filled = [past[0].nan_to_num(0.0)]
    for frame in past[1:]:
        filled.append(torch.where(frame.isnan(), filled[-1], frame))
    return torch.stack(filled)


class Windows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """All windows of some recordings: past frames, coming frames, and a mask.

    Args:
        recordings: pixels, NaN where missing: a tensor `[S, T, H, W]`, or a sequence of
            recordings, whose lengths and sizes may differ. Those that are shorter than
            a window have none.
        past: number of frames that a forecast reads.
        ahead: number of frames that follow them.
        size: pixels a side; None for whole frames.
        step: pixels from one window to the next; the last one ends with the frame.
        divisor: of heights and widths: frames are padded at the bottom and the right
            with pixels that are missing.

    An item is `past` `[past, 1, size, size]`, missing pixels filled by `fill_missing`,
    `coming` `[ahead, 1, size, size]`, 0 where missing, and a bool mask of `coming`,
    False where missing.

    Raises:
        ValueError: the frames are too few or too small for a window.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nowcasting import Windows
        >>> windows = Windows(torch.rand(3, 12, 64, 64), past=5, ahead=5, size=32)
        >>> past, coming, known = windows[0]
        >>> len(windows), past.shape, coming.shape
        (36, torch.Size([5, 1, 32, 32]), torch.Size([5, 1, 32, 32]))

    """

    def __init__(
        self,
        recordings: Sequence[Recording] | Tensor,
        past: int,
        ahead: int,
        size: int | None = None,
        step: int = 32,
        divisor: int = 1,
    ) -> None:
        if isinstance(recordings, Tensor) and recordings.dim() != 4:
            got = list(recordings.shape)
            raise ValueError(f"Windows: frames must be [S, T, H, W], got {got}")
        self.recordings = recordings
        self.past, self.length = past, past + ahead
        shapes = [tuple(one.shape) for one in recordings]
        longest = max((shape[0] for shape in shapes), default=0)
        if min(past, ahead) < 1 or self.length > longest:
            raise ValueError(
                f"Windows: frames must be at least past + ahead, each of 1 or more, "
                f"got {longest} for {past} + {ahead}"
            )
        if step < 1:
            raise ValueError(f"Windows: step must be positive, got {step}")
        self.size, self.divisor = size, divisor
        self.grids: list[
            tuple[int, list[int], list[int]]
        ] = []  # of each recording: beginnings, rows and columns of windows
        for count, *extent in shapes:
            height, width = (n + -n % divisor for n in extent)
            if size is not None and not 1 <= size <= min(height, width):
                raise ValueError(
                    f"Windows: size must be 1 to that of the frames, {height}x{width}, "
                    f"got {size}"
                )
            self.grids.append(
                (
                    max(0, count - self.length + 1),
                    _starts(height, size, step),
                    _starts(width, size, step),
                )
            )
        counts = [n * len(rows) * len(columns) for n, rows, columns in self.grids]
        self.ends: list[int] = list(accumulate(counts))

    def __len__(self) -> int:
        return self.ends[-1]

    def place(self, index: int) -> tuple[int, int, int, int]:
        """Which window an item is: recording, first frame, row and column."""
        if not 0 <= index < len(self):
            raise IndexError(f"Windows: no item {index} of {len(self)}")
        recording = bisect_right(self.ends, index)
        _, rows, columns = self.grids[recording]
        index -= self.ends[recording - 1] if recording else 0
        index, column = divmod(index, len(columns))
        begin, row = divmod(index, len(rows))
        return recording, begin, rows[row], columns[column]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        recording, t, i, j = self.place(index)
        frames = pad(self.recordings[recording][t : t + self.length], self.divisor)
        height, width = frames.shape[1:]
        if self.size is not None:
            height = width = self.size
        window = frames[:, None, i : i + height, j : j + width]
        present = ~window.isnan()
        past = fill_missing(window[: self.past])
        coming = torch.where(present, window, 0)[self.past :]
        return past, coming, present[self.past :]


def pad(frames: Tensor, divisor: int) -> Tensor:
    """Frames `[..., H, W]` with missing rows below and columns to the right."""
    height, width = frames.shape[-2:]
    more = (0, -width % divisor, 0, -height % divisor)
    return (
        torch.nn.functional.pad(frames, more, value=torch.nan) if any(more) else frames
    )


def _starts(extent: int, size: int | None, step: int) -> list[int]:
    if size is None:
        return [0]
    return [*range(0, extent - size, step), extent - size]
