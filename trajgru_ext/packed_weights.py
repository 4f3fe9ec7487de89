"""How much memory the CPU's transformed convolution weights may take."""

from trajgru_ext import _C
from trajgru_ext._switch import Switch


class packed_weights(Switch[int]):
    """Choose how many bytes of packed convolution weights are kept.

    Winograd's convolutions on the CPU (`conv2d`, and those of cells and sequences) read
    weights that are transformed and packed, two to four times as large as the weights.
    They are made once and kept while the weights they were made from live with the same
    contents. The contents are read at every use (their fingerprint of 128 bits), so
    that it doesn't matter who changes a weight, or how: optimisers, `weight.data`,
    `load_state_dict`, another process by shared memory. Equal weights share what is
    kept. A sequence in half precision packs float32 copies of its weights, which are
    kept as long as they are used often. The choice has no part in what `torch.compile`
    and `torch.export` make.

    Holds for the whole process from the call on; as a context manager until its end.

    Args:
        limit: the most bytes that are kept, 1 GiB by default; what was used longest ago
            goes first. With 0 each use packs anew.

    Raises:
        TypeError: limit is no integer.
        ValueError: limit is negative.

    Examples:
        >>> from trajgru_ext import packed_weights
        >>> with packed_weights(64 * 2**20):
        ...     pass  # at most 64 MiB are kept here

    """

    def __init__(self, limit: int) -> None:
        if isinstance(limit, bool) or not hasattr(limit, "__index__"):
            kind = type(limit).__name__
            raise TypeError(f"packed_weights: limit must be an integer, got {kind}")
        if limit < 0:
            raise ValueError(f"packed_weights: limit must be at least 0, got {limit}")
        chosen = limit.__index__()
        super().__init__(_C.packed_weights_limit, _C.set_packed_weights_limit, chosen)

    @staticmethod
    def kept() -> int:
        """Return the bytes that are kept now."""
        found: int = _C.packed_weights_bytes()
        return found
