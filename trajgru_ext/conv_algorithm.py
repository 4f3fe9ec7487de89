"""Which way the sequence operators compute their convolutions on the CPU."""

from trajgru_ext import _C
from trajgru_ext._switch import Switch


class conv_algorithm(Switch[str]):
    """Choose how sequences compute their convolutions on the CPU.

    ``"direct"``: by torch. ``"winograd"``: by a quarter to a sixth of the products
    (Lavin and Gray 2016, arXiv 1509.09308), wherever that is possible: in float32, and
    in bfloat16 and float16 where these are computed in float32, for 3x3 and 5x5 kernels
    without dilation. ``"auto"``, the default: where it is possible
    and faster, which depends on the channels, the height and the width alone.

    Holds for the whole process from the call on; as a context manager until its end. A
    backward pass uses what holds when it runs. The choice has no part in what
    ``torch.compile`` and ``torch.export`` make: they too use what holds when they run.

    Rounding: of centred random data the error of a result is at most 1e-6 (3x3) or
    4e-6 (5x5) times the largest sum of absolute products that a result nearby is made
    of, and a direct sum's a few 1e-7. A NaN or Inf reaches all 4x4 results of its tile.

    Args:
        name: ``"auto"``, ``"direct"`` or ``"winograd"``.

    Raises:
        ValueError: for another name.

    Examples:
        >>> import torch
        >>> from trajgru_ext import conv_algorithm
        >>> from trajgru_ext.nn import ConvLSTM
        >>> with conv_algorithm("direct"):
        ...     outputs, states = ConvLSTM(1, 8)(torch.randn(3, 1, 1, 16, 16))

    """

    def __init__(self, name: str) -> None:
        super().__init__(_C.conv_algorithm, _C.set_conv_algorithm, name)
