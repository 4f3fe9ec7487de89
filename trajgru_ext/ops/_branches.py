"""What the operators on branches share: their checks."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from trajgru_ext.ops._arguments import check_sizes, check_tensor

MOST_BRANCHES = 16


def check_list(op: str, branches: Any, least: int) -> tuple[Tensor, ...]:
    """The branches as a tuple, after a check of their number and kind."""
    # A tuple or list is found out several times as fast as a Sequence.
    if not isinstance(branches, (tuple, list, Sequence)):
        kind = type(branches).__name__
        raise TypeError(f"{op}: branches must be a sequence of Tensors, got {kind}")
    if not least <= len(branches) <= MOST_BRANCHES:
        raise ValueError(
            f"{op}: there must be {least} to {MOST_BRANCHES} branches, "
            f"got {len(branches)}"
        )
    for m, branch in enumerate(branches):
        check_tensor(op, "branches", branch, m)
    return tuple(branches)


def check_branches(op: str, branches: Sequence[Tensor]) -> None:
    """Check that all are images of one size, dtype and device."""
    first = branches[0]
    for m, branch in enumerate(branches):
        name = f"branches[{m}]"
        check_sizes(op, name, branch, [-1] * 4, first)
        if branch.shape != first.shape:
            raise ValueError(
                f"{op}: {name} must have the sizes of branches[0], "
                f"{list(first.shape)}, got {list(branch.shape)}"
            )
        if branch.dtype != first.dtype:
            raise TypeError(
                f"{op}: {name} must have the dtype of branches[0], {first.dtype}, "
                f"got {branch.dtype}"
            )


def check_logits(
    op: str, logits: Tensor, letters: str, wanted: list[int], image: Tensor
) -> None:
    """Check the logits' sizes; letters: what those are called."""
    check_sizes(op, "logits", logits, [-1] * logits.dim(), image)
    if list(logits.shape) != wanted:
        raise ValueError(
            f"{op}: logits must be {letters} = {wanted} for images of "
            f"{list(image.shape)}, got {list(logits.shape)}"
        )
