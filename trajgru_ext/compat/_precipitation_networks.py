"""Networks in stages, as Hzzone/Precipitation-Nowcasting has them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._frames import channels_last, on_frames

SLOPE = 0.2  # of leaky ReLUs


class activation:
    """An activation by name: "leaky" with a slope, "relu" or "sigmoid".

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import activation
        >>> activation("leaky", negative_slope=0.5)(torch.tensor([-2.0, 1.0]))
        tensor([-1.,  1.])

    """

    def __init__(
        self, act_type: str, negative_slope: float = SLOPE, inplace: bool = True
    ) -> None:
        if act_type not in ("leaky", "relu", "sigmoid"):
            raise ValueError(
                "activation: act_type must be one of 'leaky', 'relu', 'sigmoid', got "
                f"{act_type!r}"
            )
        self._act_type = act_type
        self.negative_slope = negative_slope
        self.inplace = inplace

    def __call__(self, input: Tensor) -> Tensor:
        """The activation of a tensor, in its place if so chosen."""
        if self._act_type == "sigmoid":
            return torch.sigmoid(input)
        if self._act_type == "relu":
            return nn.functional.relu(input, self.inplace)
        return nn.functional.leaky_relu(input, self.negative_slope, self.inplace)


def activation_options(act_type: Any) -> dict[str, Any]:
    """A TrajGRU's, of an `activation`, also the original's, or torch.tanh or relu."""
    functions = {torch.tanh: "tanh", torch.relu: "relu", nn.functional.relu: "relu"}
    names = {"leaky": "leaky_relu", "relu": "relu"}
    kind = getattr(act_type, "_act_type", act_type)
    if isinstance(kind, str) and kind in names:
        slope = act_type.negative_slope
        return {"activation": names[kind], "negative_slope": slope}
    if callable(kind) and kind in functions:
        return {"activation": functions[kind]}
    raise ValueError(
        "TrajGRU: act_type must be an activation 'leaky' or 'relu', torch.tanh or "
        f"torch.relu, got {kind!r}"
    )


class Stage(nn.Sequential):
    """Convolutions of frames, which are faster with the channels of a pixel together.

    With `recompute` other than "none" the backward pass computes them again, a few
    frames at a time, and only what they are made of is kept. `make_layers` makes one.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import Stage
        >>> stage = Stage(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
        >>> stage.recompute = "gates"
        >>> stage(torch.randn(6, 1, 8, 8)).shape
        torch.Size([6, 4, 8, 8])

    """

    recompute = "none"

    def forward(self, input: Tensor) -> Tensor:
        """From images `[N, C, H, W]` those of the last layer, channels last."""
        again = self.recompute != "none"
        return on_frames(super().forward, channels_last(input), again)


def make_layers(block: Mapping[str, Sequence[int]]) -> Stage:
    """Layers by name, as "conv1_leaky_1": [in, out, kernel, stride, padding].

    A name has "pool" ([kernel, stride, padding]), "deconv" or "conv" in it, and of
    those "relu" or "leaky" where an activation follows.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import make_layers
        >>> layers = make_layers({"conv1_leaky_1": [1, 8, 7, 5, 1]})
        >>> layers(torch.randn(2, 1, 48, 48)).shape
        torch.Size([2, 8, 9, 9])

    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, sizes in block.items():
        if "pool" in name:
            kernel, stride, padding = sizes
            layers[name] = nn.MaxPool2d(kernel, stride, padding)
            continue
        if "conv" not in name:
            raise ValueError(
                "make_layers: a name must have 'pool', 'deconv' or 'conv' in it, got "
                f"{name!r}"
            )
        kind: Any = nn.ConvTranspose2d if "deconv" in name else nn.Conv2d
        layers[name] = kind(*sizes)
        if "relu" in name:
            layers[f"relu_{name}"] = nn.ReLU(inplace=True)
        elif "leaky" in name:
            layers[f"leaky_{name}"] = nn.LeakyReLU(SLOPE, inplace=True)
    return Stage(layers)


def _each_frame(subnet: nn.Module, frames: Tensor) -> Tensor:
    images = subnet(frames.flatten(0, 1))
    return torch.unflatten(images, 0, frames.shape[:2])


class Encoder(nn.Module):
    """Stages of convolutions and a recurrent layer each, `stage1`, `rnn1` and so on.

    Args:
        subnets: for every stage what `make_layers` takes.
        rnns: its recurrent layer.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import Encoder, TrajGRU
        >>> encoder = Encoder(
        ...     [{"conv1_leaky_1": [1, 8, 3, 2, 1]}], [TrajGRU(8, 16, (2, 16, 16))]
        ... )
        >>> (state,) = encoder(torch.randn(3, 2, 1, 32, 32))
        >>> state.shape
        torch.Size([2, 16, 16, 16])

    """

    def __init__(
        self, subnets: Sequence[Mapping[str, Sequence[int]]], rnns: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.blocks = len(subnets)
        pairs = zip(subnets, rnns, strict=True)
        for number, (subnet, rnn) in enumerate(pairs, start=1):
            self.add_module(f"stage{number}", make_layers(subnet))
            self.add_module(f"rnn{number}", rnn)

    def forward(self, input: Tensor) -> tuple[Any, ...]:
        """From frames `[S, B, C, H, W]` the last state of every stage."""
        states = []
        for number in range(1, self.blocks + 1):
            input = _each_frame(getattr(self, f"stage{number}"), input)
            input, state = getattr(self, f"rnn{number}")(input, None)
            states.append(state)
        return tuple(states)


class Forecaster(nn.Module):
    """The stages in reverse: a recurrent layer, then deconvolutions.

    The first recurrent layer has no inputs, and its parameters for them, which the
    original's checkpoints hold, get no gradient: DistributedDataParallel needs
    `find_unused_parameters=True`.

    Args:
        subnets: for every stage, the deepest first, what `make_layers` takes.
        rnns: its recurrent layer.
        seq_len: how many frames are made.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import Forecaster, TrajGRU
        >>> forecaster = Forecaster(
        ...     [{"deconv1_leaky_1": [16, 8, 4, 2, 1], "conv1_2": [8, 1, 1, 1, 0]}],
        ...     [TrajGRU(16, 16, (2, 16, 16))],
        ...     seq_len=4,
        ... )
        >>> forecaster([torch.zeros(2, 16, 16, 16)]).shape
        torch.Size([4, 2, 1, 32, 32])

    """

    def __init__(
        self,
        subnets: Sequence[Mapping[str, Sequence[int]]],
        rnns: Sequence[nn.Module],
        seq_len: int = 20,
    ) -> None:
        super().__init__()
        self.blocks = len(subnets)
        self.seq_len = seq_len
        pairs = zip(subnets, rnns, strict=True)
        for index, (subnet, rnn) in enumerate(pairs):
            self.add_module(f"rnn{self.blocks - index}", rnn)
            self.add_module(f"stage{self.blocks - index}", make_layers(subnet))

    def forward(self, hidden_states: Sequence[Any]) -> Tensor:
        """From the states of an `Encoder` the frames `[S, B, C, H, W]`."""
        frames: Any = None
        for number in range(self.blocks, 0, -1):
            rnn, stage = getattr(self, f"rnn{number}"), getattr(self, f"stage{number}")
            frames, _ = rnn(frames, hidden_states[number - 1], seq_len=self.seq_len)
            frames = _each_frame(stage, frames)
        images: Tensor = frames
        return images


class EF(nn.Module):
    """An encoder and a forecaster: frames to frames.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import (
        ...     EF, Encoder, Forecaster, TrajGRU
        ... )
        >>> encoder = Encoder(
        ...     [{"conv1_leaky_1": [1, 8, 3, 2, 1]}], [TrajGRU(8, 16, (2, 16, 16))]
        ... )
        >>> forecaster = Forecaster(
        ...     [{"deconv1_leaky_1": [16, 8, 4, 2, 1], "conv1_2": [8, 1, 1, 1, 0]}],
        ...     [TrajGRU(16, 16, (2, 16, 16))],
        ...     seq_len=4,
        ... )
        >>> EF(encoder, forecaster)(torch.randn(3, 2, 1, 32, 32)).shape
        torch.Size([4, 2, 1, 32, 32])

    """

    def __init__(self, encoder: Encoder, forecaster: Forecaster) -> None:
        super().__init__()
        self.encoder = encoder
        self.forecaster = forecaster

    def forward(self, input: Tensor) -> Tensor:
        """From frames `[S, B, C, H, W]` those that follow."""
        frames: Tensor = self.forecaster(self.encoder(input))
        return frames
