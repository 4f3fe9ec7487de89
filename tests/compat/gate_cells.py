"""Recurrent cells in the styles that people write, under names that nobody knows."""

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn import functional

FEATURES, SIZE = 3, (5, 6)


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Memory(nn.Module):
    """Of those with h and c."""

    def __init__(self, gates=4):
        super().__init__()
        self.conv = conv(2 + FEATURES, gates * FEATURES)

    def both(self, x, h):
        return self.conv(torch.cat([x, h], 1))


class Chunks(Memory):
    def forward(self, x, h, c):
        i, f, g, o = self.both(x, h).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class TwoMemories(nn.Module):
    """PredRNN's; its output gate and new state come from convolutions of both."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_h = conv(2, 7 * FEATURES), conv(FEATURES, 4 * FEATURES)
        self.of_m = conv(FEATURES, 3 * FEATURES)
        self.of_both = conv(2 * FEATURES, 2 * FEATURES)

    def forward(self, x, h, c):
        i, f, g, i_m, f_m, g_m, o = self.of_x(x).chunk(7, 1)
        i_h, f_h, g_h, o_h = self.of_h(h).chunk(4, 1)
        m = 0.5 * c
        i2, f2, g2 = self.of_m(m).chunk(3, 1)
        delta = torch.sigmoid(i + i_h) * torch.tanh(g + g_h)
        c = torch.sigmoid(f + f_h + 1) * c + delta
        kept = torch.sigmoid(f_m + f2 + 1) * m
        m = kept + torch.sigmoid(i_m + i2) * torch.tanh(g_m + g2)
        both = self.of_both(torch.cat([c, m], 1)).chunk(2, 1)
        return torch.sigmoid(o + o_h + both[0]) * torch.tanh(both[1]), c, m, delta


class Splits(Memory):
    """State as a tuple, which may be missing; methods instead of functions."""

    def forward(self, x, state=None):
        if state is None:
            zero = x.new_zeros(x.shape[0], FEATURES, *x.shape[2:])
            state = zero, zero
        h, c = state
        g, o, f, i = torch.split(self.both(x, h), FEATURES, dim=1)
        new = i.sigmoid() * g.tanh() + c * f.sigmoid()
        return new.tanh() * o.sigmoid(), new


class OpenSlices(Memory):
    """The last slice has no end; the return value is a dictionary."""

    def forward(self, x, h, c):
        gates, n = self.both(x, h), FEATURES
        act = functional.sigmoid
        f, i = act(gates[:, :n]), act(gates[:, n : 2 * n])
        o, g = act(gates[:, 2 * n : 3 * n, ...]), torch.tanh(gates[:, 3 * n :])
        c = torch.add(torch.mul(f, c), i * g)
        return {"h": o * functional.tanh(c), "c": c, "more": [gates]}


class Modules(Memory):
    """Activations as modules, applied to three gates at once; a forget bias."""

    def __init__(self):
        super().__init__()
        self.gate, self.squash = nn.Sigmoid(), nn.Tanh()
        self.norm = nn.GroupNorm(3, 4 * FEATURES)
        self.bias = 1.5

    def forward(self, x, h, c):
        i, o, f, g = self.norm(self.both(x, h)).chunk(4, 1)
        c = c * self.gate(f + self.bias) + self.gate(i) * self.squash(g)
        return self.gate(o) * self.squash(c), c


class AtOnce(Memory):
    """The sigmoid of three gates at once."""

    def forward(self, x, h, c):
        gates = self.both(x, h)
        three = torch.sigmoid(gates[:, : 3 * FEATURES])
        i, f, o = three.chunk(3, 1)
        c = f * c + i * torch.tanh(gates[:, 3 * FEATURES :])
        return o * torch.tanh(c), c


class Peepholes(Memory):
    """Weights of the memory for every pixel, or for every channel."""

    def __init__(self, size=SIZE):
        super().__init__()
        for name in ("w_i", "w_f", "w_o"):
            weight = torch.randn(1, FEATURES, *size, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, x, h, c):
        i, f, g, o = self.both(x, h).chunk(4, 1)
        f = torch.sigmoid(f + self.w_f * c)
        new = f * c + torch.sigmoid(i + c * self.w_i) * torch.tanh(g)
        return torch.sigmoid(o + new * self.w_o) * torch.tanh(new), new


class PeepholesWithoutBatch(Memory):
    """Weights [F, H, W], or [F, 1, 1]; a dropout of nothing; cuts between channels."""

    def __init__(self, size=SIZE):
        super().__init__()
        self.drop, self.same = nn.Dropout(0.0), nn.Identity()
        for name in ("w_i", "w_f", "w_o"):
            weight = torch.randn(FEATURES, *size, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, x, h, c):
        gates, g = self.both(x, h).tensor_split([3 * FEATURES], dim=1)
        i, f, o = torch.tensor_split(gates, 3, dim=1)
        f = torch.sigmoid(f + self.w_f * c)
        new = f * c + torch.sigmoid(i + c * self.w_i) * self.drop(torch.tanh(g))
        return torch.sigmoid(o + new * self.w_o) * self.same(torch.tanh(new)), new


class SharedPeepholes(Memory):
    """One weight for all gates, and a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, FEATURES, 1, 1))
        self.register_buffer("of_output", torch.randn(1, FEATURES, 1, 1))

    def forward(self, x, h, c):
        i, f, g, o = self.both(x, h).chunk(4, 1)
        seen = self.weight * c
        c = torch.sigmoid(f + seen) * c + torch.sigmoid(i + seen) * torch.tanh(g)
        return torch.sigmoid(o + self.of_output * c) * torch.tanh(c), c


class MoreChannels(Memory):
    """The gates are not all that the convolution makes, and one is returned too."""

    def __init__(self):
        super().__init__(5)

    def forward(self, x, h, c):
        more, i, f, g, o = self.both(x, h).chunk(5, 1)
        f, i = torch.sigmoid(f), torch.sigmoid(i)
        new = f * c + i * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(new), new, more, f * c, new - c


class Sums(nn.Module):
    """Three convolutions and a bias."""

    def __init__(self):
        super().__init__()
        self.of_x, self.of_h, self.of_c = conv(2, 12), conv(3, 12), conv(3, 12)
        self.bias = nn.Parameter(torch.randn(1, 12, 1, 1))

    def forward(self, x, h, c):
        gates = self.of_x(x) + self.of_h(h) + self.of_c(c) + self.bias
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class SumsOfSlices(Sums):
    """Gates of different tensors are added one by one; one tensor has more."""

    def __init__(self):
        super().__init__()
        self.of_x = conv(2, 15)

    def forward(self, x, h, c):
        a, i_x, f_x, g_x, o_x = self.of_x(x).split(FEATURES, 1)
        i_h, f_h, g_h, o_h = self.of_h(h).split([FEATURES] * 4, 1)
        i, f = torch.sigmoid(i_x + i_h), torch.sigmoid(f_h + f_x)
        c = f * c + i * torch.tanh(g_x + g_h)
        return torch.sigmoid(o_x + o_h) * torch.tanh(c), c, a


class Starred(Memory):
    """The parts are arguments of a function, and a step is one with defaults."""

    def forward(self, x, h, c, /, *, scale=None):
        return update(*self.both(x, h).split(FEATURES, 1), c)


def update(i: Tensor, f: Tensor, g: Tensor, o: Tensor, c: Tensor, bias: float = 1.0):
    c = torch.addcmul(torch.sigmoid(f + bias) * c, torch.sigmoid(i), torch.tanh(g))
    return torch.sigmoid(o) * torch.tanh(c), c


class TwoSteps(Memory):
    """Two steps in one forward, written in a function."""

    def forward(self, x, h, c):
        for _ in range(2):
            h, c = step(self.both(x, h), c)
        return h, c


def step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def check(holds):
    assert holds


class Checks(Memory):
    """Asserts and errors about sizes, of arguments and of what is made of them.

    Not in a file of tests, whose asserts pytest replaces.
    """

    def forward(self, x, h, c):
        assert x.shape[-2:] == h.shape[-2:], f"h must be {list(x.shape[-2:])}"
        if x.size(0) != len(c.shape) - 2:
            raise ValueError("a batch of two")
        if h.dim() < 4 or h.numel() % 2:
            h = h * 2
        gates = self.both(x, h)
        assert (
            gates.shape[1] == 4 * c.shape[1]
            and gates.shape[0] == c.shape[0] == x.shape[0]
        )
        return step(gates, c)


class Functions(nn.Module):
    """Convolutions by torch's function, and tensors wrapped as they once had to be."""

    def __init__(self):
        super().__init__()
        of_x, of_h = conv(2, 4 * FEATURES), conv(FEATURES, 4 * FEATURES)
        self.w_x, self.w_h, self.bias = of_x.weight, of_h.weight, of_h.bias

    def forward(self, x, h, c):
        gates = functional.conv2d(Variable(x), self.w_x, padding=1)
        gates = gates + torch.conv2d(h, self.w_h, self.bias, 1, 1)
        return step(gates, c)


class ResetBefore(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates, self.candidate = conv(2 + FEATURES, 6), conv(2 + FEATURES, 3)

    def blend(self, z, h, n):
        return (1 - z) * h + z * n

    def forward(self, x, h=None):
        if h is None:
            h = x.new_zeros(x.size(0), FEATURES, x.size(2), x.size(3))
        z, r = torch.chunk(self.gates(torch.cat([x, h], 1)), 2, 1)
        r, z = torch.sigmoid(r), torch.sigmoid(z)
        n = torch.tanh(self.candidate(torch.cat([x, r * h], 1)))
        return self.blend(z, h, n)


class Keeps(ResetBefore):
    def blend(self, z, h, n):
        return z * h + (1 - z) * n


class Differs(ResetBefore):
    def blend(self, z, h, n):
        return h + z * (n - h)


class Lerps(ResetBefore):
    def blend(self, z, h, n):
        return torch.lerp(n, h, z)


class SeparateGates(nn.Module):
    """A convolution for each gate."""

    def __init__(self):
        super().__init__()
        self.z, self.r, self.n = (conv(2 + FEATURES, FEATURES) for _ in range(3))

    def forward(self, x, h):
        both = torch.cat([x, h], 1)
        z, r = torch.sigmoid(self.z(both)), torch.sigmoid(self.r(both))
        n = torch.tanh(self.n(torch.cat([x, r * h], 1)))
        return h * (1 - z) + n * z


class ResetAfter(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_x, self.of_h = conv(2, 9), conv(FEATURES, 9)

    def activation(self, x):
        return torch.tanh(x)

    def forward(self, x, h, flag=False):
        if flag:
            return h
        r_x, z_x, n_x = torch.chunk(self.of_x(x), 3, 1)
        r_h, z_h, n_h = torch.chunk(self.of_h(h), 3, 1)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        n = self.activation(n_x + r * n_h)
        return n - z * n + z * h


class Rectified(ResetAfter):
    def activation(self, x):
        return torch.relu(x)


class Leaky(ResetAfter):
    def activation(self, x):
        return functional.leaky_relu(x, 0.1, inplace=True)


class LeakyModule(ResetAfter):
    def __init__(self):
        super().__init__()
        self.act = nn.LeakyReLU(0.2)

    def activation(self, x):
        return self.act(x)


class Highway(nn.Module):
    """One gate between the old state and a candidate, as PredRNN++ has it."""

    def __init__(self):
        super().__init__()
        self.both = conv(2 + FEATURES, 2 * FEATURES)

    def forward(self, x, h):
        p, u = self.both(torch.cat([x, h], 1)).chunk(2, 1)
        u, p = torch.sigmoid(u), torch.tanh(p)
        return u * p + (1 - u) * h


LSTMS = {
    "Chunks": (Chunks, "lstm_gates, order ifgo"),
    "Splits": (Splits, "lstm_gates, order gofi"),
    "OpenSlices": (OpenSlices, "lstm_gates, order fiog"),
    "Modules": (Modules, "lstm_gates, order iofg, forget_bias 1.5"),
    "AtOnce": (AtOnce, "lstm_gates, order ifog"),
    "Peepholes": (Peepholes, "lstm_gates, order ifgo, peepholes"),
    "OfChannels": (
        lambda: Peepholes((1, 1)),
        "lstm_gates, order ifgo, peepholes",
    ),
    "PeepholesWithoutBatch": (
        PeepholesWithoutBatch,
        "lstm_gates, order ifog, peepholes",
    ),
    "PeepholesOfChannelsWithoutBatch": (
        lambda: PeepholesWithoutBatch((1, 1)),
        "lstm_gates, order ifog, peepholes",
    ),
    "SharedPeepholes": (SharedPeepholes, "lstm_gates, order ifgo, peepholes"),
    "MoreChannels": (MoreChannels, "lstm_gates, order ifgo"),
    "Sums": (Sums, "lstm_gates, order ifgo"),
    "SumsOfSlices": (SumsOfSlices, "lstm_gates, order ifgo"),
    "Starred": (Starred, "lstm_gates, order ifgo, forget_bias 1"),
    "TwoMemories": (TwoMemories, "lstm_memory, order ifg, forget_bias 1"),
    "TwoSteps": (TwoSteps, "lstm_gates, order ifgo"),
}
RESET = "gru_reset, order ur; gru_output, tanh, update "
GRUS = {
    "ResetBefore": (ResetBefore, RESET + "replace"),
    "Keeps": (Keeps, RESET + "keep"),
    "Differs": (Differs, RESET + "replace"),
    "Lerps": (Lerps, RESET + "keep"),
    "SeparateGates": (SeparateGates, "gru_output, tanh, update replace"),
    "ResetAfter": (ResetAfter, "gru_gates, order run, tanh, update keep"),
    "Rectified": (Rectified, "gru_gates, order run, relu, update keep"),
    "Leaky": (Leaky, "gru_gates, order run, leaky_relu 0.1, update keep"),
    "LeakyModule": (LeakyModule, "gru_gates, order run, leaky_relu 0.2, update keep"),
    "Highway": (Highway, "gru_output, tanh, update replace"),
}
