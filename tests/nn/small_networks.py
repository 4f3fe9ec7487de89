"""Networks of all three kinds, small enough to be compiled and run in processes."""

import pytest
import torch
from torch import nn

from trajgru_ext.nn import ConvGRU, ConvLSTM, EncoderForecaster, TrajGRU

KINDS = ["traj_gru", "conv_gru", "conv_lstm"]
SMALL = pytest.mark.parametrize("kind", KINDS)


def sample_frames(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator, dtype=dtype)


def moving(net):
    """With flows and peepholes that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return net


def make_small(kind, recompute="none", levels=2, **options):
    """A network for frames of two channels, its second level at half the size."""
    torch.manual_seed(0)

    def layer(*sizes):
        more = {"dtype": torch.float64, "recompute": recompute}
        if kind == "traj_gru":
            return TrajGRU(*sizes, 2, flow_channels=4, **more)
        return {"conv_gru": ConvGRU, "conv_lstm": ConvLSTM}[kind](*sizes, **more)

    channels = 5 if options.get("coordinates") else 2
    net = EncoderForecaster(
        [nn.Conv2d(channels, 3, 3, padding=1), nn.Conv2d(4, 3, 3, 2, 1)][:levels],
        [layer(3, 4), layer(3, 5)][:levels],
        [layer(3, 4), layer(0, 5)] if levels == 2 else [layer(0, 4)],
        [nn.ConvTranspose2d(5, 3, 4, 2, 1)][: levels - 1],
        nn.Conv2d(4, 2, 1),
        steps=3,
        **options,
    )
    return moving(net.double())
