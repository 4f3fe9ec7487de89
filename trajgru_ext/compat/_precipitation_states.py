"""What the port's layers take where inputs or states are not given."""

from torch import Tensor

from trajgru_ext.nn._recurrent import as_integer, check_given
from trajgru_ext.ops._overrides import leaf

BatchHeightWidth = tuple[int, int, int]


@leaf
def number_of_frames(
    kind: str, default: int, inputs: Tensor | None, seq_len: int | None
) -> int:
    """S: of the inputs, with which the number must agree; else as given, or default."""
    seq_len = as_integer(seq_len)
    if inputs is None:
        return default if seq_len is None else seq_len
    check_given(kind, inputs=inputs)
    if seq_len is not None and seq_len != inputs.shape[0]:
        raise ValueError(
            f"{kind}: seq_len must be the number of frames, {inputs.shape[0]}, or be "
            f"left out, got {seq_len}"
        )
    return inputs.shape[0]


def zero_state(
    kind: str, b_h_w: BatchHeightWidth | None, channels: int, like: Tensor
) -> Tensor:
    """A state of 0 in the size that the layer was made with."""
    if b_h_w is None:
        raise ValueError(
            f"{kind}: inputs or states must be given, or b_h_w, got None for all"
        )
    batch, height, width = b_h_w
    return like.new_zeros(batch, channels, height, width)
