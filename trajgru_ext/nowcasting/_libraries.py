"""Libraries that only some formats need."""

import importlib
from types import ModuleType

from trajgru_ext.nowcasting.frames import FramesError

# What the extra `radar` has beyond `nowcasting`.
_RADAR = ("pysteps", "pygrib", "rioxarray", "zarr")


def library(*names: str) -> ModuleType:
    """The first of the libraries, all of which something needs.

    Raises:
        FramesError: one is not installed; says how to.

    """
    try:
        first, *_ = [importlib.import_module(name) for name in names]
    except ImportError as error:
        extra = "radar" if names[0].split(".")[0] in _RADAR else "nowcasting"
        raise FramesError(
            f"it needs {' and '.join(names)}: pip install 'trajgru_ext[{extra}]'"
        ) from error
    return first


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
