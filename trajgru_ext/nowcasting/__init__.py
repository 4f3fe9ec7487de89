"""Nowcasting: frames in, frames out; data, losses, scores and baselines.

Needs the extra `nowcasting`: `pip install 'trajgru_ext[nowcasting]'`.
"""

from trajgru_ext.nowcasting.extrapolation import (
    carry_on,
    estimate_motion,
    extrapolation,
    persistence,
)
from trajgru_ext.nowcasting.frames import Frames, FramesError, read_frames, to_pixels
from trajgru_ext.nowcasting.losses import balanced_loss, balancing_weights
from trajgru_ext.nowcasting.radar import THRESHOLDS
from trajgru_ext.nowcasting.scores import Scores
from trajgru_ext.nowcasting.windows import Windows, split_in_time

__all__ = [
    "THRESHOLDS",
    "Frames",
    "FramesError",
    "Scores",
    "Windows",
    "balanced_loss",
    "balancing_weights",
    "carry_on",
    "estimate_motion",
    "extrapolation",
    "persistence",
    "read_frames",
    "split_in_time",
    "to_pixels",
]
