"""Each operator as its naive formula: slow, readable, and differentiable by autograd.

They are what the tests and a doubtful reader compare with. All
compute in float64 and return it.
"""

from trajgru_ext.reference.branches import (
    channel_mean,
    hff_concat,
    se_scale,
    sk_select,
    spatial_pyramid_pool,
)
from trajgru_ext.reference.conv import conv2d, convolve
from trajgru_ext.reference.flow import flow_conv, flow_warp
from trajgru_ext.reference.gates import (
    gru_gates,
    gru_output,
    gru_reset,
    lstm_gates,
    lstm_memory,
)
from trajgru_ext.reference.sequences import conv_gru, conv_lstm, traj_gru

__all__ = [
    "channel_mean",
    "conv2d",
    "conv_gru",
    "conv_lstm",
    "convolve",
    "flow_conv",
    "flow_warp",
    "gru_gates",
    "gru_output",
    "gru_reset",
    "hff_concat",
    "lstm_gates",
    "lstm_memory",
    "se_scale",
    "sk_select",
    "spatial_pyramid_pool",
    "traj_gru",
]
