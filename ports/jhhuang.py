"""jhhuang96/ConvLSTM-PyTorch: cells with group norm, and their encoder-decoder.

States and inputs that are not given are 0 where the parameters are; the original makes
them on a GPU.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from ports.updates import blend, lstm


def convolution(cell: Any, slices: int) -> nn.Sequential:
    """Of x and h together, and a norm of groups of 32 channels."""
    channels = cell.input_channels + cell.num_features
    outputs = slices * cell.num_features
    conv = nn.Conv2d(channels, outputs, cell.filter_size, 1, cell.padding)
    return nn.Sequential(conv, nn.GroupNorm(outputs // 32, outputs))


class _Cell(nn.Module):
    """A layer over time, in spite of the classes' names."""

    def __init__(self, shape, input_channels, filter_size, num_features):
        super().__init__()
        self.shape = shape
        self.input_channels = input_channels
        self.filter_size = filter_size
        self.num_features = num_features
        self.padding = (filter_size - 1) // 2

    def _zeros(self, batch: int, channels: int) -> Tensor:
        weight = next(self.parameters())
        return weight.new_zeros(batch, channels, *self.shape)

    def _images(self, inputs: Tensor | None, seq_len: int, batch: int) -> Any:
        if inputs is None:
            return [self._zeros(batch, self.input_channels)] * seq_len
        return [inputs[t] for t in range(seq_len)]


class CGRU_cell(_Cell):
    """The reset before the convolution, z for the new."""

    def __init__(self, shape, input_channels, filter_size, num_features):
        super().__init__(shape, input_channels, filter_size, num_features)
        self.conv1 = convolution(self, 2)
        self.conv2 = convolution(self, 1)

    def forward(self, inputs=None, hidden_state=None, seq_len=10):
        """All h, `[T, B, C, H, W]`, and the last.

        n = tanh(conv2([x, r h]))    h' = (1 - z) h + z n

        Slices z, r.
        """
        h = hidden_state
        if h is None:
            h = self._zeros(inputs.shape[1], self.num_features)
        outputs = []
        for x in self._images(inputs, seq_len, h.shape[0]):
            z, r = self.conv1(torch.cat([x, h], 1)).sigmoid().chunk(2, 1)
            h = blend(z, self.conv2(torch.cat([x, r * h], 1)).tanh(), h)
            outputs.append(h)
        return torch.stack(outputs), h


class CLSTM_cell(_Cell):
    """Slices i, f, g, o."""

    def __init__(self, shape, input_channels, filter_size, num_features):
        super().__init__(shape, input_channels, filter_size, num_features)
        self.conv = convolution(self, 4)

    def forward(self, inputs=None, hidden_state=None, seq_len=10):
        """All h, `[T, B, C, H, W]`, and the last (h, c)."""
        if hidden_state is None:
            h = c = self._zeros(inputs.shape[1], self.num_features)
        else:
            h, c = hidden_state
        outputs = []
        for x in self._images(inputs, seq_len, h.shape[0]):
            h, c = lstm(*self.conv(torch.cat([x, h], 1)).chunk(4, 1), c)
            outputs.append(h)
        return torch.stack(outputs), (h, c)


def make_layers(block: dict[str, list[int]]) -> nn.Sequential:
    """Convolutions by name, each followed by a leaky ReLU, as all names there say.

    Numbers are the channels in and out, the size, the stride and the padding.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, numbers in block.items():
        kind = nn.ConvTranspose2d if name.startswith("deconv") else nn.Conv2d
        layers[name] = kind(*numbers)
        layers[f"leaky_{name}"] = nn.LeakyReLU(0.2, inplace=True)
    return nn.Sequential(layers)


def over_frames(stage: nn.Module, frames: Tensor) -> Tensor:
    """The stage's results of `[T, B, C, H, W]`."""
    return stage(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class Encoder(nn.Module):
    """A stage and a layer, three times; frames have the batch first."""

    def __init__(self, subnets, rnns):
        super().__init__()
        self.blocks = len(subnets)
        for k, (block, rnn) in enumerate(zip(subnets, rnns, strict=True), 1):
            setattr(self, f"stage{k}", make_layers(block))
            setattr(self, f"rnn{k}", rnn)

    def forward(self, inputs):
        """The layers' last states."""
        frames, states = inputs.transpose(0, 1), []
        for k in range(1, self.blocks + 1):
            frames = over_frames(getattr(self, f"stage{k}"), frames)
            frames, state = getattr(self, f"rnn{k}")(frames, None)
            states.append(state)
        return tuple(states)


class Decoder(nn.Module):
    """A layer and a stage, three times, from the smallest image up."""

    def __init__(self, subnets, rnns):
        super().__init__()
        self.blocks = len(subnets)
        for k, (block, rnn) in enumerate(zip(subnets, rnns, strict=True)):
            setattr(self, f"rnn{self.blocks - k}", rnn)
            setattr(self, f"stage{self.blocks - k}", make_layers(block))

    def forward(self, hidden_states):
        """Ten frames."""
        frames = None
        for k in range(self.blocks, 0, -1):
            rnn, stage = getattr(self, f"rnn{k}"), getattr(self, f"stage{k}")
            frames, _ = rnn(frames, hidden_states[k - 1], seq_len=10)
            frames = over_frames(stage, frames)
        return frames.transpose(0, 1)


class ED(nn.Module):
    """Both."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, input):
        """Ten frames `[B, 10, 1, H, W]` to the ten that follow."""
        return self.decoder(self.encoder(input))


def network(
    kind: Any, image: int = 64, features: tuple[int, int, int] = (64, 96, 96)
) -> ED:
    """Its network for Moving MNIST, of CGRU_cell or CLSTM_cell."""
    a, b, c = features
    sizes = [image, image // 2, image // 4]

    def rnn(level: int, inputs: int) -> nn.Module:
        return kind((sizes[level],) * 2, inputs, 5, features[level])

    encoder = Encoder(
        [
            {"conv1_leaky_1": [1, 16, 3, 1, 1]},
            {"conv2_leaky_1": [a, a, 3, 2, 1]},
            {"conv3_leaky_1": [b, b, 3, 2, 1]},
        ],
        [rnn(0, 16), rnn(1, a), rnn(2, b)],
    )
    decoder = Decoder(
        [
            {"deconv1_leaky_1": [c, c, 4, 2, 1]},
            {"deconv2_leaky_1": [b, b, 4, 2, 1]},
            {"conv3_leaky_1": [a, 16, 3, 1, 1], "conv4_leaky_1": [16, 1, 1, 1, 0]},
        ],
        [rnn(2, c), rnn(1, c), rnn(0, b)],
    )
    return ED(encoder, decoder)
