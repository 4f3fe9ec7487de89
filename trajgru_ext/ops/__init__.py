"""The operators: one module each, with its autograd Function and fake kernels."""

from trajgru_ext.ops.conv_gru import conv_gru
from trajgru_ext.ops.conv_lstm import conv_lstm
from trajgru_ext.ops.flow_conv import flow_conv
from trajgru_ext.ops.flow_warp import flow_warp
from trajgru_ext.ops.gru_gates import gru_gates
from trajgru_ext.ops.gru_output import gru_output
from trajgru_ext.ops.gru_reset import gru_reset
from trajgru_ext.ops.lstm_gates import lstm_gates
from trajgru_ext.ops.traj_gru import traj_gru

__all__ = [
    "conv_gru",
    "conv_lstm",
    "flow_conv",
    "flow_warp",
    "gru_gates",
    "gru_output",
    "gru_reset",
    "lstm_gates",
    "traj_gru",
]
