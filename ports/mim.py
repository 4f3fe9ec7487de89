"""OpenSTL's Memory In Memory: PredRNN whose forget gates are LSTMs themselves."""

import torch
from torch import Tensor, nn

from ports.openstl import Model, add_convolutions
from ports.predrnn import SpatioTemporalLSTMCell, remember
from ports.updates import lstm_with_peepholes


def or_zeros(state: Tensor | None, like: Tensor) -> Tensor:
    """The state, 0 where there is none."""
    return torch.zeros_like(like) if state is None else state


def add_peepholes(module: nn.Module, features: int, *image: int) -> None:
    """Weights of c for i and f, side by side, and for o; a number for every pixel."""
    module.ct_weight = nn.Parameter(torch.zeros(2 * features, *image))
    module.oc_weight = nn.Parameter(torch.zeros(features, *image))


def step(
    module: nn.Module, x: Tensor | None, h: Tensor | None, c: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The new (h, c) of an LSTM with peepholes; slices i, g, f, o.

    i and f see the old c, o the new. States that are None are 0; x may be None, too.
    """
    if x is not None:
        h, c = or_zeros(h, x), or_zeros(c, x)
    gates = module.conv_h_concat(h)
    if x is not None:
        gates = gates + module.conv_x_concat(x)
    i, g, f, o = gates.chunk(4, 1)
    w_i, w_f = module.ct_weight.chunk(2)
    peepholes = w_i, w_f, module.oc_weight
    return lstm_with_peepholes((i, f + module._forget_bias, g, o), c, peepholes)


class MIMBlock(nn.Module):
    """A spatiotemporal cell whose c is kept by an LSTM of how h changes.

    It remembers that LSTM's c in `convlstm_c`, from call to call and past the end of a
    sequence, and does not send gradients back through it.
    """

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.convlstm_c = None
        self.num_hidden = num_hidden
        add_peepholes(self, num_hidden, height, width)
        channels = {
            "conv_t_cc": (in_channel, 3 * num_hidden),
            "conv_s_cc": (num_hidden, 4 * num_hidden),
            "conv_x_cc": (num_hidden, 4 * num_hidden),
            "conv_h_concat": (num_hidden, 4 * num_hidden),
            "conv_x_concat": (num_hidden, 4 * num_hidden),
        }
        settings = filter_size, stride, layer_norm
        add_convolutions(self, channels, (height, width), settings)

    def MIMS(self, x, h_t, c_t):
        """The new (h, c) of the LSTM inside."""
        return step(self, x, h_t, c_t)

    def forward(self, x, diff_h, h, c, m):
        """The new (h, c, m); all but x may be None, which is 0.

            m' = sigmoid(f + 1) m + sigmoid(i) tanh(g)    of x and m
            c' = MIMS(diff_h, c) + sigmoid(i) tanh(g)     of x and h
            h' = sigmoid(o) tanh(conv_last([c', m']))     of x, h and m

        Slices of x and of m: i, g, f, o; of h: i, g, o.
        """
        diff_h, h, c, m = (or_zeros(state, x) for state in (diff_h, h, c, m))
        i_t, g_t, o_t = self.conv_t_cc(h).chunk(3, 1)
        i_s, g_s, f_s, o_s = self.conv_s_cc(m).chunk(4, 1)
        i_x, g_x, f_x, o_x = self.conv_x_cc(x).chunk(4, 1)
        m, _ = remember(i_x + i_s, f_x + f_s, g_x + g_s, m, self._forget_bias)
        before = self.convlstm_c
        if before is not None:
            before = before.detach()
        kept, self.convlstm_c = self.MIMS(diff_h, c, before)
        c = kept + torch.sigmoid(i_x + i_t) * torch.tanh(g_x + g_t)
        o = torch.sigmoid(o_x + o_t + o_s)
        return o * torch.tanh(self.conv_last(torch.cat([c, m], 1))), c, m


class MIMN(nn.Module):
    """An LSTM of the differences of h; `conv_last` is not used, as there."""

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.num_hidden = num_hidden
        add_peepholes(self, num_hidden, height, width)
        names = "conv_h_concat", "conv_x_concat"
        channels = {name: (in_channel, 4 * num_hidden) for name in names}
        settings = filter_size, stride, layer_norm
        add_convolutions(self, channels, (height, width), settings)

    def forward(self, x, h_t, c_t):
        """The new (h, c)."""
        return step(self, x, h_t, c_t)


class MIM_Model(Model):
    """A spatiotemporal cell, MIMBlocks over it, and a MIMN under each of those."""

    def add_layers(self, channels, settings):
        """Two columns."""
        kinds = [SpatioTemporalLSTMCell] + [MIMBlock] * (self.num_layers - 1)
        self.stlstm_layer = nn.ModuleList(
            kind(*channels[k : k + 2], *settings) for k, kind in enumerate(kinds)
        )
        self.stlstm_layer_diff = nn.ModuleList(
            MIMN(*channels[k : k + 2], *settings) for k in range(1, self.num_layers)
        )

    def step(self, net, state):
        """Layer by layer; each MIMN takes the difference that the one below gives."""
        if state.t == 0:
            state.diff = [(None, None)] * len(self.stlstm_layer_diff)
        first, *blocks = self.stlstm_layer
        h, c, before = state.h, state.c, state.h[0]
        h[0], c[0], state.memory = first(net, h[0], c[0], state.memory)
        change = h[0] - before
        for k, block in enumerate(blocks):
            if state.t > 0:
                state.diff[k] = self.stlstm_layer_diff[k](change, *state.diff[k])
            else:
                # Run and not used, as there.
                self.stlstm_layer_diff[k](torch.zeros_like(h[k]), None, None)
            change = state.diff[k][0]
            new = block(h[k], change, h[k + 1], c[k + 1], state.memory)
            h[k + 1], c[k + 1], state.memory = new
        return h[-1]
