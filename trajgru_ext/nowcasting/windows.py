"""Windows of recordings, in time and space, to train on and to test with."""

from itertools import product

import torch
from torch import Tensor
from torch.utils.data import Dataset


def split_in_time(frames: Tensor, held_out: int, past: int) -> tuple[Tensor, Tensor]:
    """Split recordings so that training sees nothing of what is tested with.

    The test frames are the last `held_out`, which are forecast, and the `past` before
    them, which the first of these forecasts reads. The training frames are all before:
    a window of one has no frame in common with a window of the other.

    Args:
        frames: `[S, T, H, W]`.
        held_out: number of frames to forecast in the test, 1 or more.
        past: number of frames that a forecast reads, 1 or more.

    Returns:
        frames for training and for the test.

    Raises:
        ValueError: the numbers are not positive, or nothing is left for training.

    """
    if held_out < 1 or past < 1 or held_out + past >= frames.shape[1]:
        raise ValueError(
            f"split_in_time: held_out and past must be positive and together less than "
            f"the {frames.shape[1]} frames, got {held_out} and {past}"
        )
    return frames[:, : -held_out - past], frames[:, -held_out - past :]


class Windows(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """All windows of some recordings: past frames, coming frames, and a mask.

    Args:
        frames: pixels `[S, T, H, W]` of S recordings, NaN where missing.
        past: number of frames that a forecast reads.
        ahead: number of frames that follow them.
        size: pixels a side; None for whole frames.
        step: pixels from one window to the next; the last one ends with the frame.

    An item is `past` `[past, 1, size, size]`, `coming` `[ahead, 1, size, size]`, both 0
    where missing, and a bool mask of `coming`, False where missing.

    Raises:
        ValueError: the frames are too few or too small for a window.

    """

    def __init__(
        self,
        frames: Tensor,
        past: int,
        ahead: int,
        size: int | None = None,
        step: int = 32,
    ) -> None:
        if frames.dim() != 4:
            got = list(frames.shape)
            raise ValueError(f"Windows: frames must be [S, T, H, W], got {got}")
        recordings, count, height, width = frames.shape
        if min(past, ahead) < 1 or past + ahead > count:
            raise ValueError(
                f"Windows: frames must be at least past + ahead, each of 1 or more, "
                f"got {count} for {past} + {ahead}"
            )
        self.frames, self.past, self.length = frames, past, past + ahead
        self.size = (height, width) if size is None else (size, size)
        if min(self.size) < 1 or self.size[0] > height or self.size[1] > width:
            raise ValueError(
                f"Windows: size must be 1 to that of the frames, {height}x{width}, "
                f"got {size}"
            )
        if step < 1:
            raise ValueError(f"Windows: step must be positive, got {step}")
        self.corners = list(
            product(
                range(recordings),
                range(count - self.length + 1),
                _starts(height, self.size[0], step),
                _starts(width, self.size[1], step),
            )
        )

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        recording, t, i, j = self.corners[index]
        height, width = self.size
        window = self.frames[
            recording, t : t + self.length, None, i : i + height, j : j + width
        ]
        present = ~window.isnan()
        window = torch.where(present, window, 0)
        return window[: self.past], window[self.past :], present[self.past :]


def _starts(extent: int, size: int, step: int) -> list[int]:
    return [*range(0, extent - size, step), extent - size]
