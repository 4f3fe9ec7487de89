"""Frames in: files to arrays, and values to reflectivity, pixels and rain rate."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGE_SUFFIXES = (".png", ".pgm")
ARRAY_SUFFIXES = (".npz", ".npy")

# One channel, whose numbers are the file's own: palettes and colours are no measure.
GREYSCALE_MODES = ("L", "I", "I;16", "I;16B", "I;16L")

# The scale of the HKO-7 benchmark (Shi et al. 2017): pixel = (dBZ + 10) / 70, and
# dBZ = 10 b log10 R + 10 log10 a.
DBZ_FLOOR, DBZ_RANGE = -10.0, 70.0
Z_A, Z_B = 58.53, 1.56


class FramesError(ValueError):
    """Frames that cannot be used; the message says which and why."""


def read_frames(path: Path) -> NDArray:
    """Read frames `[T, H, W]`, in the numbers of the file.

    Args:
        path: `.npz` (its array `frames`, else its only array), `.npy`, or a folder of
            greyscale PNG or PGM images of one size, taken in natural order of names.

    Raises:
        FramesError: the path does not lead to finite frames of one size.

    """
    if path.is_dir():
        frames = _read_folder(path)
    elif not path.exists():
        raise FramesError(f"{path}: no such file or folder")
    elif path.suffix.lower() in ARRAY_SUFFIXES:
        frames = _read_array(path)
    else:
        raise FramesError(f"{path}: wanted .npz, .npy or a folder of PNG or PGM images")
    if frames.dtype.kind not in "uif":
        raise FramesError(f"{path}: wanted real numbers, got {frames.dtype}")
    if frames.ndim != 3 or 0 in frames.shape:
        shape = list(frames.shape)
        raise FramesError(f"{path}: wanted frames [T, H, W], got shape {shape}")
    if frames.dtype.kind == "f" and not np.isfinite(frames).all():
        raise FramesError(f"{path}: frames hold NaN or infinite values")
    return frames


def _read_array(path: Path) -> NDArray:
    try:
        # Never unpickle: a file of frames must not be able to run code.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = loaded.files
            if "frames" not in names and len(names) != 1:
                raise FramesError(
                    f"{path}: wanted an array named 'frames' or one array only, "
                    f"got {names}"
                )
            return loaded["frames" if "frames" in names else names[0]]
    except FramesError:
        raise
    except Exception as error:  # a damaged file can make the parsers raise anything
        raise _unreadable(path, error) from error


def _read_folder(path: Path) -> NDArray:
    files = [f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise FramesError(f"{path}: holds no PNG or PGM images")
    images: list[NDArray] = []
    for file in sorted(files, key=_natural_order):
        images.append(_read_image(file))
        size, first = images[-1].shape, images[0].shape
        if size != first:
            raise FramesError(f"{file}: size {size}, but frames before it have {first}")
    return np.stack(images)


def _read_image(path: Path) -> NDArray:
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # as above
        raise _unreadable(path, error) from error
    if mode not in GREYSCALE_MODES:
        raise FramesError(f"{path}: wanted a greyscale image, got mode {mode}")
    return values


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key under which frame 2 comes before frame 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]


def _unreadable(path: Path, error: Exception) -> FramesError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return FramesError(f"{path}: cannot be read ({reason})")


def reflectivity_pixels(values: NDArray, gain: float, offset: float) -> NDArray:
    """Pixels in [0, 1] of `dBZ = gain * values + offset`; value 0 is no echo."""
    dbz = gain * values.astype(np.float32) + offset
    pixels = np.clip((dbz - DBZ_FLOOR) / DBZ_RANGE, 0, 1)
    return np.where(values == 0, 0, pixels).astype(np.float32)


def brightness_pixels(values: NDArray, past: NDArray) -> NDArray:
    """Values scaled so that the past frames span [0, 1]."""
    lowest, highest = float(past.min()), float(past.max())
    span = highest - lowest
    return ((values - lowest) / (span if span > 0 else 1)).astype(np.float32)


def rain_rate(pixels: NDArray) -> NDArray:
    """Rain in mm/h from reflectivity pixels; no echo is no rain."""
    dbz = DBZ_RANGE * pixels.astype(np.float64) + DBZ_FLOOR
    rate = 10 ** ((dbz - 10 * np.log10(Z_A)) / (10 * Z_B))
    return np.where(pixels > 0, rate, 0)
