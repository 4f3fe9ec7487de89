"""OpenSTL's PredRNN, PredRNNv2 and PredRNN++.

Beside h and c, which a cell keeps from step to step, a memory m goes up through the
cells of a step and from the last to the first of the next.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from ports.openstl import Model, add_convolutions
from ports.updates import blend


def remember(
    i: Tensor, f: Tensor, g: Tensor, old: Tensor, forget_bias: float
) -> tuple[Tensor, Tensor]:
    """The new memory, and what of it is new: sigmoid(i) tanh(g)."""
    delta = torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(f + forget_bias) * old + delta, delta


class _SpatioTemporal(nn.Module):
    """The convolutions of both versions' cells, and their formula."""

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.num_hidden = num_hidden
        channels = {
            "conv_x": (in_channel, 7 * num_hidden),
            "conv_h": (num_hidden, 4 * num_hidden),
            "conv_m": (num_hidden, 3 * num_hidden),
            "conv_o": (2 * num_hidden, num_hidden),
        }
        settings = filter_size, stride, layer_norm
        add_convolutions(self, channels, (height, width), settings)

    def _step(self, x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        """The new h, c and m, and what is new in c and in m.

            c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)    of x and h
            m' = the same with gates of its own           of x and m
            h' = sigmoid(o + conv_o([c', m'])) tanh(conv_last([c', m']))

        Slices of x: i, f, g, those of m, o; of h: i, f, g, o; of m: i, f, g.
        """
        i, f, g, i_m, f_m, g_m, o = self.conv_x(x).chunk(7, 1)
        i_h, f_h, g_h, o_h = self.conv_h(h).chunk(4, 1)
        of_m = self.conv_m(m).chunk(3, 1)
        bias = self._forget_bias
        c, delta_c = remember(i + i_h, f + f_h, g + g_h, c, bias)
        gates = (a + b for a, b in zip((i_m, f_m, g_m), of_m, strict=True))
        m, delta_m = remember(*gates, m, bias)
        both = torch.cat([c, m], 1)
        o = torch.sigmoid(o + o_h + self.conv_o(both))
        return o * torch.tanh(self.conv_last(both)), c, m, delta_c, delta_m


class SpatioTemporalLSTMCell(_SpatioTemporal):
    """One step of PredRNN."""

    def forward(self, x_t, h_t, c_t, m_t):
        """The new (h, c, m)."""
        return self._step(x_t, h_t, c_t, m_t)[:3]


class SpatioTemporalLSTMCellv2(_SpatioTemporal):
    """One step of PredRNNv2."""

    def forward(self, x_t, h_t, c_t, m_t):
        """The new (h, c, m), and what is new in c and in m."""
        return self._step(x_t, h_t, c_t, m_t)


class CausalLSTMCell(nn.Module):
    """One step of PredRNN++: m's gates see the new c, and o the new m."""

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.num_hidden = num_hidden
        channels = {
            "conv_x": (in_channel, 7 * num_hidden),
            "conv_h": (num_hidden, 4 * num_hidden),
            "conv_c": (num_hidden, 3 * num_hidden),
            "conv_m": (num_hidden, 3 * num_hidden),
            "conv_o": (2 * num_hidden, num_hidden),
            "conv_c2m": (num_hidden, 4 * num_hidden),
            "conv_om": (num_hidden, num_hidden),
        }
        settings = filter_size, stride, layer_norm
        add_convolutions(self, channels, (height, width), settings)

    def forward(self, x_t, h_t, c_t, m_t):
        """The new (h, c, m).

            c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)            of x, h and c
            m' = sigmoid(f + 1) tanh(n) + sigmoid(i) tanh(g)      of x, m and c'
            h' = tanh(o) tanh(conv_last([c', m']))                of x, h, c' and m'

        Slices of x: i, f, g, those of m, o; of h: i, f, g, o; of c: i, f, g; of m: i,
        f, n, and no g; of c': i, g, f, o. `conv_o` is not used, as there.
        """
        i, f, g, i_x, f_x, g_x, o = self.conv_x(x_t).chunk(7, 1)
        i_h, f_h, g_h, o_h = self.conv_h(h_t).chunk(4, 1)
        i_c, f_c, g_c = self.conv_c(c_t).chunk(3, 1)
        i_m, f_m, n_m = self.conv_m(m_t).chunk(3, 1)
        bias = self._forget_bias
        gates = i + i_h + i_c, f + f_h + f_c, g + g_h + g_c
        c, _ = remember(*gates, c_t, bias)
        i_c, g_c, f_c, o_c = self.conv_c2m(c).chunk(4, 1)
        gates = i_x + i_m + i_c, f_x + f_m + f_c, g_x + g_c
        m, _ = remember(*gates, torch.tanh(n_m), bias)
        o = torch.tanh(o + o_h + o_c + self.conv_om(m))
        return o * torch.tanh(self.conv_last(torch.cat([c, m], 1))), c, m


class GHU(nn.Module):
    """The gradient highway of PredRNN++: z' = u tanh(p) + (1 - u) z.

    Its layer norms are of half as many channels as there are, so that it does not run
    with them, as there.
    """

    def __init__(
        self,
        in_channel,
        num_hidden,
        height,
        width,
        filter_size,
        stride,
        layer_norm,
        initializer=0.001,
    ):
        super().__init__()
        self.filter_size = filter_size
        self.padding = filter_size // 2
        self.num_hidden = num_hidden
        self.layer_norm = layer_norm
        for name in ("z_concat", "x_concat"):
            sizes = in_channel, 2 * num_hidden, filter_size, stride, self.padding
            layers = [nn.Conv2d(*sizes, bias=False)]
            if layer_norm:
                layers.append(nn.LayerNorm([num_hidden, height, width]))
            setattr(self, name, nn.Sequential(*layers))
            if initializer != -1:
                self.initializer = initializer
                nn.init.uniform_(layers[0].weight, -initializer, initializer)

    def forward(self, x, z):
        """The new z; None is 0. Slices p, u."""
        if z is None:
            z = torch.zeros_like(x)
        p, u = (self.x_concat(x) + self.z_concat(z)).chunk(2, 1)
        return blend(torch.sigmoid(u), torch.tanh(p), z)


class PredRNN_Model(Model):
    """Cells that each take the h of the one before, and the memory."""

    def add_layers(self, channels, settings):
        """One column."""
        self.cell_list = self.column(SpatioTemporalLSTMCell, channels, settings)

    def step(self, net, state):
        """Layer by layer."""
        for k, cell in enumerate(self.cell_list):
            net, state.c[k], state.memory = cell(
                net, state.h[k], state.c[k], state.memory
            )
            state.h[k] = net
        return net


class PredRNNpp_Model(Model):
    """The same with the gradient highway between the first cell and the second."""

    def add_layers(self, channels, settings):
        """The highway and one column."""
        features = self.num_hidden[0]
        self.gradient_highway = GHU(features, features, *settings)
        self.cell_list = self.column(CausalLSTMCell, channels, settings)

    def step(self, net, state):
        """Layer by layer; the highway has no z at first."""
        for k, cell in enumerate(self.cell_list):
            if k == 1:
                net = state.z = self.gradient_highway(net, getattr(state, "z", None))
            net, state.c[k], state.memory = cell(
                net, state.h[k], state.c[k], state.memory
            )
            state.h[k] = net
        return net


class PredRNNv2_Model(Model):
    """PredRNN whose loss keeps what is new in c and in m apart."""

    def __init__(self, num_layers, num_hidden, configs, **kwargs):
        super().__init__(num_layers, num_hidden, configs)
        features = num_hidden[0]
        self.adapter = nn.Conv2d(features, features, 1, bias=False)

    def add_layers(self, channels, settings):
        """One column."""
        self.cell_list = self.column(SpatioTemporalLSTMCellv2, channels, settings)

    def step(self, net, state):
        """Layer by layer; what is new is adapted even where no loss is asked for."""
        if state.t == 0:
            state.alike = []
        for k, cell in enumerate(self.cell_list):
            net, state.c[k], state.memory, *new = cell(
                net, state.h[k], state.c[k], state.memory
            )
            state.h[k] = net
            adapted = [
                normalize(self.adapter(delta).flatten(2), dim=2) for delta in new
            ]
            if state.return_loss:
                state.alike.append(cosine_similarity(*adapted, dim=2).abs().mean())
        return net

    def loss(self, next_frames, wanted, state):
        """The squared error, and how alike they are, a mean over layers and steps."""
        alike = torch.stack(state.alike).mean()
        error = super().loss(next_frames, wanted, state)
        return error + self.configs.decouple_beta * alike
