"""Modules: cells, layers of whole sequences, networks of them, and blocks.

A layer hands the weights of the modules inside it to one kernel while they are as its
constructor made them. Where one was wrapped, replaced, hooked, pruned or
reparametrised, the layer calls its modules instead, step by step; `computes()` and
`repr` say so. `recompute` is then without effect, what states and flows are computed
in is for the modules to choose, and torch.compile and torch.export unroll the steps.
"""

from trajgru_ext.nn.conv2d import Conv2d
from trajgru_ext.nn.conv_gru import ConvGRU
from trajgru_ext.nn.conv_gru_cell import ConvGRUCell
from trajgru_ext.nn.conv_lstm import ConvLSTM, ConvLSTMCell
from trajgru_ext.nn.eesp import EESP, DilatedPyramid, DilatedSeparableConv
from trajgru_ext.nn.encoder_forecaster import EncoderForecaster
from trajgru_ext.nn.networks import (
    conv_lstm_forecaster,
    hko7_conv_gru,
    hko7_traj_gru,
    moving_mnist_conv_gru,
    moving_mnist_traj_gru,
)
from trajgru_ext.nn.selective_kernel import (
    SelectiveKernelConv,
    SelectiveKernelUnit,
    sknet50,
)
from trajgru_ext.nn.spatial_pyramid import SpatialPyramidPooling
from trajgru_ext.nn.squeeze_excitation import (
    SEBasicBlock,
    SEBottleneck,
    SqueezeExcitation,
    se_resnet34,
    se_resnet50,
)
from trajgru_ext.nn.traj_gru import TrajGRU, TrajGRUCell

__all__ = [
    "EESP",
    "Conv2d",
    "ConvGRU",
    "ConvGRUCell",
    "ConvLSTM",
    "ConvLSTMCell",
    "DilatedPyramid",
    "DilatedSeparableConv",
    "EncoderForecaster",
    "SEBasicBlock",
    "SEBottleneck",
    "SelectiveKernelConv",
    "SelectiveKernelUnit",
    "SpatialPyramidPooling",
    "SqueezeExcitation",
    "TrajGRU",
    "TrajGRUCell",
    "conv_lstm_forecaster",
    "hko7_conv_gru",
    "hko7_traj_gru",
    "moving_mnist_conv_gru",
    "moving_mnist_traj_gru",
    "se_resnet34",
    "se_resnet50",
    "sknet50",
]
