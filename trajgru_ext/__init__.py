"""Fused kernels for convolutional recurrent networks that move along learned flows.

Every operator is a function of the package, `trajgru_ext.flow_warp` among them.
"""

from trajgru_ext import _extension

# The only place of the version: pyproject.toml reads it from here.
__version__ = "0.1.0"

_extension.load()

from trajgru_ext.ops import (  # noqa: E402 - loaded first
    _registry,
    channel_mean,
    conv_gru,
    conv_lstm,
    flow_conv,
    flow_warp,
    gru_gates,
    gru_output,
    gru_reset,
    hff_concat,
    lstm_gates,
    se_scale,
    sk_select,
    spatial_pyramid_pool,
    traj_gru,
)

_registry.register_fakes("trajgru_ext")

from trajgru_ext.compat.accelerate import accelerate, restore  # noqa: E402 - as above
from trajgru_ext.conv_algorithm import conv_algorithm  # noqa: E402 - as above

__all__ = [
    "accelerate",
    "channel_mean",
    "conv_algorithm",
    "conv_gru",
    "conv_lstm",
    "flow_conv",
    "flow_warp",
    "gru_gates",
    "gru_output",
    "gru_reset",
    "hff_concat",
    "lstm_gates",
    "restore",
    "se_scale",
    "sk_select",
    "spatial_pyramid_pool",
    "traj_gru",
]
