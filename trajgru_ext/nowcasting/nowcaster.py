"""A trained network as a forecaster: frames in, rain rates out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajgru_ext.nowcasting._pysteps import frames_of_triple
from trajgru_ext.nowcasting._xarray import frames_of_xarray
from trajgru_ext.nowcasting.datasets import Forecast
from trajgru_ext.nowcasting.errors import make_members
from trajgru_ext.nowcasting.frames import Decoding, Frames, to_pixels
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.motion import estimate_motion
from trajgru_ext.nowcasting.network import DIVISOR, network
from trajgru_ext.nowcasting.radar import ZR, pixels_to_rain, rain_to_pixels
from trajgru_ext.nowcasting.tiles import in_tiles
from trajgru_ext.nowcasting.training import read_checkpoint
from trajgru_ext.nowcasting.windows import fill_missing, pad

PIXEL_SIZES = 0.1  # share by which pixels may be larger or smaller than in training


class Nowcaster:
    """A network and what its checkpoint says of the frames that it was trained on.

    Made by `Nowcaster.load` from a checkpoint of `trajgru-ext nowcast train`.

    Args:
        state: what the checkpoint holds.
        device: on which the network runs.

    Attributes:
        past: how many frames it reads.
        ahead: how many it was trained to make.
        minutes: between two frames.
        zr: the relation of reflectivity and rain that it was trained with.
        net: the network, `nn.EncoderForecaster`, of frames `[T, B, 1, H, W]`.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import torch
        >>> from trajgru_ext.nowcasting import Frames, Nowcaster
        >>> from trajgru_ext.nowcasting.network import network
        >>> from trajgru_ext.nowcasting.training import Training
        >>> data = {"quantity": "rain", "zr": [223.0, 1.53], "minutes": 5.0}
        >>> settings = {"model": "conv_gru", "past": 3, "ahead": 6, "rate": 1e-3}
        >>> untrained = Training(
        ...     network("conv_gru", 6),
        ...     settings | {"steps": 1, "data": data},
        ...     torch.device("cpu"),
        ... )
        >>> untrained.save(Path("checkpoint.pt"))  # as `trajgru-ext nowcast train` does
        >>> caster = Nowcaster.load("checkpoint.pt")
        >>> caster.past, caster.ahead, caster.minutes
        (3, 6, 5.0)
        >>> rain = np.random.default_rng(0).gamma(0.3, 6.0, (3, 40, 50))
        >>> forecast = caster.forecast(Frames(rain, "rain"), 12)
        >>> forecast.values.shape, forecast.leads[:2].tolist()
        ((12, 40, 50), [5.0, 10.0])

    """

    def __init__(
        self, state: dict[str, Any], device: str | torch.device = "cpu"
    ) -> None:
        settings = state["settings"]
        self.settings, self.data = settings, settings["data"]
        self.errors: dict[str, Any] = state.get("errors", {})
        self.device = torch.device(device)
        self.past, self.ahead = int(settings["past"]), int(settings["ahead"])
        self.zr = ZR(*self.data["zr"])
        self.minutes = float(self.data["minutes"])
        self.net = network(settings["model"], self.ahead)
        self.net.load_state_dict(state["net"])
        self.net.to(self.device).eval()

    @classmethod
    def load(
        cls, checkpoint: str | Path, device: str | torch.device = "cpu"
    ) -> "Nowcaster":
        """Load a checkpoint of `trajgru-ext nowcast train`.

        Args:
            checkpoint: its file.
            device: on which the network runs.

        Raises:
            ValueError: it is damaged, or of something else.
            OSError: there is none.

        """
        state = read_checkpoint(Path(checkpoint))
        try:
            return cls(state, device)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{checkpoint}: is no checkpoint of trajgru-ext nowcast train"
            ) from error

    @property
    def decoding(self) -> Decoding:
        """What numbers meant in the files that it was trained on."""
        kept = dict(self.settings.get("decoding", {}))
        kept["missing"] = tuple(kept.get("missing", ()))
        return Decoding(**kept, zr=self.zr)

    def forecast(
        self,
        frames: Any,
        ahead: int | None = None,
        *,
        members: int = 0,
        seed: int = 0,
    ) -> Forecast:
        """Forecast the frames that follow.

        Missing pixels are filled by `fill_missing`; the forecast is NaN where none of
        the past frames knows a pixel.

        Args:
            frames: `Frames`, an xarray object or a pysteps triple (array, quality,
                metadata) of at least `self.past` frames, of which the last are read.
            ahead: number of frames; None for that of the training.
            members: of an ensemble, besides the forecast; 0 makes none.
            seed: of the ensemble.

        Raises:
            ValueError: the frames do not fit what the network was trained on.

        """
        frames = self.frames_of(frames)
        self.check(frames)
        last = slice(len(frames.values) - self.past, None)
        times = None if frames.times is None else frames.times[last]
        frames = replace(frames, values=frames.values[last], times=times)
        pixels = to_pixels(frames, self.decoding)
        made = self.forecast_pixels(pixels, ahead)
        ensemble = None
        if members:
            ensemble = self.members_of(pixels, made, members, seed)
        reference = None if times is None else times[-1]
        return self.as_forecast(made, ensemble, reference, frames.grid)

    def as_forecast(
        self,
        made: Tensor,
        ensemble: Tensor | None,
        reference: np.datetime64 | None,
        grid: Grid | None,
    ) -> Forecast:
        """Pixels that were forecast in their unit, with all that is known of them."""
        return Forecast(
            self._units(made),
            None if ensemble is None else self._units(ensemble),
            self.data["quantity"] == "brightness",
            reference,
            self.minutes,
            grid,
            self.zr,
        )

    def frames_of(self, frames: Any) -> Frames:
        """Frames of any of the kinds that `forecast` takes."""
        if isinstance(frames, Frames):
            return frames
        if isinstance(frames, tuple):
            return frames_of_triple(frames)
        return frames_of_xarray(frames)

    def check(self, frames: Frames) -> None:
        """Raise an error unless the frames fit what the network was trained on."""
        count = len(frames.values)
        if count < self.past:
            raise ValueError(f"the checkpoint reads {self.past} frames, got {count}")
        if frames.times is not None:
            steps = np.diff(frames.times[-self.past :]) / np.timedelta64(60, "s")
            if not (steps == self.minutes).all():
                raise ValueError(
                    f"the checkpoint reads frames every {self.minutes:g} minutes, got "
                    f"steps of {', '.join(f'{step:g}' for step in np.unique(steps))}"
                )
        quantity = frames.quantity or self.decoding.quantity or self.data["quantity"]
        if (quantity == "brightness") != (self.data["quantity"] == "brightness"):
            raise ValueError(
                f"the checkpoint reads {self.data['quantity']}, got {quantity}"
            )
        if frames.zr not in (None, self.zr):
            raise ValueError(
                f"the checkpoint makes rain by {self.zr}, the frames by {frames.zr}"
            )
        metres = self.data.get("pixel_metres")
        if metres and frames.grid is not None:
            ratio = frames.grid.pixel_metres / metres
            if not 1 - PIXEL_SIZES <= ratio <= 1 + PIXEL_SIZES:
                raise ValueError(
                    f"the checkpoint reads pixels of {metres:.0f} m, got "
                    f"{frames.grid.pixel_metres:.0f} m"
                )

    @torch.no_grad()
    def forecast_pixels(self, past: Tensor, ahead: int | None = None) -> Tensor:
        """Forecast pixels `[ahead, H, W]` of pixels `[T, H, W]`, NaN where unknown."""
        unknown = past.isnan().all(0)
        height, width = past.shape[1:]
        padded = fill_missing(pad(past, DIVISOR)).to(self.device)

        def made(tile: Tensor) -> Tensor:
            frames: Tensor = self.net(tile[:, None, None], ahead)[:, 0, 0]
            return frames.float().clamp(0, 1).cpu()

        forecast = in_tiles(made, padded, ahead or self.ahead)[:, :height, :width]
        masked: Tensor = forecast.masked_fill(unknown, torch.nan)
        return masked

    def members_of(
        self, past: Tensor, forecast: Tensor, members: int, seed: int = 0
    ) -> Tensor:
        """An ensemble `[members, ahead, H, W]` of pixels, NaN where unknown.

        Raises:
            ValueError: the checkpoint knows no errors, as of training without
                validation.

        """
        if not self.errors:
            raise ValueError(
                "the checkpoint knows no errors to make an ensemble by: train with "
                "--validation"
            )
        motion = estimate_motion(fill_missing(past)[:, None, None])
        known = forecast.nan_to_num(0.0)
        made: Tensor = make_members(known, motion, self.errors, members, seed)
        unknown = forecast.isnan()
        return made.masked_fill(unknown, torch.nan)

    def _units(self, pixels: Tensor) -> NDArray[Any]:
        if self.data["quantity"] == "brightness":
            return pixels.numpy()
        rain = torch.empty_like(pixels)
        # Frame by frame, as all in between may be large.
        for rate, frame in zip(rain.flatten(0, -3), pixels.flatten(0, -3), strict=True):
            rate.copy_(pixels_to_rain(frame, self.zr))
        return rain.numpy()


def nowcast(
    precip: NDArray[Any],
    velocity: NDArray[Any] | None,
    timesteps: int | Sequence[float],
    *,
    checkpoint: str | Path,
    n_ens_members: int = 0,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> NDArray[Any]:
    """Forecast as the functions of `pysteps.nowcasts` do.

    Args:
        precip: rain rates in mm/h, without a transform, `[T, H, W]`, at the step of the
            checkpoint; NaN where missing.
        velocity: left aside: the network finds where rain goes by itself.
        timesteps: how many frames to make, or their distances in frames, of which all
            must be whole.
        checkpoint: of `trajgru-ext nowcast train`.
        n_ens_members: of an ensemble; 0 makes one forecast.
        seed: of the ensemble.
        device: on which the network runs.
        options: none; others than these are refused by name.

    Returns:
        Rain rates in mm/h `[timesteps, H, W]` or, of an ensemble,
        `[n_ens_members, timesteps, H, W]`.

    Raises:
        ValueError: as `Nowcaster.forecast`.
        TypeError: there are other options.

    Examples:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import torch
        >>> from trajgru_ext.nowcasting import nowcast
        >>> from trajgru_ext.nowcasting.network import network
        >>> from trajgru_ext.nowcasting.training import Training
        >>> data = {"quantity": "rain", "zr": [223.0, 1.53], "minutes": 5.0}
        >>> settings = {"model": "conv_gru", "past": 3, "ahead": 6, "rate": 1e-3}
        >>> untrained = Training(
        ...     network("conv_gru", 6),
        ...     settings | {"steps": 1, "data": data},
        ...     torch.device("cpu"),
        ... )
        >>> untrained.save(Path("checkpoint.pt"))  # as `trajgru-ext nowcast train` does
        >>> rain = np.random.default_rng(0).gamma(0.3, 6.0, (3, 40, 50))
        >>> nowcast(rain, None, [2, 4], checkpoint="checkpoint.pt").shape
        (2, 40, 50)

    """
    if options:
        raise TypeError(f"nowcast: knows no options {', '.join(options)}")
    whole = [timesteps] if isinstance(timesteps, int) else list(timesteps)
    if any(step != int(step) or step < 1 for step in whole):
        raise ValueError(f"nowcast: timesteps must be whole frames, got {timesteps}")
    caster = Nowcaster.load(checkpoint, device)
    frames = Frames(np.ma.filled(np.ma.asarray(precip, float), np.nan), "rain")
    made = caster.forecast(frames, int(max(whole)), members=n_ens_members, seed=seed)
    rain = made.values if made.members is None else made.members
    if isinstance(timesteps, int):
        return rain
    return rain[..., [int(step) - 1 for step in whole], :, :]


def rain_pixels(values: NDArray[Any], zr: ZR) -> Tensor:
    """Pixels of rain rates in mm/h, NaN where missing."""
    return rain_to_pixels(torch.from_numpy(np.asarray(values, np.float64)), zr).float()
