"""Modules: cells, and layers that run whole sequences."""

from trajgru_ext.nn.conv_gru import ConvGRU, ConvGRUCell
from trajgru_ext.nn.conv_lstm import ConvLSTM, ConvLSTMCell
from trajgru_ext.nn.traj_gru import TrajGRU, TrajGRUCell

__all__ = [
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "TrajGRU",
    "TrajGRUCell",
]
