"""Frames of numpy's files and of greyscale images."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trajgru_ext.nowcasting._contents import Contents, in_memory
from trajgru_ext.nowcasting.frames import FramesError, Reading

# One channel, whose numbers are the file's own: palettes and colours are no measure.
GREYSCALE_MODES = ("L", "I", "I;16", "I;16B", "I;16L")


def read_array(path: Path, reading: Reading) -> Contents:
    """Frames of an .npz or .npy, of the latter only those that are used."""
    # Never unpickle: a file of frames must not be able to run code.
    with path.open("rb") as file:
        plain = file.read(1) == b"\x93"
    loaded = np.load(path, mmap_mode="r" if plain else None, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return in_memory(_in_layout(loaded, reading.layout))
    with loaded:
        names, wanted = loaded.files, reading.variable
        if wanted is None:
            if "frames" not in names and len(names) != 1:
                raise FramesError(
                    f"wanted an array named 'frames' or one array only, got {names}: "
                    "choose by --variable"
                )
            wanted = "frames" if "frames" in names else names[0]
        if wanted not in names:
            raise FramesError(f"wanted an array {wanted!r}, got {names}")
        values = _in_layout(loaded[wanted], reading.layout)
        times = None
        if "times" in names and wanted != "times":
            times = loaded["times"]
            if times.dtype.kind not in "MU" or times.shape != values.shape[1:2]:
                raise FramesError(
                    f"wanted an array 'times' of {values.shape[1]} datetime64, got "
                    f"{times.dtype} {list(times.shape)}"
                )
            times = times.astype("datetime64[s]")
        return in_memory(values, times=times)


def read_image(path: Path, reading: Reading) -> Contents:
    """One frame of a greyscale image."""
    with Image.open(path) as image:
        if image.mode not in GREYSCALE_MODES:
            raise FramesError(f"wanted a greyscale image, got mode {image.mode}")
        return in_memory(np.asarray(image)[None, None])


def image_signature(path: Path) -> str:
    """Size and kind of an image, and a PGM's comments but for the time."""
    comments = []
    if path.suffix.lower() == ".pgm":
        with path.open("rb") as file:
            file.readline()
            for line in file:
                if not line.startswith(b"#"):
                    break
                if not line.startswith((b"# obstime", b"# radar ")):
                    comments.append(line.decode("latin-1").strip("# \n"))
    with Image.open(path) as image:
        return " ".join([f"{image.size} {image.mode}", *comments])


def _in_layout(values: NDArray[Any], layout: str) -> NDArray[Any]:
    """The array as `[N, T, H, W]`."""
    if values.dtype.kind not in "uif":
        raise FramesError(f"wanted real numbers, got {values.dtype}")
    if values.ndim == 2:
        values, layout = values[None], "THW"
    if values.ndim != len(layout) or 0 in values.shape:
        got = list(values.shape)
        more = "; say by --layout what the axes are" if values.ndim == 4 else ""
        wanted = ", ".join(layout)
        raise FramesError(f"wanted frames [{wanted}], got shape {got}{more}")
    ordered = np.transpose(values, [layout.index(a) for a in "NTHW" if a in layout])
    return ordered if len(layout) == 4 else ordered[None]
