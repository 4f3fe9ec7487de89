"""Networks of published papers, as configurations of `EncoderForecaster`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from trajgru_ext.nn._recurrent import check_positive
from trajgru_ext.nn.conv_gru import ConvGRU
from trajgru_ext.nn.conv_lstm import ConvLSTM
from trajgru_ext.nn.encoder_forecaster import EncoderForecaster
from trajgru_ext.nn.traj_gru import TrajGRU

_SLOPE = 0.2  # of every leaky ReLU in HKO-7
_PATCH = 4  # pixels along each side that ConvLSTM's network takes together

Kernel = tuple[int, int, int]  # size, stride, padding
Channels = int | tuple[int, int]  # of the frames; where they differ, in and out
Layer = Callable[[int, int, int], nn.Module]  # of level, channels of inputs and state


class _Sizes(NamedTuple):
    """The sizes of one of HKO-7's networks."""

    channels: int  # of the first convolution, and the last ones
    first: Kernel  # of the first convolution and the last deconvolution
    features: tuple[int, ...]  # of the states
    down: tuple[Kernel, ...]  # between the levels
    up: tuple[Kernel, ...]


_HKO7 = _Sizes(
    channels=8,
    first=(7, 5, 1),
    features=(64, 192, 192),
    down=((5, 3, 1), (3, 2, 1)),
    up=((5, 3, 1), (4, 2, 1)),
)
_MOVING_MNIST = _Sizes(
    channels=16,
    first=(3, 1, 1),
    features=(64, 96, 96),
    down=((3, 2, 1), (3, 2, 1)),
    up=((4, 2, 1), (4, 2, 1)),
)


def hko7_traj_gru(
    *,
    steps: int = 20,
    recompute: str = "none",
    coordinates: bool = False,
    batch_first: bool = False,
    image_channels: Channels = 1,
) -> EncoderForecaster:
    """The TrajGRU network for radar frames of Hong Kong.

    It makes 20 frames `[steps, B, 1, 480, 480]` of 5. The states have 64, 192 and 192
    channels at 96, 32 and 16 pixels a side, and 13, 13 and 9 links, in both halves; it
    has 12,148,877 parameters. Other sizes run where every stride divides them, as
    multiples of 30.

    Args:
        steps: how many frames are made.
        recompute: "none", "gates" or "flows"; see `TrajGRU`. With the latter two, the
            convolutions between the layers are computed again too.
        coordinates: as of `EncoderForecaster`, with 1,176 parameters more; what HKO-7's
            own code does, and its checkpoints need.
        batch_first: as of `EncoderForecaster`.
        image_channels: of the frames, or a pair where those that it reads have others
            than those that it makes. The numbers above are with 1.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7's configuration
    trajgru_55_55_33_1_64_1_192_1_192_13_13_9_b4.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import hko7_traj_gru
        >>> hko7_traj_gru(steps=2)(torch.rand(1, 1, 1, 60, 60)).shape
        torch.Size([2, 1, 1, 60, 60])

    """

    def layer(level: int, inputs: int, features: int) -> nn.Module:
        links = (13, 13, 9)[level]
        return TrajGRU(inputs, features, links, recompute=recompute)

    frames = _in_and_out("hko7_traj_gru", image_channels)
    return _network(_HKO7, layer, frames, recompute, coordinates, steps, batch_first)


def hko7_conv_gru(
    *,
    steps: int = 20,
    recompute: str = "none",
    coordinates: bool = False,
    batch_first: bool = False,
    image_channels: Channels = 1,
) -> EncoderForecaster:
    """The ConvGRU network for radar frames of Hong Kong.

    As `hko7_traj_gru`, with kernels of 5, 5 and 3 pixels for the states and of 3 for
    what the layers read; it has 13,647,905 parameters.

    Args:
        steps: how many frames are made.
        recompute: "none" or "gates"; see `ConvGRU`. With "gates", the convolutions
            between the layers are computed again too.
        coordinates: as of `hko7_traj_gru`.
        batch_first: as of `EncoderForecaster`.
        image_channels: as of `hko7_traj_gru`.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7's configuration
    convgru_55_55_33_1_64_1_192_1_192_b4.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import hko7_conv_gru
        >>> hko7_conv_gru(steps=2)(torch.rand(1, 1, 1, 60, 60)).shape
        torch.Size([2, 1, 1, 60, 60])

    """

    def layer(level: int, inputs: int, features: int) -> nn.Module:
        return _conv_gru(inputs, features, (5, 5, 3)[level], 1, recompute)

    frames = _in_and_out("hko7_conv_gru", image_channels)
    return _network(_HKO7, layer, frames, recompute, coordinates, steps, batch_first)


def moving_mnist_traj_gru(
    links: int = 13,
    *,
    steps: int = 10,
    recompute: str = "none",
    coordinates: bool = False,
    batch_first: bool = False,
    image_channels: Channels = 1,
) -> EncoderForecaster:
    """The TrajGRU network for MovingMNIST++.

    It makes 10 frames `[steps, B, 1, 64, 64]` of 10. The states have 64, 96 and 96
    channels at 64, 32 and 16 pixels a side; it has 2,841,725 parameters with 5 links,
    3,420,845 with 9, 3,999,965 with 13 and 4,579,085 with 17. Other sizes that are
    multiples of 4 run too.

    Args:
        links: of all layers.
        steps: how many frames are made.
        recompute: "none", "gates" or "flows"; see `TrajGRU`. With the latter two, the
            convolutions between the layers are computed again too.
        coordinates: as of `EncoderForecaster`, with 432 parameters more; what HKO-7's
            own code does, and its checkpoints need.
        batch_first: as of `EncoderForecaster`.
        image_channels: of the frames, or a pair where those that it reads have others
            than those that it makes. The numbers above are with 1.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7's configurations
    trajgru_1_64_1_96_1_96_L5, _L9, _L13 and _L17.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import moving_mnist_traj_gru
        >>> net = moving_mnist_traj_gru(links=5, steps=3)
        >>> states = net.encode(torch.rand(2, 1, 1, 32, 32))
        >>> net.forecast(states, steps=4).shape
        torch.Size([4, 1, 1, 32, 32])

    """

    def layer(level: int, inputs: int, features: int) -> nn.Module:
        return TrajGRU(inputs, features, links, recompute=recompute)

    frames = _in_and_out("moving_mnist_traj_gru", image_channels)
    return _network(
        _MOVING_MNIST, layer, frames, recompute, coordinates, steps, batch_first
    )


def moving_mnist_conv_gru(
    kernel_size: int = 5,
    dilation: int = 1,
    *,
    steps: int = 10,
    recompute: str = "none",
    coordinates: bool = False,
    batch_first: bool = False,
    image_channels: Channels = 1,
) -> EncoderForecaster:
    """The ConvGRU network for MovingMNIST++.

    As `moving_mnist_traj_gru`; the paper has kernels of 5 and 7 pixels, and of 3 with a
    dilation of 2. With 5 there are 4,767,073 parameters.

    Args:
        kernel_size: of the states' convolutions; the inputs' have 3 pixels.
        dilation: of the states' convolutions.
        steps: how many frames are made.
        recompute: "none" or "gates"; see `ConvGRU`. With "gates", the convolutions
            between the layers are computed again too.
        coordinates: as of `moving_mnist_traj_gru`.
        batch_first: as of `EncoderForecaster`.
        image_channels: as of `moving_mnist_traj_gru`.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7's configurations
    convgru_1_64_1_96_1_96_K5, _K7 and _K3D2.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import moving_mnist_conv_gru
        >>> moving_mnist_conv_gru(steps=2)(torch.rand(2, 1, 1, 32, 32)).shape
        torch.Size([2, 1, 1, 32, 32])

    """

    def layer(level: int, inputs: int, features: int) -> nn.Module:
        return _conv_gru(inputs, features, kernel_size, dilation, recompute)

    frames = _in_and_out("moving_mnist_conv_gru", image_channels)
    return _network(
        _MOVING_MNIST, layer, frames, recompute, coordinates, steps, batch_first
    )


def conv_lstm_forecaster(
    features: Sequence[int] = (128, 64, 64),
    *,
    steps: int = 10,
    recompute: str = "none",
    batch_first: bool = False,
    image_channels: Channels = 1,
) -> EncoderForecaster:
    """The ConvLSTM network for Moving MNIST.

    It makes 10 frames `[steps, B, 1, 64, 64]` of 10, or of any size that is a multiple
    of 4. All levels see 16x16 patches of 4x4 pixels, through kernels of 5 patches and
    with peepholes per channel; a 1x1 convolution of all the forecaster's states makes
    the frames. The paper's loss is a cross-entropy, of which these are the logits.

    Args:
        features: channels of the states of every level. The paper has (256,),
            13,524,496 parameters; (128, 128), 10,042,896; (128, 64, 64), 7,585,296.
        steps: how many frames are made.
        recompute: "none" or "gates"; see `ConvLSTM`. With "gates", the convolutions
            between the layers are computed again too.
        batch_first: as of `EncoderForecaster`.
        image_channels: of the frames, or a pair where those that it reads have others
            than those that it makes. The numbers above are with 1.

    Source: Shi et al. 2015 (arXiv 1506.04214), table 1.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import conv_lstm_forecaster
        >>> conv_lstm_forecaster((16, 8), steps=2)(torch.rand(2, 1, 1, 32, 32)).shape
        torch.Size([2, 1, 1, 32, 32])

    """
    if not isinstance(features, Sequence):
        got = type(features).__name__
        raise TypeError(f"conv_lstm_forecaster: features must be a list, got {got}")
    name = "conv_lstm_forecaster"
    counts = {f"features[{k}]": count for k, count in enumerate(features)}
    _, *features = check_positive(name, **{"len(features)": len(features)}, **counts)
    read, made = _in_and_out(name, image_channels)

    def layers(inputs: list[int]) -> list[nn.Module]:
        return [
            ConvLSTM(*pair, kernel_size=5, peephole="channel", recompute=recompute)
            for pair in zip(inputs, features, strict=True)
        ]

    def between() -> list[nn.Module]:
        return [nn.Identity() for _ in features[1:]]

    pixels = _PATCH * _PATCH
    return EncoderForecaster(
        [nn.PixelUnshuffle(_PATCH), *between()],
        layers([read * pixels, *features[:-1]]),
        layers([*features[1:], 0]),
        between(),
        nn.Sequential(
            nn.Conv2d(sum(features), made * pixels, 1), nn.PixelShuffle(_PATCH)
        ),
        steps=steps,
        join=True,
        recompute=recompute != "none",
        batch_first=batch_first,
    )


def _conv_gru(
    inputs: int, features: int, kernel_size: int, dilation: int, recompute: str
) -> ConvGRU:
    return ConvGRU(
        inputs,
        features,
        kernel_size,
        input_kernel_size=3,
        dilation=dilation,
        activation="leaky_relu",
        negative_slope=_SLOPE,
        recompute=recompute,
    )


def _in_and_out(name: str, channels: Channels) -> tuple[int, int]:
    """Channels of the frames that a network reads, and of those that it makes."""
    pair = channels if isinstance(channels, (list, tuple)) else (channels, channels)
    if len(pair) != 2:
        raise ValueError(
            f"{name}: image_channels must be a number or a pair, got {channels!r}"
        )
    counts = {f"image_channels[{k}]": count for k, count in enumerate(pair)}
    read, made = check_positive(name, **counts)
    return read, made


def _network(
    sizes: _Sizes,
    layer: Layer,
    image_channels: tuple[int, int],
    recompute: str,
    coordinates: bool,
    steps: int,
    batch_first: bool,
) -> EncoderForecaster:
    """HKO-7's network of these sizes; its deconvolutions have no biases."""
    channels, first, features = sizes[:3]
    read, made = image_channels
    of_frames = read + (3 if coordinates else 0)
    down: list[nn.Module] = [_followed(nn.Conv2d(of_frames, channels, *first))]
    encoder = [layer(0, channels, features[0])]
    forecaster: list[nn.Module] = []
    up: list[nn.Module] = []
    for level, coarse in enumerate(features[1:]):
        fine = features[level]
        down.append(_followed(nn.Conv2d(fine, coarse, *sizes.down[level])))
        encoder.append(layer(level + 1, coarse, coarse))
        deconvolution = nn.ConvTranspose2d(coarse, coarse, *sizes.up[level], bias=False)
        up.append(_followed(deconvolution))
        forecaster.append(layer(level, coarse, fine))
    forecaster.append(layer(len(features) - 1, 0, features[-1]))
    head = nn.Sequential(
        *_followed(nn.ConvTranspose2d(features[0], channels, *first, bias=False)),
        *_followed(nn.Conv2d(channels, channels, 3, padding=1)),
        nn.Conv2d(channels, made, 1),
    )
    return EncoderForecaster(
        down,
        encoder,
        forecaster,
        up,
        head,
        recompute=recompute != "none",
        coordinates=coordinates,
        steps=steps,
        batch_first=batch_first,
    )


def _followed(convolution: nn.Module) -> nn.Sequential:
    """The convolution and its activation."""
    return nn.Sequential(convolution, nn.LeakyReLU(_SLOPE, inplace=True))
