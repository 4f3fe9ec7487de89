"""Spatial pyramid pooling as a module."""

from torch import Tensor, nn

from trajgru_ext.nn._recurrent import as_integer, check_given
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops.spatial_pyramid_pool import check_levels, spatial_pyramid_pool

# As published implementations name the modes.
_POOL_TYPES = {"max_pool": "max", "avg_pool": "mean"}


class SpatialPyramidPooling(nn.Module):
    """A vector of one length for maps of any size; see `spatial_pyramid_pool`.

    Args:
        num_levels: N; level n has n x n bins.
        pool_type: "max_pool" or "avg_pool".

    Source: He et al. 2014 (arXiv 1406.4729).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SpatialPyramidPooling
        >>> SpatialPyramidPooling(3)(torch.randn(2, 8, 13, 9)).shape
        torch.Size([2, 112])

    """

    def __init__(self, num_levels: int, pool_type: str = "max_pool") -> None:
        super().__init__()
        kind = type(self).__name__
        num_levels = as_integer(num_levels)
        check_levels(kind, num_levels)
        check_choice(kind, "pool_type", pool_type, tuple(_POOL_TYPES))
        self.num_levels = num_levels
        self.pool_type = pool_type

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"{self.num_levels}, pool_type={self.pool_type!r}"

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C * (1 + 4 + ... + num_levels**2)]`.

        Raises:
            TypeError, ValueError: as `spatial_pyramid_pool`.

        """
        check_given(type(self).__name__, input=input)
        mode = _POOL_TYPES[self.pool_type]
        return spatial_pyramid_pool(input, self.num_levels, mode)
