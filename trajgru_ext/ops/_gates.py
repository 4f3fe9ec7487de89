"""What the gate updates share: their options, fake kernels, formulas and transforms."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trajgru_ext.ops._arguments import (
    check_device,
    check_optional,
    check_sizes,
    check_tensors,
)
from trajgru_ext.ops._autograd import (
    fold,
    push_forward,
    unfold,
    unfold_wanted,
    wanted_only,
)
from trajgru_ext.ops._layout import memory_format
from trajgru_ext.ops._options import ACTIVATIONS, GruOptions
from trajgru_ext.ops._overrides import leaf

Formula = Callable[..., tuple[Tensor, ...]]
_EXACT = (torch.float32, torch.float64)


def check_gates(op: str, x_gates: Any, h_gates: Any) -> None:
    """Raise a TypeError for gates that are neither a Tensor nor None."""
    check_optional(op, x_gates=x_gates, h_gates=h_gates)


@leaf
def one_sum(
    x_gates: Tensor | None, h_gates: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Gates that nobody else holds, so that backward keeps half of them.

    An update keeps its arguments for backward: of two parts that a cell has just
    computed, their sum is as good. Short floats are left to the kernels, which add them
    in float32.
    """
    if x_gates is None or h_gates is None or not torch.is_grad_enabled():
        return x_gates, h_gates
    kept = x_gates.requires_grad or h_gates.requires_grad
    exact = x_gates.dtype == h_gates.dtype and x_gates.dtype in _EXACT
    return (x_gates + h_gates, None) if kept and exact else (x_gates, h_gates)


def check_operands(
    op: str,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    name: str,
    state: Tensor,
    count: int,
) -> None:
    """Check the state of this name and `count` gates for it, as gate_checks.h."""
    check_sizes(op, name, state, [-1] * 4, state)
    if x_gates is None and h_gates is None:
        raise ValueError(f"{op}: x_gates or h_gates must be given, got None for both")
    for part, gates in (("x_gates", x_gates), ("h_gates", h_gates)):
        if gates is not None:
            check_gate_tensor(op, part, gates, name, state, count)


def check_gate_tensor(
    op: str, name: str, gates: Tensor, state_name: str, state: Tensor, count: int
) -> None:
    """Check `count` gates' sizes, and that their dtype is not above the state's."""
    check_sizes(op, name, gates, [-1] * 4, state)
    batch, features, height, width = state.shape
    wanted = [batch, count * features, height, width]
    if list(gates.shape) != wanted:
        letters = "[B, F, H, W]" if count == 1 else f"[B, {count}F, H, W]"
        raise ValueError(
            f"{op}: {name} must be {letters} = {wanted} for {state_name} of "
            f"{list(state.shape)}, got {list(gates.shape)}"
        )
    if torch.promote_types(gates.dtype, state.dtype) != state.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {state_name}, {state.dtype}, or a "
            f"lower one, got {gates.dtype}"
        )


def old_state_mask(op: str, mask: Any, h: Tensor) -> Tensor | None:
    """The zoneout mask as bool, in the sizes of the state."""
    return None if mask is None else mask_of_sizes(op, mask, h.shape, h)


def mask_of_sizes(op: str, mask: Any, wanted: Sequence[int], beside: Tensor) -> Tensor:
    """The zoneout mask as bool, broadcast to the sizes."""
    check_tensors(op, zoneout_mask=mask)
    check_device(op, "zoneout_mask", mask, beside)
    sizes = tuple(mask.shape)
    pairs = zip(reversed(sizes), reversed(wanted), strict=False)
    if len(sizes) > len(wanted) or any(a not in (1, b) for a, b in pairs):
        raise ValueError(
            f"{op}: zoneout_mask must broadcast to {list(wanted)}, got {list(sizes)}"
        )
    expanded: Tensor = mask.to(torch.bool).expand(wanted)
    return expanded


def gates_dtype(x_gates: Tensor | None, h_gates: Tensor | None) -> torch.dtype:
    """The common dtype of the gates that are given."""
    if x_gates is None or h_gates is None:
        return leading(x_gates, h_gates).dtype
    return torch.promote_types(x_gates.dtype, h_gates.dtype)


def empty_like_gates(
    gates: Tensor, state: Tensor, count: int, dtype: torch.dtype
) -> Tensor:
    """A result for `count` slices, in the memory format of the gates."""
    batch, features, height, width = state.shape
    return torch.empty(
        (batch, count * features, height, width),
        dtype=dtype,
        device=state.device,
        memory_format=memory_format(gates),
    )


def wide(tensor: Tensor, state: Tensor) -> Tensor:
    """The tensor in the dtype of the arithmetic for such a state."""
    return tensor.to(torch.promote_types(state.dtype, torch.float32))


def add_gates(x_gates: Tensor | None, h_gates: Tensor | None, state: Tensor) -> Tensor:
    """The sum of the gates that are given, in the dtype of the arithmetic."""
    if x_gates is None or h_gates is None:
        return wide(leading(x_gates, h_gates), state)
    return wide(x_gates, state) + wide(h_gates, state)


def slices(gates: Tensor, order: Sequence[int]) -> list[Tensor]:
    """The slices of the gates, in the order of the formula."""
    parts = gates.chunk(len(order), 1)
    return [parts[place] for place in order]


def activate(candidate: Tensor, options: GruOptions) -> Tensor:
    """Apply the activation."""
    activation = ACTIVATIONS[options.activation]
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(candidate, options.negative_slope)
    return candidate.tanh() if activation == "tanh" else candidate.relu()


def blend(
    u: Tensor, n: Tensor, state: Tensor, options: GruOptions, mask: Tensor | None
) -> Tensor:
    """The new state of a GRU, in the dtype of the old."""
    h = wide(state, state)
    fresh = u * h + (1 - u) * n if options.u_weighs_old else (1 - u) * h + u * n
    return (fresh if mask is None else torch.where(mask, h, fresh)).to(state.dtype)


def compact(
    formula: Callable[..., Any], tensors: Sequence[Tensor | None]
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """The formula as a function of those tensors that are given, and these."""
    present = [tensor is not None for tensor in tensors]

    def of_present(*given: Tensor) -> Any:
        each = iter(given)
        return formula(*(next(each) if there else None for there in present))

    return of_present, tuple(t for t in tensors if t is not None)


def spread(found: Sequence[Any], tensors: Sequence[Tensor | None]) -> list[Any]:
    """Undo `compact` for what belongs to the tensors: None where they are."""
    each = iter(found)
    return [None if tensor is None else next(each) for tensor in tensors]


def tangents_of(
    formula: Formula, tensors: Sequence[Tensor | None], tangents: Sequence[Any]
) -> tuple[Tensor, ...]:
    """The formula's derivative along the tangents."""
    function, present = compact(formula, tensors)
    pairs = zip(tensors, tangents, strict=True)
    along = tuple(tangent for tensor, tangent in pairs if tensor is not None)
    return push_forward(function, present, along)


def pull_back(
    formula: Formula,
    tensors: Sequence[Tensor | None],
    cotangents: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The formula's gradients to the tensors, a cotangent None being zero."""
    function, present = compact(formula, tensors)
    vjp: Any = torch.func.vjp  # which has several signatures
    outputs, pull = vjp(function, *present)
    pairs = zip(outputs, cotangents, strict=True)
    grads = tuple(torch.zeros_like(o) if c is None else c.to(o.dtype) for o, c in pairs)
    return spread(pull(grads), tensors)


def gradient_of(formula: Formula, wanted: Sequence[bool]) -> Formula:
    """The gradients of a formula of one output, from the cotangent and the tensors."""

    def gradient(cotangent: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return wanted_only(pull_back(formula, tensors, (cotangent,)), wanted)

    return gradient


def leading(x_gates: Tensor | None, h_gates: Tensor | None) -> Tensor:
    """The gates whose memory format the results have."""
    found = h_gates if x_gates is None else x_gates
    assert found is not None  # which check_operands has seen to
    return found


def in_one_batch(
    function: Any, info: Any, in_dims: Any, args: Any, shared: Sequence[str] = ()
) -> Any:
    """Apply a Function with vmap's dimension folded into the batch.

    shared: the arguments that have no batch and are not mapped; all other tensors have.
    """
    # A Function of any number of tensors shares none.
    names = function.Arguments(*args)._fields if shared else args
    mapped = [
        isinstance(arg, Tensor) and not (shared and name in shared)
        for arg, name in zip(args, names, strict=True)
    ]
    tensors = [arg for arg, has in zip(args, mapped, strict=True) if has]
    dims = tuple(dim for dim, has in zip(in_dims, mapped, strict=True) if has)
    folded = iter(fold(info, dims, *tensors))
    pairs = zip(args, mapped, strict=True)
    found = function.call(*(next(folded) if has else arg for arg, has in pairs))
    if isinstance(found, Tensor):
        return unfold(info, found), 0
    return unfold_wanted(info, found)
