"""The operators: one module each, with its autograd Function and fake kernels."""

from trajgru_ext.ops.channel_mean import channel_mean
from trajgru_ext.ops.conv2d import conv2d
from trajgru_ext.ops.conv_gru import conv_gru
from trajgru_ext.ops.conv_lstm import conv_lstm
from trajgru_ext.ops.flow_conv import flow_conv
from trajgru_ext.ops.flow_warp import flow_warp
from trajgru_ext.ops.gru_gates import gru_gates
from trajgru_ext.ops.gru_output import gru_output
from trajgru_ext.ops.gru_reset import gru_reset
from trajgru_ext.ops.hff_concat import hff_concat
from trajgru_ext.ops.lstm_gates import lstm_gates
from trajgru_ext.ops.lstm_memory import lstm_memory
from trajgru_ext.ops.se_scale import se_scale
from trajgru_ext.ops.sk_select import sk_select
from trajgru_ext.ops.spatial_pyramid_pool import spatial_pyramid_pool
from trajgru_ext.ops.traj_gru import traj_gru

__all__ = [
    "channel_mean",
    "conv2d",
    "conv_gru",
    "conv_lstm",
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
