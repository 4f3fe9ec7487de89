"""TrajGRU, ConvLSTM and their networks as Hzzone/Precipitation-Nowcasting has them.

Devices and dtypes follow the inputs, images may have any size, and numbers of frames
are those of the inputs, where the original has a global configuration.
"""

# Unions in inner functions stay unevaluated: torch 2.9 cannot compile them.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.compat._half_pixels import of_half_pixels
from trajgru_ext.compat._precipitation_networks import (
    EF,
    Encoder,
    Forecaster,
    Stage,
    activation,
    activation_options,
    make_layers,
)
from trajgru_ext.compat._precipitation_states import (
    BatchHeightWidth,
    number_of_frames,
    zero_state,
)
from trajgru_ext.nn import TrajGRU as _TrajGRU
from trajgru_ext.nn._as_built import ByWeights
from trajgru_ext.nn._by_modules import call, run_steps, wide_enough, zero_if_none
from trajgru_ext.nn._recurrent import (
    any_tensor,
    as_integer,
    both_states,
    check_inputs,
    check_positive,
    own,
)
from trajgru_ext.nn._traj_gru import Affine
from trajgru_ext.ops import conv_lstm, flow_warp, lstm_gates

__all__ = [
    "EF",
    "ConvLSTM",
    "Encoder",
    "Forecaster",
    "Stage",
    "TrajGRU",
    "activation",
    "hko7_ef",
    "make_layers",
    "wrap",
]

_PEEPHOLES = ("Wci", "Wcf", "Wco")
_FRAMES = 5  # without inputs or a number, as configured in the original


def wrap(input: Tensor, flow: Tensor) -> Tensor:
    """Read the input `[B, C, H, W]` at every pixel moved by the flow `[B, 2, H, W]`.

    See `trajgru_ext.flow_warp`, which it is: a flow of 0 changes nothing, and what lies
    outside is 0 up to the border, both unlike the original.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.precipitation_nowcasting import wrap
        >>> wrap(torch.ones(1, 1, 1, 2), torch.zeros(1, 2, 1, 2))
        tensor([[[[1., 1.]]]])

    """
    return flow_warp(input, flow)


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
        i2h_kernel: of the inputs' convolution, which must keep the size of the image.
        i2h_stride: of the same.
        i2h_pad: of the same.
        h2h_kernel: without effect, as in the original.
        h2h_dilate: likewise.
        act_type: an `activation`, "leaky" or "relu", or torch.tanh.
        align_corners: what the original leaves to `grid_sample`, whose default changed
            with torch 1.3. True is the warp of the paper. False is for models trained
            with a newer torch: those read at `(x - U) W / (W - 1) - 1/2` along the
            width, and so along the height.

    Examples:
        >>> from trajgru_ext.compat.precipitation_nowcasting import TrajGRU
        >>> layer = TrajGRU(8, 16, b_h_w=(2, 24, 24), L=5)
        >>> outputs, state = layer(None, seq_len=3)

    """

    default_seq_len = _FRAMES

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
        act_type: Callable[[Tensor], Tensor] | None = None,
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
            **activation_options(act),
            zoneout=zoneout,
            zero_flows=False,
        )
        self.b_h_w = b_h_w
        self.align_corners = align_corners

    def _of_flows(self, inputs: Tensor | None, h: Tensor | None) -> Affine | None:
        if self.align_corners:
            return None
        scale, offset = of_half_pixels(inputs, h, any_tensor(self), self.links)
        return Affine(scale, offset)

    def forward(  # type: ignore[override]  # the original's names
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
        steps = number_of_frames(
            type(self).__name__, int(self.default_seq_len), inputs, seq_len
        )
        if inputs is None and states is None:
            like = any_tensor(self)
            states = zero_state("TrajGRU", self.b_h_w, self.hidden_channels, like)
        results = super().forward(inputs, states, steps)
        return own(results[0]), results[1]


class ConvLSTM(ByWeights):
    """The ConvLSTM layer, with peepholes per element.

    Args:
        input_channel: channels of the inputs.
        num_filter: channels of the states.
        b_h_w: batch, height and width; the peepholes have that height and width, the
            states of 0 all three where neither inputs nor states are given.
        kernel_size: of the convolution, odd.
        stride: 1.
        padding: half the kernel, which keeps the size.

    The original moves its peepholes to a device so that they are no parameters: they
    stay 0 and are not in its checkpoints. Here they are parameters, and 0 where a
    checkpoint has none of them. `recompute`, "none" or "gates", is that of `conv_lstm`.

    Examples:
        >>> from trajgru_ext.compat.precipitation_nowcasting import ConvLSTM
        >>> layer = ConvLSTM(8, 16, b_h_w=(2, 24, 24), kernel_size=3)
        >>> outputs, (h, c) = layer(None, seq_len=3)

    """

    default_seq_len = _FRAMES
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
        kind = type(self).__name__
        input_channel, num_filter = check_positive(
            kind, input_channel=input_channel, num_filter=num_filter
        )
        kernel_size, stride, padding = (
            as_integer(one) for one in (kernel_size, stride, padding)
        )
        if kernel_size % 2 == 0 or (stride, padding) != (1, kernel_size // 2):
            raise ValueError(
                "ConvLSTM: kernel_size must be odd, with stride 1 and the padding that "
                f"keeps the size, got {kernel_size}, {stride}, {padding}"
            )
        _, height, width = b_h_w
        channels = input_channel + num_filter
        sizes = 4 * num_filter, kernel_size, stride, padding
        self._conv = nn.Conv2d(channels, *sizes)
        for name in _PEEPHOLES:
            zeros = torch.zeros(1, num_filter, height, width)
            self.register_parameter(name, nn.Parameter(zeros))
        self.b_h_w = b_h_w
        self._input_channel = input_channel
        self._num_filter = num_filter
        self._remember()

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
        kind, channels = type(self).__name__, self._input_channel
        steps = number_of_frames(
            type(self).__name__, int(self.default_seq_len), inputs, seq_len
        )
        like = any_tensor(self)
        # The original unpacks them, so that both may be stacked in one tensor.
        pair = states.unbind() if isinstance(states, Tensor) else states
        h, c = both_states(kind, pair)
        if inputs is None and h is None:
            h = zero_state(kind, self.b_h_w, self._num_filter, like)
        by_module = self._change() is not None
        sizes = channels, by_module, like
        check_inputs(kind, "inputs", inputs, *sizes, "[S, B, C, H, W]")
        if by_module:
            return self._call_module(inputs, h, c, steps)
        weight = self._conv.weight
        outputs, c = conv_lstm(
            inputs,
            h,
            c,
            weight[:, :channels],
            weight[:, channels:],
            h_bias=self._conv.bias,
            peephole=self._peephole(),
            order="ifgo",
            steps=steps,
            recompute=self.recompute,
        )
        return own(outputs), (outputs[-1].clone(), c)

    def _call_module(
        self, inputs: Tensor | None, h: Tensor | None, c: Tensor | None, steps: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer by calling the convolution as it is."""
        kind, features = type(self).__name__, self._num_filter
        peephole = self._peephole()

        def step(
            _: int, input: Tensor | None, state: tuple[Tensor, Tensor]
        ) -> tuple[Tensor, Tensor]:
            h, c = state
            x = zero_if_none(kind, self._input_channel, input, h)
            gates = call(self, "_conv", torch.cat([x, h], 1), 4 * features)
            c = wide_enough(c, gates)
            return lstm_gates(gates, None, c, peephole, order="ifgo")

        start = (
            zero_if_none(kind, features, h, inputs, c),
            zero_if_none(kind, features, c, inputs, h),
        )
        return run_steps(kind, step, inputs, start, steps=steps)

    def _peephole(self) -> tuple[Tensor, Tensor, Tensor]:
        w_ci, w_cf, w_co = (getattr(self, name) for name in _PEEPHOLES)
        return w_ci, w_cf, w_co

    def complete_checkpoint(self, state: dict[str, Any], prefix: str = "") -> None:
        """Add peepholes of 0 to the entries of a checkpoint that has none of them."""
        names = [f"{prefix}{name}" for name in _PEEPHOLES]
        if f"{prefix}_conv.weight" in state and not any(n in state for n in names):
            for name in self._parameters.keys() & set(_PEEPHOLES):
                state[f"{prefix}{name}"] = torch.zeros_like(getattr(self, name))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.complete_checkpoint(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def hko7_ef(batch_size: int = 1, seq_len: int = 20) -> EF:
    """The original's TrajGRU network for radar frames of Hong Kong.

    From frames `[S, B, 1, 480, 480]`, 5 in the original, it makes
    `[seq_len, B, 1, 480, 480]`. It has 12,753,909 parameters, of which 1,149,536 never
    get a gradient; see `Forecaster`. Unlike `trajgru_ext.nn.hko7_traj_gru`, the paper's
    network, its deconvolutions have biases, its forecaster has 13, 13 and 9 links from
    the deepest stage on, and flows do not begin at zero.

    Args:
        batch_size: of the layers' `b_h_w`; any batch can be run.
        seq_len: how many frames are made.

    Examples:
        >>> from trajgru_ext.compat.precipitation_nowcasting import hko7_ef
        >>> net = hko7_ef(batch_size=2, seq_len=10)
        >>> sum(parameter.numel() for parameter in net.parameters())
        12753909

    Source: Hzzone/Precipitation-Nowcasting; Shi et al. 2017 (arXiv 1706.03458).

    """

    def rnn(channels: int, features: int, size: int, links: int) -> TrajGRU:
        return TrajGRU(channels, features, (batch_size, size, size), L=links)

    encoder = Encoder(
        [
            {"conv1_leaky_1": [1, 8, 7, 5, 1]},
            {"conv2_leaky_1": [64, 192, 5, 3, 1]},
            {"conv3_leaky_1": [192, 192, 3, 2, 1]},
        ],
        [rnn(8, 64, 96, 13), rnn(192, 192, 32, 13), rnn(192, 192, 16, 9)],
    )
    forecaster = Forecaster(
        [
            {"deconv1_leaky_1": [192, 192, 4, 2, 1]},
            {"deconv2_leaky_1": [192, 64, 5, 3, 1]},
            {
                "deconv3_leaky_1": [64, 8, 7, 5, 1],
                "conv3_leaky_2": [8, 8, 3, 1, 1],
                "conv3_3": [8, 1, 1, 1, 0],
            },
        ],
        [rnn(192, 192, 16, 13), rnn(192, 192, 32, 13), rnn(64, 64, 96, 9)],
        seq_len,
    )
    return EF(encoder, forecaster)
