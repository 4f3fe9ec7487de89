"""OpenSTL: its ConvLSTM, and what its recurrent models share.

Cells are made of convolutions without bias, of x, of h and of other states, each with a
layer norm after it where `layer_norm` says so. A model is a column of cells and a 1 x 1
convolution of the last one's h to the next frame. `ports.predrnn` and `ports.mim` have
the others.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ports.updates import lstm


def add_convolutions(
    cell: Any,
    channels: dict[str, tuple[int, int]],
    image: tuple[int, int],
    settings: tuple[int, int, bool],
) -> None:
    """Give a cell convolutions by name, and `conv_last`.

    Args:
        cell: knows its `num_hidden`, and gets a `padding`.
        channels: each convolution's channels in and out.
        image: the height and width that a layer norm takes.
        settings: the filters' size, the stride, and whether there are layer norms.

    """
    filter_size, stride, layer_norm = settings
    cell.padding = filter_size // 2
    cell._forget_bias = 1.0
    for name, (inputs, outputs) in channels.items():
        sizes = filter_size, stride, cell.padding
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, *sizes, bias=False)]
        if layer_norm:
            layers.append(nn.LayerNorm([outputs, *image]))
        setattr(cell, name, nn.Sequential(*layers))
    cell.conv_last = nn.Conv2d(2 * cell.num_hidden, cell.num_hidden, 1, bias=False)


class ConvLSTMCell(nn.Module):
    """One step; `conv_o` and `conv_last` are made and not used, as there."""

    def __init__(
        self, in_channel, num_hidden, height, width, filter_size, stride, layer_norm
    ):
        super().__init__()
        self.num_hidden = num_hidden
        channels = {
            "conv_x": (in_channel, 4 * num_hidden),
            "conv_h": (num_hidden, 4 * num_hidden),
            "conv_o": (2 * num_hidden, num_hidden),
        }
        settings = filter_size, stride, layer_norm
        add_convolutions(self, channels, (height, width), settings)

    def forward(self, x_t, h_t, c_t):
        """The new (h, c)."""
        i, f, g, o = (self.conv_x(x_t) + self.conv_h(h_t)).chunk(4, 1)
        return lstm(i, f, g, o, c_t)


def moving_mnist(**changes: Any) -> SimpleNamespace:
    """What the models read of OpenSTL's configuration for Moving MNIST."""
    values = {
        "in_shape": (10, 1, 64, 64),
        "patch_size": 4,
        "filter_size": 5,
        "stride": 1,
        "layer_norm": 0,
        "pre_seq_length": 10,
        "aft_seq_length": 10,
        "total_length": 20,
        "reverse_scheduled_sampling": 0,
        "decouple_beta": 0.1,
    }
    return SimpleNamespace(**values | changes)


class Model(nn.Module):
    """From frames, of which some are known, to the frame that follows each.

    States start from 0, in the dtype of the frames, where OpenSTL's are of the default
    dtype.
    """

    def __init__(self, num_layers, num_hidden, configs, **kwargs):
        super().__init__()
        _, channels, *image = configs.in_shape
        patch = configs.patch_size
        self.configs = configs
        self.frame_channel = patch**2 * channels
        self.num_layers = num_layers
        self.num_hidden = num_hidden
        self.MSE_criterion = nn.MSELoss()
        options = configs.filter_size, configs.stride, configs.layer_norm
        settings = *(size // patch for size in image), *options
        self.add_layers([self.frame_channel, *num_hidden], settings)
        sizes = num_hidden[num_layers - 1], self.frame_channel, 1
        self.conv_last = nn.Conv2d(*sizes, bias=False)

    def column(self, kind: Any, channels: list[int], settings: tuple) -> nn.ModuleList:
        """A cell a layer; the first takes the frames."""
        return nn.ModuleList(
            kind(channels[k], channels[k + 1], *settings)
            for k in range(self.num_layers)
        )

    def add_layers(self, channels: list[int], settings: tuple) -> None:
        """Make the cells; their channels are those of the frames and of every layer."""
        raise NotImplementedError

    def step(self, net: Tensor, state: SimpleNamespace) -> Tensor:
        """The last cell's h, from a frame and the states, which become the new."""
        raise NotImplementedError

    def loss(
        self, next_frames: Tensor, wanted: Tensor, state: SimpleNamespace
    ) -> Tensor:
        """The mean squared error."""
        return self.MSE_criterion(next_frames, wanted)

    def forward(self, frames_tensor, mask_true, **kwargs):
        """All frames but the first, forecast, and the loss unless `return_loss=False`.

        Args:
            frames_tensor: `[B, T, H, W, C]`.
            mask_true: 1 where a frame is known and 0 where the forecast stands for it,
                from the second frame on with `reverse_scheduled_sampling`, otherwise
                from the first that is to be forecast.
            kwargs: `return_loss`.

        """
        frames, masks = (
            images.permute(0, 1, 4, 2, 3).contiguous()
            for images in (frames_tensor, mask_true)
        )
        batch, _, _, *image = frames.shape
        zeros = [frames.new_zeros(batch, n, *image) for n in self.num_hidden]
        state = SimpleNamespace(
            t=0,
            h=list(zeros),
            c=list(zeros),
            memory=zeros[0],
            return_loss=kwargs.get("return_loss", True),
        )
        configs = self.configs
        steps = configs.pre_seq_length + configs.aft_seq_length - 1
        reverse = configs.reverse_scheduled_sampling == 1
        known = 1 if reverse else configs.pre_seq_length
        forecast: list[Tensor] = []
        for t in range(steps):
            net, state.t = frames[:, t], t
            if t >= known:
                mask = masks[:, t - known]
                net = mask * net + (1 - mask) * forecast[-1]
            forecast.append(self.conv_last(self.step(net, state)))
        next_frames = torch.stack(forecast).permute(1, 0, 3, 4, 2).contiguous()
        if not state.return_loss:
            return next_frames, None
        return next_frames, self.loss(next_frames, frames_tensor[:, 1:], state)


class ConvLSTM_Model(Model):
    """Cells that each take the h of the one before."""

    def add_layers(self, channels, settings):
        """One column."""
        self.cell_list = self.column(ConvLSTMCell, channels, settings)

    def step(self, net, state):
        """Layer by layer."""
        for k, cell in enumerate(self.cell_list):
            state.h[k], state.c[k] = cell(net, state.h[k], state.c[k])
            net = state.h[k]
        return net
