"""Frames of HDF5: composites of ODIM, by h5py, and of KNMI, by pysteps."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajgru_ext.nowcasting._contents import Contents, contents_of
from trajgru_ext.nowcasting._libraries import library
from trajgru_ext.nowcasting._pysteps import imported
from trajgru_ext.nowcasting.frames import NO_DURATION, Frames, FramesError, Reading
from trajgru_ext.nowcasting.grids import Grid, grid_of_corners, in_metres

# ODIM's kinds of files that hold images, and its names of quantities.
OBJECTS = ("COMP", "IMAGE")
ACCUMULATED = "ACRR"
QUANTITIES = {
    **dict.fromkeys(("TH", "TV", "DBZ", "DBZH", "DBZV"), "reflectivity"),
    **dict.fromkeys(("RATE", ACCUMULATED), "rain"),
}
# KNMI's calibrations that pysteps knows: gain, offset.
KNMI = {(0.01, 0.0): ACCUMULATED, (0.5, -32.0): "DBZH"}
# What pysteps takes where a file leaves these out; NaN is equal to no value.
DEFAULTS = {"gain": 1.0, "offset": 0.0, "nodata": np.nan, "undetect": 0.0}


def read_hdf5(path: Path, reading: Reading) -> Contents:
    """One frame of an ODIM or KNMI composite.

    pysteps has an importer of ODIM too (`--importer odim_hdf5`), which knows neither
    total reflectivity nor, of accumulations, their duration.
    """
    with library("h5py").File(path) as file:
        if "image1" in file and "geographic" in file:
            product = _knmi_quantity(file)
            minutes = reading.decoding.accumulation
            if minutes is None and product == ACCUMULATED:
                minutes = _knmi_minutes(file)
        elif "Conventions" not in file.attrs and "what" not in file:
            raise FramesError(f"wanted ODIM or KNMI HDF5, got groups {list(file)}")
        else:
            return _read_odim(file, reading)
    return imported(path, "knmi_hdf5", minutes, qty=product)


def _knmi_quantity(file: Any) -> str:
    """What the calibration is of, among those that pysteps takes for given."""
    formula = _text(file["image1/calibration"].attrs.get("calibration_formulas", b""))
    found = re.fullmatch(r"GEO=(.+)\*PV\+?(.+)", re.sub(r"\s", "", formula))
    quantity = KNMI.get((float(found[1]), float(found[2]))) if found else None
    if quantity is None:
        raise FramesError(
            "wanted hundredths of mm (GEO=0.01*PV+0) or half dBZ (GEO=0.5*PV-32) of "
            f"KNMI, got {formula!r}"
        )
    return quantity


def _knmi_minutes(file: Any) -> float:
    ends = [_knmi_time(file, end) for end in ("start", "end")]
    minutes = float((ends[1] - ends[0]) / np.timedelta64(1, "m"))
    if minutes <= 0:
        raise FramesError(NO_DURATION)
    return minutes


def _knmi_time(file: Any, end: str) -> np.datetime64:
    text = _text(file["overview"].attrs[f"product_datetime_{end}"])
    return np.datetime64(datetime.strptime(text, "%d-%b-%Y;%H:%M:%S.%f"), "s")


def time_of(path: Path) -> np.datetime64 | None:
    """The valid time that the attributes say."""
    with library("h5py").File(path) as file:
        if "overview" in file:
            return _knmi_time(file, "end")
        what = _attributes(file, "what")
        if not {"date", "time"} <= what.keys():
            return None
        return np.datetime64(
            datetime.strptime(what["date"] + what["time"], "%Y%m%d%H%M%S"),
            "s",
        )


def signature(path: Path) -> str:
    """All attributes but those of times, by where they are."""
    found = []

    def note(name: str, group: Any) -> None:
        attributes = {
            key: np.asarray(value).tolist()
            for key, value in group.attrs.items()
            if not re.search("date|time|stat_|max|min", key)
        }
        shape = getattr(group, "shape", "")
        if name.split("/")[-1] not in ("how", "statistics"):
            found.append(f"{name} {shape} {sorted(attributes.items())}")

    with library("h5py").File(path) as file:
        file.visititems(note)
    return " ".join(found)


def _read_odim(file: Any, reading: Reading) -> Contents:
    kind = _attributes(file, "what").get("object")
    if kind not in OBJECTS:
        raise FramesError(
            f"wanted the object {' or '.join(OBJECTS)} of ODIM, got {kind}"
        )
    wanted = [reading.variable] if reading.variable else list(QUANTITIES)
    images = {}
    for dataset in _numbered(file, "dataset"):
        for data in _numbered(dataset, "data"):
            # What holds for a whole file or dataset need not be said again.
            groups = file, dataset, data
            what, where = (
                {k: v for group in groups for k, v in _attributes(group, name).items()}
                for name in ("what", "where")
            )
            images[data.name.strip("/")] = {**DEFAULTS, **what}, where
    found = {place: what.get("quantity") for place, (what, _) in images.items()}
    fitting = [
        place
        for place, quantity in found.items()
        if quantity in QUANTITIES and {place, quantity} & set(wanted)
    ]
    if not fitting:
        raise FramesError(
            f"wanted one of the quantities {', '.join(wanted)}, got "
            f"{list(found.values())}"
        )
    if len(fitting) > 1:
        several = ", ".join(f"{place} of {found[place]}" for place in fitting)
        raise FramesError(f"has {several}: choose one by --variable")
    [place] = fitting
    what, where = images[place]
    values = _decode(file[place]["data"][()], what)
    if found[place] == ACCUMULATED:
        values *= 60 / (reading.decoding.accumulation or _odim_minutes(what))
    grid = _odim_grid(where, (values.shape[0], values.shape[1]))
    quantity = QUANTITIES[str(found[place])]
    return contents_of(Frames(values[None], quantity, None, grid))


def _odim_minutes(what: Mapping[str, Any]) -> float:
    names = [f"{end}{part}" for end in ("start", "end") for part in ("date", "time")]
    if not set(names) <= what.keys():
        raise FramesError(NO_DURATION)
    start, end = (
        datetime.strptime(what[f"{e}date"] + what[f"{e}time"], "%Y%m%d%H%M%S")
        for e in ("start", "end")
    )
    if end <= start:
        raise FramesError(NO_DURATION)
    return (end - start).total_seconds() / 60


def _odim_grid(where: Mapping[str, Any], shape: tuple[int, int]) -> Grid | None:
    corners = [f"{end}_{axis}" for end in ("LL", "UR") for axis in ("lon", "lat")]
    if not {"projdef", *corners} <= where.keys():
        return None
    to_map = library("pyproj").Proj(in_metres(where["projdef"]))
    lower = to_map(float(where["LL_lon"]), float(where["LL_lat"]))
    upper = to_map(float(where["UR_lon"]), float(where["UR_lat"]))
    unit = "degrees" if to_map.crs.is_geographic else "m"
    return grid_of_corners(shape, where["projdef"], (*lower, *upper), unit)


def _decode(raw: NDArray[Any], what: Mapping[str, Any]) -> NDArray[Any]:
    values: NDArray[Any] = what["gain"] * raw.astype(np.float64) + what["offset"]
    dbz = QUANTITIES[what["quantity"]] == "reflectivity"
    values[raw == what["undetect"]] = -np.inf if dbz else 0
    values[raw == what["nodata"]] = np.nan
    return values


def _numbered(group: Any, name: str) -> list[Any]:
    """The groups name1, name2, ... in this order."""
    names = [key for key in group if re.fullmatch(rf"{name}[0-9]+", key)]
    return [group[key] for key in sorted(names, key=lambda key: int(key[len(name) :]))]


def _attributes(group: Any, name: str) -> dict[str, Any]:
    attributes = group[name].attrs if name in group else {}
    return {key: _text(value) for key, value in attributes.items()}


def _text(value: Any) -> Any:
    """Text as such, whatever h5py has made of it."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value.decode() if isinstance(value, bytes) else value
