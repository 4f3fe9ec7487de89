"""Nowcasting: frames in, frames out; data, losses, scores and baselines.

Needs the extra `nowcasting`: `pip install 'trajgru_ext[nowcasting]'`.
"""

from trajgru_ext.nowcasting._pysteps import frames_of_triple
from trajgru_ext.nowcasting._xarray import frames_of_xarray
from trajgru_ext.nowcasting.archive import Archive, read_frames
from trajgru_ext.nowcasting.datasets import Forecast
from trajgru_ext.nowcasting.extrapolation import (
    carry_on,
    extrapolation,
    persistence,
)
from trajgru_ext.nowcasting.frames import (
    PROFILES,
    Decoding,
    Frames,
    FramesError,
    Reading,
    to_pixels,
)
from trajgru_ext.nowcasting.grids import Grid
from trajgru_ext.nowcasting.losses import balanced_loss, balancing_weights
from trajgru_ext.nowcasting.motion import estimate_motion
from trajgru_ext.nowcasting.nowcaster import Nowcaster, nowcast
from trajgru_ext.nowcasting.prognosis import spectral_prognosis
from trajgru_ext.nowcasting.radar import (
    THRESHOLDS,
    ZR,
    pixels_to_rain,
    rain_to_pixels,
)
from trajgru_ext.nowcasting.scores import Scores
from trajgru_ext.nowcasting.splits import split
from trajgru_ext.nowcasting.windows import Windows, fill_missing

__all__ = [
    "PROFILES",
    "THRESHOLDS",
    "ZR",
    "Archive",
    "Decoding",
    "Forecast",
    "Frames",
    "FramesError",
    "Grid",
    "Nowcaster",
    "Reading",
    "Scores",
    "Windows",
    "balanced_loss",
    "balancing_weights",
    "carry_on",
    "estimate_motion",
    "extrapolation",
    "fill_missing",
    "frames_of_triple",
    "frames_of_xarray",
    "nowcast",
    "persistence",
    "pixels_to_rain",
    "rain_to_pixels",
    "read_frames",
    "spectral_prognosis",
    "split",
    "to_pixels",
]
