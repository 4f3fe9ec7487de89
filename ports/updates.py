"""What recurrent cells do with the sums of their gates, element by element."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu


def leaky(values: Tensor) -> Tensor:
    """The activation of HKO-7 and its ports."""
    return leaky_relu(values, 0.2)


def blend(u: Tensor, weighed: Tensor, other: Tensor) -> Tensor:
    """The new state of a GRU: u weighed + (1 - u) other.

    Models differ in which of the old state and the candidate the update gate u weighs.
    """
    return u * weighed + (1 - u) * other


def gru_reset_after(
    x_gates: Tensor | None,
    h_gates: Tensor,
    h: Tensor,
    activation: Callable[[Tensor], Tensor] = leaky,
) -> Tensor:
    """A GRU that resets what was computed from the state; slices r, u, n.

        r = sigmoid(x_r + h_r)    u = sigmoid(x_u + h_u)
        n = activation(x_n + r h_n)    h' = u h + (1 - u) n

    Without inputs there are no x.
    """
    r, u, n = h_gates.chunk(3, 1)
    if x_gates is None:
        return blend(torch.sigmoid(u), h, activation(torch.sigmoid(r) * n))
    x_r, x_u, x_n = x_gates.chunk(3, 1)
    n = activation(x_n + torch.sigmoid(x_r + r) * n)
    return blend(torch.sigmoid(x_u + u), h, n)


def memory(i: Tensor, f: Tensor, g: Tensor, c: Tensor) -> Tensor:
    """The new c of an LSTM from the sums of its gates.

    c' = sigmoid(f) c + sigmoid(i) tanh(g)
    """
    return torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)


def lstm(
    i: Tensor, f: Tensor, g: Tensor, o: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    """The new (h, c) of an LSTM: h' = sigmoid(o) tanh(c')."""
    c = memory(i, f, g, c)
    return torch.sigmoid(o) * torch.tanh(c), c


def lstm_with_peepholes(
    gates: tuple[Tensor, Tensor, Tensor, Tensor],
    c: Tensor,
    peepholes: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The same where i and f see the old c and o the new; gates are (i, f, g, o).

    To their sums are added w_i c, w_f c and w_o c'.
    """
    i, f, g, o = gates
    w_i, w_f, w_o = peepholes
    c = memory(i + w_i * c, f + w_f * c, g, c)
    return torch.sigmoid(o + w_o * c) * torch.tanh(c), c
