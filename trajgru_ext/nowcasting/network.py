"""The network of the nowcaster: small enough to learn in minutes on a CPU."""

from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn import ConvGRU, ConvLSTM, EncoderForecaster, TrajGRU

PATCH = 4  # pixels along each side that the finer level takes together
DIVISOR = 2 * PATCH  # of height and width of the frames
CHANNELS = 32  # of the convolutions beside the finer level
FEATURES = (32, 48)  # of the states, the finer level first
SLOPE = 0.2  # of the leaky ReLUs, as in HKO-7


def network(
    model: str,
    steps: int,
    recompute: str = "none",
    *,
    channels: int = CHANNELS,
    features: tuple[int, int] = FEATURES,
) -> EncoderForecaster:
    """Make an encoder-forecaster of two levels, frames `[T, B, 1, H, W]`.

    Args:
        model: "traj_gru", "conv_gru" or "conv_lstm", the kind of its layers.
        steps: number of coming frames.
        recompute: "none" or "gates": whether to save memory.
        channels: of the convolutions beside the finer level.
        features: of the states, the finer level first.

    """

    def followed(module: nn.Module) -> nn.Module:
        return nn.Sequential(module, nn.LeakyReLU(SLOPE, inplace=True))

    def layer(inputs: int, features: int) -> nn.Module:
        if model == "traj_gru":
            return TrajGRU(
                inputs, features, links=5, flow_channels=16, recompute=recompute
            )
        if model == "conv_gru":
            return ConvGRU(
                inputs,
                features,
                kernel_size=5,
                recompute=recompute,
                activation="leaky_relu",
                negative_slope=SLOPE,
            )
        return ConvLSTM(inputs, features, kernel_size=5, recompute=recompute)

    patch = PATCH * PATCH
    fine, coarse = features
    first = followed(nn.Conv2d(patch, channels, 3, padding=1))
    head = nn.Sequential(
        followed(nn.Conv2d(fine, 2 * channels, 3, padding=1)),
        nn.Conv2d(2 * channels, patch, 3, padding=1),
        nn.PixelShuffle(PATCH),
    )
    return EncoderForecaster(
        down=[
            nn.Sequential(nn.PixelUnshuffle(PATCH), first),
            followed(nn.Conv2d(fine, coarse, 4, stride=2, padding=1)),
        ],
        encoder=[layer(channels, fine), layer(coarse, coarse)],
        forecaster=[layer(coarse, fine), layer(0, coarse)],
        up=[followed(nn.ConvTranspose2d(coarse, coarse, 4, stride=2, padding=1))],
        head=head,
        steps=steps,
        recompute=recompute != "none",
    )


@torch.no_grad()
def learned_flows(net: EncoderForecaster, past: Tensor) -> Tensor | None:
    """The flows of a TrajGRU network's finer level while it forecasts.

    Args:
        net: of `network`.
        past: frames `[T, B, 1, H, W]`.

    Returns:
        `[steps, B, links, 2, H/4, W/4]`, along x and y in pixels of the frames, along
        which the state moves; None where the layers are no TrajGRU.

    """
    layer = net.forecaster[0]
    if not isinstance(layer, TrajGRU):
        return None
    call: dict[str, Any] = {}

    def note(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        call.update(inputs=inputs, options=options)

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    net.forward(past)
    handle.remove()
    flows: Tensor = layer(*call["inputs"], **call["options"], return_flows=True)[2]
    pairs: Tensor = torch.unflatten(flows, 2, (-1, 2))
    return PATCH * pairs
