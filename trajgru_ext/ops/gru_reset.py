"""The first half of a GRU's update whose reset precedes the convolution."""

from collections.abc import Sequence

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._gate_sums import fake_gradients, update_of_sums
from trajgru_ext.ops._options import GruOptions
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake


@overridable
def gru_reset(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    order: str = "ru",
) -> tuple[Tensor, Tensor]:
    """Compute the update gate, and the state that the reset gate lets through.

    With sigma the logistic function and x_r, x_u (h_r, h_u) the slices of `x_gates`
    (`h_gates`)::

        r = sigma(x_r + h_r)      u = sigma(x_u + h_u)

    The candidate is then a convolution of [x, r * h], and `gru_output` the second half.
    Derivatives and repeatability are as of `gru_gates`.

    Args:
        x_gates: the inputs' part `[B, 2F, H, W]` in float32, float64, bfloat16 or
            float16; any strides, or None for zero.
        h_gates: the state's part, likewise; one of the two must be given.
        h: the old state `[B, F, H, W]`, of the gates' dtype or a higher one.
        order: the slices' order, "ru" or "ur".

    Returns:
        (u, r * h), both `[B, F, H, W]` in the dtype of `h` and the memory format of
        `x_gates` (of `h_gates`, where `x_gates` is None).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or order does not fit.

    Source: Cho et al. 2014 (arXiv 1406.1078); Ballas et al. 2015 (arXiv 1511.06432).

    Examples:
        >>> import torch
        >>> from trajgru_ext import gru_output, gru_reset
        >>> x, h = torch.randn(2, 3, 6, 6), torch.zeros(2, 8, 6, 6)
        >>> of_gates = torch.nn.Conv2d(3 + 8, 2 * 8, 3, padding=1)
        >>> of_candidate = torch.nn.Conv2d(3 + 8, 8, 3, padding=1)
        >>> u, passed = gru_reset(of_gates(torch.cat([x, h], 1)), None, h)
        >>> gru_output(u, of_candidate(torch.cat([x, passed], 1)), h).shape
        torch.Size([2, 8, 6, 6])

    """
    op = "gru_reset"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, h=h)
    options = GruOptions.choose_reset(op, order)
    halves: tuple[Tensor, Tensor] = _GruReset.call(x_gates, h_gates, h, options)
    return halves


@fake("gru_reset")
def _fake_gru_reset(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
) -> tuple[Tensor, Tensor]:
    _gates.check_operands("gru_reset", x_gates, h_gates, "h", h, 2)
    gates = _gates.leading(x_gates, h_gates)
    return (
        _gates.empty_like_gates(gates, h, 1, h.dtype),
        _gates.empty_like_gates(gates, h, 1, h.dtype),
    )


@fake("gru_reset_backward")
def _fake_gru_reset_backward(
    u_grad: Tensor | None,
    reset_grad: Tensor | None,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    options: Sequence[float],
    gates_grad: bool,
    h_grad: bool,
) -> tuple[Tensor, Tensor]:
    return fake_gradients(x_gates, h_gates, h, 2, gates_grad, h_grad)


def gru_reset_formula(options: GruOptions) -> _gates.Formula:
    """The result as a function of the gates' sum and h, in torch operators."""

    def halves(gates: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        order = (options.reset_slice, options.update_slice)
        r, u = _gates.slices(gates, order)
        reset = r.sigmoid() * h.to(gates.dtype)
        return u.sigmoid().to(h.dtype), reset.to(h.dtype)

    return halves


_GruReset = update_of_sums("gru_reset", GruOptions, gru_reset_formula)
