"""How far a result may be from the exact one, by dtype and number of summed terms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# A sum of some dozens of products, each of a few factors, is off by so many roundings.
TERMS = 64
# How often at most the formula is asked how far it moves.
SAMPLES = 256
# Beside such values the others would not be seen.
LARGE = 1e4


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


class Roundings(TorchDispatchMode):
    """Within it the result of every operation is off by some roundings at random.

    alike: one number for all elements of a result, for sums of what all jumps one way.
    """

    def __init__(self, eps: float, tiny: float, *, alike: bool = False) -> None:
        super().__init__()
        self.eps, self.tiny, self.alike = eps, tiny, alike

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(one.alias_info for one in func._schema.returns):
            return found  # a view, or written in place
        if func is torch.ops.aten.sigmoid.default:
            # Single precision's sigma(-100) need not be 0; sigma(17) may be 1, no more.
            return self._off(found, self.tiny).clamp(max=1)
        return tree_map(lambda one: self._off(one, 0.0), found)

    def _off(self, value: Any, least: float) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        size = self.eps * value.abs() + torch.where(value == 0, least, self.tiny)
        off = value + size * torch.randn(
            () if self.alike else value.shape, dtype=value.dtype
        )
        return torch.where(value.isfinite(), off, value)


def assert_as_exact(
    got: list[Tensor],
    exact: Callable[[], list[Tensor]],
    *,
    values: int,
    dtype: torch.dtype,
    rounded: bool,
    overflows: bool = False,
) -> None:
    """Compare results with those of an exact formula, arguments being of any values.

    A result is right where it is that of the formula with every operation off by a few
    roundings. Most are within `TERMS` roundings of the largest of their kind; where
    they are not, since terms cancel, gates saturate or a slope jumps, the formula is
    computed with such errors, to see how far it moves. Values are NaN or infinite where
    the formula's are, gradients finite wherever the formula's are.

    values: how many of the results, the first, are no gradients. dtype: of the
    arguments; rounded: whether what is between the operations of the formula is
    rounded to it. overflows: whether arguments are so large that products of them on
    the way to a gradient may overflow.
    """
    kept = torch.finfo(dtype if rounded else opmath(dtype))
    # float16 loses small numbers long before what it is computed in.
    eps, tiny = kept.eps, max(torch.finfo(opmath(dtype)).tiny, 8 * kept.eps * kept.tiny)
    wanted, spread, samples = exact(), None, 0
    for k, (one, want) in enumerate(zip(got, wanted, strict=True)):
        assert one.shape == want.shape, (k, one.shape, want.shape)
        if not want.numel():
            continue
        limit, value = torch.finfo(one.dtype), one.detach().double().cpu()
        size = want.abs()
        defined = size < limit.max / 2  # and not NaN
        largest = torch.where(defined, size, 0).max()
        magnitude = size if largest > LARGE else largest
        bound = TERMS * eps * magnitude + limit.eps * size + limit.tiny
        wrong = defined & ~((value - want).abs() <= bound)
        if k < values:
            beyond = size > 2 * limit.max
            wrong |= want.isnan() & ~value.isnan()
            wrong |= beyond & (value != want.sign() * torch.inf)
        elif overflows:
            wrong &= value.isfinite()
        while wrong.any():
            if spread is not None:
                # What the formula jumps to is rounded, too.
                most = bound + (1 + limit.eps) * spread[k]
                wrong &= ~((value - want).abs() <= most)
                wrong &= spread[k].isfinite()
            if not wrong.any():
                break
            assert samples < SAMPLES, (k, value[wrong], want[wrong], spread[k][wrong])
            more = _spread(exact, wanted, eps, tiny)
            pairs = zip(spread or more, more, strict=True)
            spread, samples = [torch.maximum(a, b) for a, b in pairs], samples + 8


def _spread(
    exact: Callable[[], list[Tensor]],
    wanted: list[Tensor],
    eps: float,
    tiny: float,
) -> list[Tensor]:
    """How far results move where all operations are off; infinite where they jump."""
    samples = []
    for k in range(8):
        with Roundings(8 * eps, tiny, alike=k % 2 == 1):
            samples.append(exact())
    return [
        torch.stack([_distance(s, want) for s in each]).amax(0)
        for want, *each in zip(wanted, *samples, strict=True)
    ]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    same = (one == other) | (one.isnan() & other.isnan())
    return torch.where(same, 0, (one - other).abs().nan_to_num(torch.inf, torch.inf))
