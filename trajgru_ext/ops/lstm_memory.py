"""An LSTM's update of its memory, where the output gate waits for more."""

from collections.abc import Sequence

from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import check_tensors
from trajgru_ext.ops._gate_sums import fake_gradients, update_of_sums
from trajgru_ext.ops._options import LstmOptions
from trajgru_ext.ops._overrides import overridable
from trajgru_ext.ops._registry import fake


@overridable
def lstm_memory(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    order: str = "ifg",
    forget_bias: float = 0.0,
) -> Tensor:
    """Compute an LSTM's new cell state from its three gates.

    With sigma the logistic function and x_i .. (h_i ..) the slices of `x_gates`
    (`h_gates`)::

        i = sigma(x_i + h_i)
        f = sigma(x_f + h_f + forget_bias)
        g = tanh(x_g + h_g)
        c' = f * c + i * g

    For cells whose output gate sees more than an LSTM's, as PredRNN's, which keep two
    such memories. Derivatives and repeatability are as of `lstm_gates`.

    Args:
        x_gates: the inputs' part `[B, 3F, H, W]` in float32, float64, bfloat16 or
            float16; any strides, or None for zero.
        h_gates: the other part, likewise; one of the two must be given.
        c: the old cell state `[B, F, H, W]`, of the gates' dtype or a higher one.
        order: the slices' order, a permutation of "ifg", g being the candidate.
        forget_bias: added in the forget gate.

    Returns:
        c' `[B, F, H, W]` in the dtype of `c` and the memory format of `x_gates` (of
        `h_gates`, where `x_gates` is None).

    Raises:
        TypeError: an argument is no tensor, or not of a supported dtype.
        ValueError: an argument's rank, size, device or choice does not fit.

    Source: Hochreiter and Schmidhuber 1997; Wang et al. 2017 (PredRNN).

    Examples:
        >>> import torch
        >>> from trajgru_ext import lstm_memory
        >>> gates, c = torch.zeros(1, 3 * 8, 6, 6), torch.ones(1, 8, 6, 6)
        >>> lstm_memory(gates, None, c).mean()
        tensor(0.5000)

    """
    op = "lstm_memory"
    _gates.check_gates(op, x_gates, h_gates)
    check_tensors(op, c=c)
    options = LstmOptions.choose_memory(op, order, forget_bias)
    new_state: Tensor = _LstmMemory.call(x_gates, h_gates, c, options)
    return new_state


@fake("lstm_memory")
def _fake_lstm_memory(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    options: Sequence[float],
) -> Tensor:
    _gates.check_operands("lstm_memory", x_gates, h_gates, "c", c, 3)
    lead = _gates.leading(x_gates, h_gates)
    return _gates.empty_like_gates(lead, c, 1, c.dtype)


@fake("lstm_memory_backward")
def _fake_lstm_memory_backward(
    grad: Tensor,
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    options: Sequence[float],
    gates_grad: bool,
    c_grad: bool,
) -> tuple[Tensor, Tensor]:
    return fake_gradients(x_gates, h_gates, c, 3, gates_grad, c_grad)


def lstm_memory_formula(options: LstmOptions) -> _gates.Formula:
    """The result as a function of the gates' sum and c, in torch operators."""

    def new_state(gates: Tensor, c: Tensor) -> tuple[Tensor]:
        i, f, g = _gates.slices(gates, options.slices[:3])
        kept = (f + options.forget_bias).sigmoid() * c.to(gates.dtype)
        return ((kept + i.sigmoid() * g.tanh()).to(c.dtype),)

    return new_state


_LstmMemory = update_of_sums("lstm_memory", LstmOptions, lstm_memory_formula)
