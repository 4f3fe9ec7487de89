"""Hzzone/Precipitation-Nowcasting: TrajGRU, ConvLSTM, and networks in stages."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from ports.updates import gru_reset_after, leaky, lstm_with_peepholes
from ports.warp import mix_warps, warp


def traj_gru(
    layer: Any,
    inputs: Tensor | None,
    h: Tensor,
    steps: int,
    activation: Callable[[Tensor], Tensor] = leaky,
    mix: Callable[..., Tensor] = mix_warps,
) -> tuple[Tensor, Tensor]:
    """The states after every step, and the last, by the convolutions of `layer`.

        flows = flows_conv(activation(i2f_conv1(x) + h2f_conv1(h)))
        h' = the GRU of i2h(x) and mix(h, -flows, ret), with the reset after it

    Without inputs the convolutions of them are left out.
    """
    if inputs is not None:
        x_gates = layer.i2h(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    outputs = []
    for t in range(steps):
        hidden = layer.h2f_conv1(h)
        if inputs is not None:
            hidden = layer.i2f_conv1(inputs[t]) + hidden
        h_gates = mix(h, -layer.flows_conv(activation(hidden)), layer.ret)
        of_x = None if inputs is None else x_gates[t]
        h = gru_reset_after(of_x, h_gates, h, activation)
        outputs.append(h)
    return torch.stack(outputs), h


class Leaky:
    """The original's activation."""

    def __init__(self) -> None:
        self._act_type = "leaky"
        self.negative_slope = 0.2

    def __call__(self, values: Tensor) -> Tensor:
        """Values below 0 times the slope."""
        return leaky_relu(values, self.negative_slope)


class TrajGRU(nn.Module):
    """The original's layer; `align_corners=None` is the default of `grid_sample`.

    The original's `seq_len` is by default that of a global configuration.
    """

    def __init__(
        self,
        input_channel: int,
        num_filter: int,
        b_h_w: tuple[int, int, int],
        zoneout: float = 0.0,
        L: int = 5,
        act_type: Callable[[Tensor], Tensor] | None = None,
        align_corners: bool | None = True,
    ) -> None:
        super().__init__()
        self._num_filter = num_filter
        self._batch_size, self._state_height, self._state_width = b_h_w
        self._zoneout = zoneout
        self._L = L
        self._act_type = Leaky() if act_type is None else act_type
        self._align_corners = align_corners
        self.i2h = nn.Conv2d(input_channel, 3 * num_filter, (3, 3), 1, (1, 1))
        self.i2f_conv1 = nn.Conv2d(input_channel, 32, (5, 5), 1, (2, 2))
        self.h2f_conv1 = nn.Conv2d(num_filter, 32, (5, 5), 1, (2, 2))
        self.flows_conv = nn.Conv2d(32, 2 * L, (5, 5), 1, (2, 2))
        self.ret = nn.Conv2d(L * num_filter, 3 * num_filter, (1, 1))

    def forward(
        self,
        inputs: Tensor | None = None,
        states: Tensor | None = None,
        seq_len: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The states after every step, and the last."""
        h = states
        if h is None:
            sizes = inputs.shape[1], self._num_filter
            h = inputs.new_zeros(*sizes, self._state_height, self._state_width)
        steps = len(inputs) if seq_len is None else seq_len
        mix = functools.partial(mix_warps, one_warp=self.wrap)
        return traj_gru(self, inputs, h, steps, self._act_type, mix)

    def wrap(self, image: Tensor, flow: Tensor) -> Tensor:
        """Read the image where the flow points to, in pixels."""
        return warp(image, flow, self._align_corners)


class ConvLSTM(nn.Module):
    """The original's layer; its peepholes are of one size of images."""

    def __init__(
        self,
        input_channel: int,
        num_filter: int,
        b_h_w: tuple[int, int, int],
        kernel_size: int,
    ) -> None:
        super().__init__()
        both = input_channel + num_filter
        self._conv = nn.Conv2d(both, 4 * num_filter, kernel_size, 1, kernel_size // 2)
        self._batch_size, self._state_height, self._state_width = b_h_w
        for name in ("Wci", "Wcf", "Wco"):
            setattr(self, name, nn.Parameter(torch.randn(1, num_filter, *b_h_w[1:])))
        self._input_channel = input_channel
        self._num_filter = num_filter

    def forward(
        self,
        inputs: Tensor | None,
        states: tuple[Tensor, Tensor],
        seq_len: int = 5,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The h after every step, and the last (h, c); no inputs are images of 0."""
        h, c = states
        outputs = []
        for t in range(seq_len):
            x = h.new_zeros(len(h), self._input_channel, *h.shape[2:])
            x = x if inputs is None else inputs[t]
            gates = self._conv(torch.cat([x, h], 1)).chunk(4, 1)
            h, c = lstm_with_peepholes(gates, c, (self.Wci, self.Wcf, self.Wco))
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class Encoder(nn.Module):
    """The original's: from frames the states of every stage."""

    def __init__(self, subnets: list[dict], rnns: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = len(rnns)
        for k, (subnet, rnn) in enumerate(zip(subnets, rnns, strict=True), start=1):
            self.add_module(f"stage{k}", make_layers(subnet))
            self.add_module(f"rnn{k}", rnn)

    def forward(self, input: Tensor) -> list[Tensor]:
        """The last states, of the finest stage first."""
        states = []
        for k in range(1, self.blocks + 1):
            input = each_frame(getattr(self, f"stage{k}"), input)
            input, state = getattr(self, f"rnn{k}")(input, None)
            states.append(state)
        return states


class Forecaster(nn.Module):
    """The original's: from the states frames, whose number is global there."""

    def __init__(
        self, subnets: list[dict], rnns: list[nn.Module], seq_len: int
    ) -> None:
        super().__init__()
        self.blocks = len(rnns)
        self.seq_len = seq_len
        for k, (subnet, rnn) in enumerate(zip(subnets, rnns, strict=True)):
            name = self.blocks - k
            self.add_module(f"rnn{name}", rnn)
            self.add_module(f"stage{name}", make_layers(subnet))

    def forward(self, hidden_states: list[Tensor]) -> Tensor:
        """The frames that follow."""
        input = None
        for k in range(self.blocks, 0, -1):
            rnn = getattr(self, f"rnn{k}")
            input, _ = rnn(input, hidden_states[k - 1], seq_len=self.seq_len)
            input = each_frame(getattr(self, f"stage{k}"), input)
        return input


def make_layers(block: dict[str, list[int]]) -> nn.Sequential:
    """Layers by name, as "conv1_leaky_1": [in, out, kernel, stride, padding]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, sizes in block.items():
        kind = nn.ConvTranspose2d if "deconv" in name else nn.Conv2d
        layers[name] = kind(*sizes)
        if "leaky" in name:
            layers[f"leaky_{name}"] = nn.LeakyReLU(0.2, inplace=True)
    return nn.Sequential(layers)


def each_frame(subnet: nn.Module, frames: Tensor) -> Tensor:
    """Of every frame."""
    images = subnet(torch.reshape(frames, (-1, *frames.shape[2:])))
    return torch.reshape(images, (*frames.shape[:2], *images.shape[1:]))


class EF(nn.Module):
    """The original's: frames to frames."""

    def __init__(self, encoder: Encoder, forecaster: Forecaster) -> None:
        super().__init__()
        self.encoder = encoder
        self.forecaster = forecaster

    def forward(self, input: Tensor) -> Tensor:
        """From frames `[S, B, C, H, W]` those that follow."""
        return self.forecaster(self.encoder(input))


class Sizes(NamedTuple):
    """A network, its levels from the finest."""

    down: list[dict[str, list[int]]]
    up: list[dict[str, list[int]]]
    channels: list[int]  # of the encoder's inputs; the forecaster's, from the deepest
    back: list[int]
    features: list[int]
    links: list[int]  # as the channels, of the encoder and of the forecaster
    sizes: list[int]
    image: int
    frames: int
    ahead: int
    batch: int


HKO7 = Sizes(
    down=[
        {"conv1_leaky_1": [1, 8, 7, 5, 1]},
        {"conv2_leaky_1": [64, 192, 5, 3, 1]},
        {"conv3_leaky_1": [192, 192, 3, 2, 1]},
    ],
    up=[
        {"deconv1_leaky_1": [192, 192, 4, 2, 1]},
        {"deconv2_leaky_1": [192, 64, 5, 3, 1]},
        {
            "deconv3_leaky_1": [64, 8, 7, 5, 1],
            "conv3_leaky_2": [8, 8, 3, 1, 1],
            "conv3_3": [8, 1, 1, 1, 0],
        },
    ],
    channels=[8, 192, 192],
    back=[192, 192, 64],
    features=[64, 192, 192],
    links=[13, 13, 9],
    sizes=[96, 32, 16],
    image=480,
    frames=5,
    ahead=20,
    batch=1,
)
MOVING_MNIST = Sizes(
    down=[
        {"conv1_leaky_1": [1, 16, 3, 1, 1]},
        {"conv2_leaky_1": [64, 96, 3, 2, 1]},
        {"conv3_leaky_1": [96, 96, 3, 2, 1]},
    ],
    up=[
        {"deconv1_leaky_1": [96, 96, 4, 2, 1]},
        {"deconv2_leaky_1": [96, 96, 4, 2, 1]},
        {
            "deconv3_leaky_1": [64, 16, 3, 1, 1],
            "conv3_leaky_2": [16, 16, 3, 1, 1],
            "conv3_3": [16, 1, 1, 1, 0],
        },
    ],
    channels=[16, 96, 96],
    back=[96, 96, 96],
    features=[64, 96, 96],
    links=[13, 13, 13],
    sizes=[64, 32, 16],
    image=64,
    frames=10,
    ahead=10,
    batch=4,
)


def network(what: Sizes) -> EF:
    """The original's encoder and forecaster, with its TrajGRU."""

    def layers(channels: list[int], order: slice) -> list[TrajGRU]:
        sizes = what.features[order], what.links, what.sizes[order]
        each = zip(channels, *sizes, strict=True)
        return [TrajGRU(c, f, (what.batch, n, n), L=links) for c, f, links, n in each]

    encoder = Encoder(what.down, layers(what.channels, slice(None)))
    back = layers(what.back, slice(None, None, -1))
    return EF(encoder, Forecaster(what.up, back, what.ahead))
