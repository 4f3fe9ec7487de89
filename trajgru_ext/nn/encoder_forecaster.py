"""An encoder and a forecaster of recurrent layers: frames in, the next frames out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._frames import channels_last, on_frames
from trajgru_ext.nn._recurrent import check_given, check_positive, number_or
from trajgru_ext.ops._overrides import leaf


class EncoderForecaster(nn.Module):
    """Frames to the frames that follow, by recurrent layers at several levels.

    With `E_k` the encoder's layers, `F_k` the forecaster's, k = 0 the level nearest to
    the frames and n the coarsest, `down`, `up` and `head` applied to each frame::

        x_0 = down_0(frames)                  e_k, s_k = E_k(x_k)
        x_k = down_k(e_(k-1))                 (s_k the last state)
        f_n = F_n(None, s_n)
        f_k = F_k(up_k(f_(k+1)), s_k)
        result = head(f_0)                    or head(f_0, ..., f_n concatenated)

    A layer may be a `TrajGRU`, `ConvGRU`, `ConvLSTM` or any module that is called
    `layer(inputs, state, steps=steps)` on `[T, B, C, H, W]` and returns its outputs and
    last state. The forecaster's layer n is called without inputs, and should be made
    with `input_channels=0`: what it has for inputs never gets a gradient. Inside, each
    frame's pixels have their channels together (channels last). The parameters are
    those of the modules `down.{k}`, `encoder.{k}`, `forecaster.{k}`, `up.{k}` and
    `head`.

    Args:
        down: for every level, what makes a layer's inputs of the level before it.
        encoder: for every level, the recurrent layer.
        forecaster: likewise.
        up: for every level but the coarsest, what makes a layer's inputs of the outputs
            of the level after it; the sizes must be those of the encoder again.
        head: what makes the frames.
        steps: how many frames are made, unless a call says otherwise.
        join: whether the head sees the outputs of all levels, which then have one size,
            concatenated along their channels, level 0 first.
        recompute: whether the backward pass computes `down`, `up` and `head` again, a
            few frames at a time, and only what they read is kept; they must not mix
            frames then, as batch normalisation does. Layers have such a mode of their
            own.
        coordinates: whether frames get three channels more before `down[0]`: x and y
            from -1 to 1, and ones, as in HKO-7's own code.
        batch_first: whether sequences are `[B, T, ...]` instead of `[T, B, ...]`.

    Source: Shi et al. 2017 (arXiv 1706.03458), HKO-7; with `join` Shi et al. 2015
    (arXiv 1506.04214).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from trajgru_ext.nn import ConvGRU, EncoderForecaster, TrajGRU
        >>> net = EncoderForecaster(
        ...     down=[nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)],
        ...     encoder=[TrajGRU(8, 16, links=5), ConvGRU(16, 32)],
        ...     forecaster=[TrajGRU(32, 16, links=5), ConvGRU(0, 32)],
        ...     up=[nn.ConvTranspose2d(32, 32, 2, 2)],
        ...     head=nn.ConvTranspose2d(16, 1, 2, 2),
        ...     steps=4,
        ... )
        >>> net(torch.randn(3, 2, 1, 16, 16)).shape
        torch.Size([4, 2, 1, 16, 16])

    """

    def __init__(
        self,
        down: Sequence[nn.Module],
        encoder: Sequence[nn.Module],
        forecaster: Sequence[nn.Module],
        up: Sequence[nn.Module],
        head: nn.Module,
        *,
        steps: int,
        join: bool = False,
        recompute: bool = False,
        coordinates: bool = False,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        levels = len(encoder)
        levels, steps = check_positive(kind, **{"len(encoder)": levels}, steps=steps)
        wanted = {"down": levels, "forecaster": levels, "up": levels - 1}
        given = {"down": down, "forecaster": forecaster, "up": up}
        for name, count in wanted.items():
            if len(given[name]) != count:
                raise ValueError(
                    f"{kind}: {name} must have {count} modules for {levels} layers in "
                    f"encoder, got {len(given[name])}"
                )
        for name, layers in (("encoder", encoder), ("forecaster", forecaster)):
            for option in ("batch_first", "return_all_layers"):
                if any(getattr(layer, option, False) for layer in layers):
                    raise ValueError(
                        f"{kind}: {name} must be of layers with {option}=False, got "
                        "one with True"
                    )
        self.down = nn.ModuleList(down)
        self.encoder = nn.ModuleList(encoder)
        self.forecaster = nn.ModuleList(forecaster)
        self.up = nn.ModuleList(up)
        self.head = head
        self.steps = steps
        self.join = join
        self.recompute = recompute
        self.coordinates = coordinates
        self.batch_first = batch_first

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return (
            f"steps={self.steps}, join={self.join}, recompute={self.recompute}, "
            f"coordinates={self.coordinates}, batch_first={self.batch_first}"
        )

    def forward(self, frames: Tensor, steps: int | None = None) -> Tensor:
        """Forecast.

        Args:
            frames: `[T, B, C, H, W]`.
            steps: how many frames to make; None for the network's number.

        Returns:
            The frames that follow, `[steps, B, C, H, W]`.

        Raises:
            TypeError, ValueError: the frames are no tensor of 5 dimensions, of a size
                that `up` does not lead back to, or as the layers.

        """
        return self.forecast(self.encode(frames), steps)

    def encode(self, frames: Tensor, states: Sequence[Any] | None = None) -> list[Any]:
        """Read frames `[T, B, C, H, W]`: the last state of every level.

        states: those of an earlier call, to go on from; None is 0.
        """
        kind = type(self).__name__
        check_given(kind, frames=frames)
        if isinstance(frames, Tensor) and frames.dim() != 5:
            letters = "[B, T, C, H, W]" if self.batch_first else "[T, B, C, H, W]"
            raise ValueError(
                f"{kind}: frames must be {letters}, got {list(frames.shape)}"
            )
        states = [None] * len(self.encoder) if states is None else states
        self._check_levels(states)
        if self.batch_first:
            frames = frames.transpose(0, 1)
        count, images = frames.shape[:2], frames.flatten(0, 1)
        if self.coordinates:
            images = torch.cat([images, _coordinates(images)], 1)
        images = channels_last(images)
        last = []
        for down, layer, state in zip(self.down, self.encoder, states, strict=True):
            images = on_frames(down, images, self.recompute)
            outputs, after = layer(torch.unflatten(images, 0, count), state)
            images = outputs.flatten(0, 1)
            last.append(after)
        return last

    def forecast(self, states: Sequence[Any], steps: int | None = None) -> Tensor:
        """From the states of `encode` the frames that follow, `[steps, B, C, H, W]`."""
        self._check_levels(states)
        steps = number_or(self.steps, steps)
        outputs = self._outputs(states, steps)
        levels = [one.flatten(0, 1) for one in outputs]
        images = torch.cat(levels, 1) if self.join else levels[0]
        frames = on_frames(self.head, images, self.recompute)
        frames = torch.unflatten(frames, 0, outputs[0].shape[:2])
        return frames.transpose(0, 1) if self.batch_first else frames

    def _outputs(self, states: Sequence[Any], steps: int) -> list[Tensor]:
        """Of the forecaster's layers, that of level 0 first."""
        kind = type(self).__name__
        sizes = [_size(state) for state in states]
        if self.join and sizes != sizes[:1] * len(sizes):
            raise ValueError(
                f"{kind}: states must have one size for join=True, got {sizes}"
            )
        inputs: Tensor | None = None
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.forecaster))):
            if inputs is not None:
                images = inputs.flatten(0, 1)
                images = on_frames(self.up[level], images, self.recompute)
                inputs = torch.unflatten(images, 0, inputs.shape[:2])
                got = _size(inputs)
                if got != sizes[level]:
                    raise ValueError(
                        f"{kind}: frames must have a size that up leads back to, got "
                        f"one that is {sizes[level]} at level {level} of the encoder "
                        f"and {got} in the forecaster"
                    )
            inputs, _ = self.forecaster[level](inputs, states[level], steps=steps)
            outputs.insert(0, inputs)
        return outputs

    def _check_levels(self, states: Any) -> None:
        listed = isinstance(states, (list, tuple))
        if not listed or len(states) != len(self.encoder):
            got = len(states) if listed else type(states).__name__
            raise ValueError(
                f"{type(self).__name__}: states must be a list of one a level, "
                f"{len(self.encoder)}, got {got}"
            )


@leaf
def _coordinates(images: Tensor) -> Tensor:
    """Of every pixel x and y from -1 to 1, and 1: `[N, 3, H, W]`."""
    height, width = images.shape[-2:]
    options: dict[str, Any] = {"device": images.device, "dtype": images.dtype}
    x = torch.linspace(-1, 1, width, **options).expand(height, width)
    y = torch.linspace(-1, 1, height, **options)[:, None].expand(height, width)
    grid = torch.stack([x, y, torch.ones_like(x)])
    return grid.expand(images.shape[0], *grid.shape)


def _size(state: Any) -> list[int] | None:
    """Height and width of a state, which may hold several tensors.

    None where they are not known, while torch.fx traces.
    """
    while isinstance(state, (tuple, list)):
        state = state[0]
    return list(state.shape[-2:]) if isinstance(state, Tensor) else None
