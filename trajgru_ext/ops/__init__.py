"""The operators: one module each, with its autograd Function and fake kernels."""

from trajgru_ext.ops.flow_conv import flow_conv
from trajgru_ext.ops.flow_warp import flow_warp

__all__ = ["flow_conv", "flow_warp"]
