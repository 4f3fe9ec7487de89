"""TrajGRU, ConvLSTM and their networks as Hzzone/Precipitation-Nowcasting has them.

Devices and dtypes follow the inputs, images may have any size, and numbers of frames
are those of the inputs, where the original has a global configuration.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn import TrajGRU as _TrajGRU
from trajgru_ext.ops import conv_lstm, flow_warp
from trajgru_ext.ops.traj_gru import Conv as _Conv

_FRAMES = 5  # without inputs or a number
_SLOPE = 0.2

BatchHeightWidth = tuple[int, int, int]


def wrap(input: Tensor, flow: Tensor) -> Tensor:
    """Read the input `[B, C, H, W]` at every pixel moved by the flow `[B, 2, H, W]`.

    See `trajgru_ext.flow_warp`, which it is: a flow of 0 changes nothing, and what lies
    outside is 0 up to the border, both unlike the original.
    """
    return flow_warp(input, flow)


class activation:
    """The choice of an activation: "leaky" with a slope, "relu" or "tanh".

    The original's "sigmoid" is refused.
    """

    def __init__(
        self, act_type: str, negative_slope: float = _SLOPE, inplace: bool = True
    ) -> None:
        names = {"leaky": "leaky_relu", "relu": "relu", "tanh": "tanh"}
        if act_type not in names:
            listed = ", ".join(map(repr, names))
            raise ValueError(
                f"activation: act_type must be one of {listed}, got {act_type!r}"
            )
        self.name = names[act_type]
        self.negative_slope = negative_slope
        self.inplace = inplace


class TrajGRU(_TrajGRU):
    """The TrajGRU layer.

    Args:
        input_channel: channels of the inputs.
        num_filter: channels of the state.
        b_h_w: batch, height and width of the state of 0 where neither inputs nor states
            are given; otherwise without effect.
        zoneout: the probability that an element of the state keeps its old value while
            training; the original fails above 0.
        L: the number of links.
        i2h_kernel, i2h_stride, i2h_pad: of the inputs' convolution, which must keep the
            size of the image.
        h2h_kernel, h2h_dilate: without effect, as in the original.
        act_type: an `activation`.
        align_corners: what the original leaves to `grid_sample`, whose default changed
            with torch 1.3. True is the warp of the paper. False is for models trained
            with a newer torch: those read at `(x - U) W / (W - 1) - 1/2` along the
            width, and so along the height.

    """

    def __init__(
        self,
        input_channel: int,
        num_filter: int,
        b_h_w: BatchHeightWidth | None,
        zoneout: float = 0.0,
        L: int = 5,
        i2h_kernel: tuple[int, int] = (3, 3),
        i2h_stride: tuple[int, int] = (1, 1),
        i2h_pad: tuple[int, int] = (1, 1),
        h2h_kernel: tuple[int, int] = (5, 5),
        h2h_dilate: tuple[int, int] = (1, 1),
        act_type: activation | None = None,
        align_corners: bool = True,
    ) -> None:
        size = i2h_kernel[0]
        wanted = ((size, size), (1, 1), (size // 2, size // 2))
        given = tuple(tuple(one) for one in (i2h_kernel, i2h_stride, i2h_pad))
        if given != wanted or size % 2 == 0:
            raise ValueError(
                "TrajGRU: i2h_kernel must be odd and square, with i2h_stride (1, 1) "
                f"and the i2h_pad that keeps the size, got {i2h_kernel}, {i2h_stride}, "
                f"{i2h_pad}"
            )
        act = activation("leaky") if act_type is None else act_type
        super().__init__(
            input_channel,
            num_filter,
            L,
            kernel_size=size,
            activation=act.name,
            negative_slope=act.negative_slope,
            zoneout=zoneout,
            zero_flows=False,
        )
        self.b_h_w = b_h_w
        self.align_corners = align_corners

    def _to_flows(self, images: Tensor | None) -> tuple[_Conv, Tensor | None]:
        (weight, bias), _ = super()._to_flows(images)
        if self.align_corners or images is None or images.dim() < 2:
            return (weight, bias), None
        # Read at x - s u - (1 - s) x - 1/2, with s = W / (W - 1), and so for y.
        height, width = images.shape[-2:]
        scales, offsets = [], []
        for axis, size in ((-1, width), (-2, height)):
            scales.append(size / max(size - 1, 1))
            dtype = torch.promote_types(weight.dtype, torch.float32)
            places = torch.arange(size, device=weight.device, dtype=dtype)
            offset = (1 - scales[-1]) * places + 0.5
            offset = offset if axis == -1 else offset[:, None]
            offsets.append(offset.expand(height, width))
        scale = weight.new_tensor(scales * self.links)
        flows_conv = weight * scale[:, None, None, None], bias * scale
        return flows_conv, torch.stack(offsets * self.links)

    def forward(
        self,
        inputs: Tensor | None = None,
        states: Tensor | None = None,
        seq_len: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            inputs: `[S, B, C, H, W]`, or None.
            states: the state to begin with, `[B, F, H, W]`, or None for 0.
            seq_len: S; may be left out with inputs. Without them it is 5.

        Returns:
            The states after every step `[S, B, F, H, W]`, and the last.

        Raises:
            TypeError, ValueError: as `trajgru_ext.traj_gru`.

        """
        steps = number_of_frames("TrajGRU", inputs, seq_len)
        if inputs is None and states is None:
            weight = self.h2f_conv1.weight
            states = zero_state("TrajGRU", self.b_h_w, self.hidden_channels, weight)
        return super().forward(inputs, states, steps)


class ConvLSTM(nn.Module):
    """The ConvLSTM layer, with peepholes per element.

    Args:
        input_channel: channels of the inputs.
        num_filter: channels of the states.
        b_h_w: batch, height and width; the peepholes have that height and width, the
            states of 0 all three where neither inputs nor states are given.
        kernel_size: of the convolution, odd.
        stride: 1.
        padding: half the kernel, which keeps the size.

    The original moves its peepholes to a device so that they are no parameters and not
    in its checkpoints; here they are. `recompute`, "none" or "gates", is that of
    `conv_lstm`.

    """

    recompute = "none"

    def __init__(
        self,
        input_channel: int,
        num_filter: int,
        b_h_w: BatchHeightWidth,
        kernel_size: int,
        stride: int = 1,
        padding: int = 1,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0 or (stride, padding) != (1, kernel_size // 2):
            raise ValueError(
                "ConvLSTM: kernel_size must be odd, with stride 1 and the padding that "
                f"keeps the size, got {kernel_size}, {stride}, {padding}"
            )
        _, height, width = b_h_w
        channels = input_channel + num_filter
        options = {"stride": stride, "padding": padding}
        self._conv = nn.Conv2d(channels, 4 * num_filter, kernel_size, **options)
        for name in ("Wci", "Wcf", "Wco"):
            zeros = torch.zeros(1, num_filter, height, width)
            self.register_parameter(name, nn.Parameter(zeros))
        self.b_h_w = b_h_w
        self._input_channel = input_channel
        self._num_filter = num_filter

    def forward(
        self,
        inputs: Tensor | None = None,
        states: tuple[Tensor, Tensor] | None = None,
        seq_len: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer.

        Args:
            inputs: `[S, B, C, H, W]`, or None for 0.
            states: (h, c) to begin with, both `[B, F, H, W]`, or None for 0.
            seq_len: S; may be left out with inputs. Without them it is 5.

        Returns:
            The states h after every step `[S, B, F, H, W]`, and the last (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        steps = number_of_frames("ConvLSTM", inputs, seq_len)
        weight = self._conv.weight
        h, c = (None, None) if states is None else states
        if inputs is None and h is None:
            h = zero_state("ConvLSTM", self.b_h_w, self._num_filter, weight)
        of_x, of_h = weight.split([self._input_channel, self._num_filter], 1)
        peephole = (self.Wci, self.Wcf, self.Wco)
        options = {"peephole": peephole, "order": "ifgo", "steps": steps}
        options["recompute"] = self.recompute
        outputs, c = conv_lstm(
            inputs, h, c, of_x, of_h, h_bias=self._conv.bias, **options
        )
        return outputs, (outputs[-1].clone(), c)


def number_of_frames(kind: str, inputs: Tensor | None, seq_len: int | None) -> int:
    """S: of the inputs, with which the number must agree, else the number, else 5."""
    if inputs is None:
        return _FRAMES if seq_len is None else seq_len
    if seq_len is not None and seq_len != inputs.shape[0]:
        raise ValueError(
            f"{kind}: seq_len must be the number of frames, {inputs.shape[0]}, or be "
            f"left out, got {seq_len}"
        )
    return inputs.shape[0]


def zero_state(
    kind: str, b_h_w: BatchHeightWidth | None, channels: int, like: Tensor
) -> Tensor:
    """A state of 0 in the size that the layer was made with."""
    if b_h_w is None:
        raise ValueError(
            f"{kind}: inputs or states must be given, or b_h_w, got None for all"
        )
    batch, height, width = b_h_w
    return like.new_zeros(batch, channels, height, width)


def make_layers(block: Mapping[str, Sequence[int]]) -> nn.Sequential:
    """Layers by name, as "conv1_leaky_1": [in, out, kernel, stride, padding].

    A name has "pool" ([kernel, stride, padding]), "deconv" or "conv" in it, and of
    those "relu" or "leaky" where an activation follows.
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
        kind = nn.ConvTranspose2d if "deconv" in name else nn.Conv2d
        layers[name] = kind(*sizes)
        if "relu" in name:
            layers[f"relu_{name}"] = nn.ReLU(inplace=True)
        elif "leaky" in name:
            layers[f"leaky_{name}"] = nn.LeakyReLU(_SLOPE, inplace=True)
    return nn.Sequential(layers)


def _each_frame(subnet: nn.Module, frames: Tensor) -> Tensor:
    return subnet(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


class Encoder(nn.Module):
    """Stages of convolutions and a recurrent layer each, `stage1`, `rnn1` and so on.

    Args:
        subnets: for every stage what `make_layers` takes.
        rnns: its recurrent layer.

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
        frames = None
        for number in range(self.blocks, 0, -1):
            rnn, stage = getattr(self, f"rnn{number}"), getattr(self, f"stage{number}")
            frames, _ = rnn(frames, hidden_states[number - 1], seq_len=self.seq_len)
            frames = _each_frame(stage, frames)
        return frames


class EF(nn.Module):
    """An encoder and a forecaster: frames to frames."""

    def __init__(self, encoder: Encoder, forecaster: Forecaster) -> None:
        super().__init__()
        self.encoder = encoder
        self.forecaster = forecaster

    def forward(self, input: Tensor) -> Tensor:
        """From frames `[S, B, C, H, W]` those that follow."""
        return self.forecaster(self.encoder(input))
