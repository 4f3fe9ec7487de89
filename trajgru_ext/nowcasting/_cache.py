"""Decoded frames that are held for a while."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

CACHE_BYTES = 256 * 2**20  # of decoded frames, in every process that reads
Place = tuple[int, int, int]  # file, sequence in it, frame in that


class Cache:
    """The decoded frames that were used last, up to some bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit, self.used = limit, 0
        self.frames: OrderedDict[Place, Tensor] = OrderedDict()

    def get(self, place: Place) -> Tensor | None:
        """The frame, if it is here."""
        if place in self.frames:
            self.frames.move_to_end(place)
        return self.frames.get(place)

    def put(self, place: Place, frame: Tensor) -> None:
        """Hold a frame, and drop those that were used longest ago."""
        self.frames[place] = frame
        self.used += frame.nbytes
        while self.used > self.limit and self.frames:
            self.used -= self.frames.popitem(last=False)[1].nbytes

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is started gets an empty one.
        return {"limit": self.limit, "used": 0, "frames": OrderedDict()}
