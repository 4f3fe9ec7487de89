"""princeton-vl/RAFT: the GRUs that refine a flow; the reset before, u for the new."""

import torch
from torch import nn

from ports.updates import blend


class ConvGRU(nn.Module):
    """One step, of RAFT-small."""

    def __init__(self, hidden_dim=128, input_dim=192 + 128):
        super().__init__()
        for gate in "zrq":
            conv = nn.Conv2d(hidden_dim + input_dim, hidden_dim, 3, padding=1)
            setattr(self, f"conv{gate}", conv)

    def forward(self, h, x):
        """The new h."""
        return step(self, "", h, x)


class SepConvGRU(nn.Module):
    """A step of filters along rows, and one of filters along columns."""

    def __init__(self, hidden_dim=128, input_dim=192 + 128):
        super().__init__()
        for pass_, size in (("1", (1, 5)), ("2", (5, 1))):
            for gate in "zrq":
                padding = size[0] // 2, size[1] // 2
                conv = nn.Conv2d(
                    hidden_dim + input_dim, hidden_dim, size, padding=padding
                )
                setattr(self, f"conv{gate}{pass_}", conv)

    def forward(self, h, x):
        """The new h."""
        return step(self, "2", step(self, "1", h, x), x)


def step(module, pass_, h, x):
    """The new h: q = tanh(convq([r h, x])), h' = (1 - z) h + z q."""
    convz, convr, convq = (getattr(module, f"conv{gate}{pass_}") for gate in "zrq")
    hx = torch.cat([h, x], 1)
    z, r = torch.sigmoid(convz(hx)), torch.sigmoid(convr(hx))
    q = torch.tanh(convq(torch.cat([r * h, x], 1)))
    return blend(z, q, h)
