"""Modules: cells, layers that run whole sequences, and networks of them."""

from trajgru_ext.nn.conv_gru import ConvGRU, ConvGRUCell
from trajgru_ext.nn.conv_lstm import ConvLSTM, ConvLSTMCell
from trajgru_ext.nn.encoder_forecaster import EncoderForecaster
from trajgru_ext.nn.networks import (
    conv_lstm_forecaster,
    hko7_conv_gru,
    hko7_traj_gru,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
)
from trajgru_ext.nn.traj_gru import TrajGRU, TrajGRUCell

__all__ = [
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "EncoderForecaster",
    "TrajGRU",
    "TrajGRUCell",
    "conv_lstm_forecaster",
    "hko7_conv_gru",
    "hko7_traj_gru",
    "moving_mnist_conv_gru",
    "moving_mnist_traj_gru",
]
