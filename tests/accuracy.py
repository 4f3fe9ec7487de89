"""How far a result may be from the exact one, by dtype and number of summed terms."""

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def opmath(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums of this dtype are formed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def assert_accurate(
    actual: Tensor,
    exact: Tensor,
    *,
    terms: int,
    magnitude: float,
    dtype: torch.dtype | None = None,
) -> None:
    """Compare with an exact (float64) result.

    A sum of n products of relative error eps each is off by at most about
    (n + k) eps times the sum of their absolute values, k being the roundings that a
    term has seen (six, for a product of two weights); then it is rounded to the dtype.
    `magnitude` bounds that sum. dtype: what the sums were formed for, if not actual's.
    """
    assert actual.shape == exact.shape
    sums = torch.finfo(opmath(dtype or actual.dtype)).eps
    rounding = torch.finfo(actual.dtype)
    bound = ((terms + 6) * sums + rounding.eps) * magnitude + rounding.tiny
    torch.testing.assert_close(
        actual.detach().double().cpu(),
        exact.detach().cpu(),
        rtol=0,
        atol=bound,
        equal_nan=True,
    )
