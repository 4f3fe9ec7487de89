"""The updates of gates."""

from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def activate(candidate: Tensor, activation: str, negative_slope: float) -> Tensor:
    """Apply the activation of a candidate."""
    if activation == "leaky_relu":
        return torch.where(candidate > 0, candidate, negative_slope * candidate)
    return candidate.tanh() if activation == "tanh" else candidate.relu()


def required(argument: T | None) -> T:
    """The argument, which must be there where another is None."""
    if argument is None:
        raise TypeError("an argument that the others ask for is None")
    return argument


def split(
    x_gates: Tensor | None, h_gates: Tensor | None, order: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The slices of both parts by their letters; zero where a part is None."""
    given = required(h_gates if x_gates is None else x_gates)
    parts = [torch.zeros_like(given) if g is None else g for g in (x_gates, h_gates)]
    each = [part.double().chunk(len(order), 1) for part in parts]
    x, h = (dict(zip(order, slices, strict=True)) for slices in each)
    return x, h


def gru_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    h: Tensor,
    order: str = "run",
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state, the reset following the convolution."""
    x, s = split(x_gates, h_gates, order)
    r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
    candidate = x["n"] if h_gates is None else x["n"] + r * s["n"]
    return gru_output(u, candidate, h, activation, negative_slope, update, zoneout_mask)


def gru_reset(
    x_gates: Tensor | None, h_gates: Tensor | None, h: Tensor, order: str = "ru"
) -> tuple[Tensor, Tensor]:
    """Compute the update gate and the state times the reset gate."""
    x, s = split(x_gates, h_gates, order)
    r, u = (x["r"] + s["r"]).sigmoid(), (x["u"] + s["u"]).sigmoid()
    return u, r * h.double()


def gru_output(
    u: Tensor,
    candidate: Tensor,
    h: Tensor,
    activation: str = "tanh",
    negative_slope: float = 0.2,
    update: str = "keep",
    zoneout_mask: Tensor | None = None,
) -> Tensor:
    """Compute a GRU's new state; keep: u h + (1-u) n, replace: (1-u) h + u n."""
    n = activate(candidate.double(), activation, negative_slope)
    u, old = u.double(), h.double()
    new = u * old + (1 - u) * n if update == "keep" else (1 - u) * old + u * n
    return new if zoneout_mask is None else torch.where(zoneout_mask != 0, old, new)


def lstm_gates(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    peephole: tuple[Tensor, Tensor, Tensor] | None = None,
    order: str = "ifog",
    forget_bias: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Compute an LSTM's new hidden and cell state: see `trajgru_ext.lstm_gates`."""
    x, s = split(x_gates, h_gates, order)
    old = c.double()
    a = {gate: x[gate] + s[gate] for gate in order}
    if peephole is not None:
        w_ci, w_cf, w_co = (w.double() for w in peephole)
        a["i"], a["f"] = a["i"] + w_ci * old, a["f"] + w_cf * old
    i, f, g = a["i"].sigmoid(), (a["f"] + forget_bias).sigmoid(), a["g"].tanh()
    new = f * old + i * g
    o = (a["o"] if peephole is None else a["o"] + w_co * new).sigmoid()
    return o * new.tanh(), new


def lstm_memory(
    x_gates: Tensor | None,
    h_gates: Tensor | None,
    c: Tensor,
    order: str = "ifg",
    forget_bias: float = 0.0,
) -> Tensor:
    """Compute an LSTM's new cell state: see `trajgru_ext.lstm_memory`."""
    x, s = split(x_gates, h_gates, order)
    i, f, g = (x[gate] + s[gate] for gate in "ifg")
    return (f + forget_bias).sigmoid() * c.double() + i.sigmoid() * g.tanh()
