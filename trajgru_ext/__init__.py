"""Fused kernels for convolutional recurrent networks that move along learned flows.

Every operator is a function of the package, `trajgru_ext.flow_warp` among them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trajgru_ext import _extension

# The only place of the version: pyproject.toml reads it from here.
__version__ = "0.1.0"

_extension.load()

from trajgru_ext import (  # noqa: E402 - loaded first
    decompositions,  # noqa: F401 - they register themselves
    ops,
)
from trajgru_ext.conv_algorithm import conv_algorithm  # noqa: E402 - as above
from trajgru_ext.ops import *  # noqa: E402, F403 - the operators that ops lists
from trajgru_ext.ops import _flops, _options, _registry  # noqa: E402 - as above
from trajgru_ext.packed_weights import packed_weights  # noqa: E402 - as above

if TYPE_CHECKING:
    from trajgru_ext import compat, nn  # noqa: F401 - names that come later
    from trajgru_ext.compat.accelerate import accelerate, restore

_options.check_names(_extension.option_names())
_registry.register_fakes("trajgru_ext")
_flops.register()

__all__ = ["accelerate", "conv_algorithm", "packed_weights", "restore"]
__all__ += ops.__all__


def __getattr__(name: str) -> Any:
    """What takes longer to import than all operators, once it is asked for."""
    if name in ("accelerate", "restore"):
        return getattr(importlib.import_module(f"{__name__}.compat.accelerate"), name)
    if name in ("compat", "nn"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
