"""What is in a file: how many frames, of what, when and where; and the frames."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting.frames import Frames
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.radar import ZR

WHOLE = slice(None)


@dataclass(frozen=True)
class Contents:
    """N sequences of T frames, apart from each other; see `Frames` for the rest."""

    shape: tuple[int, int, int, int]  # N, T, H, W
    quantity: str | None
    times: NDArray[np.datetime64] | None  # [T]
    grid: Grid | None
    zr: ZR | None
    # Reads frames of a sequence, `[T', H, W]`.
    load: Callable[[int, slice], NDArray[Any]]
    missing: tuple[float, ...] = ()

    def frames(self, sequence: int = 0, part: slice = WHOLE) -> Frames:
        """Read frames of a sequence."""
        times = None if self.times is None else self.times[part]
        values = self.load(sequence, part)
        return Frames(values, self.quantity, times, self.grid, self.zr, self.missing)


def in_memory(
    values: NDArray[Any], times: NDArray[np.datetime64] | None = None
) -> Contents:
    """Contents of an array `[N, T, H, W]` that says nothing of its numbers."""
    n, t, h, w = values.shape
    return Contents(
        (n, t, h, w), None, times, None, None, lambda i, part: values[i, part]
    )


def contents_of(frames: Frames) -> Contents:
    """Contents of one sequence."""
    values = frames.values
    t, h, w = values.shape
    return Contents(
        (1, t, h, w),
        frames.quantity,
        frames.times,
        frames.grid,
        frames.zr,
        lambda _, part: values[part],
    )
