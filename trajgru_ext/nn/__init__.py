"""Modules: cells, and layers that run whole sequences."""

from trajgru_ext.nn.traj_gru import TrajGRU, TrajGRUCell

__all__ = ["TrajGRU", "TrajGRUCell"]
