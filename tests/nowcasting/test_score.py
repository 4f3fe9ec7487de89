"""Forecasts of files against frames: where pixels lie, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from trajgru_ext import cli
from trajgru_ext.nowcasting import Grid
from trajgru_ext.nowcasting.forecast_files import read_forecast
from trajgru_ext.nowcasting.frames import FramesError

COUNT, HEIGHT, WIDTH = 6, 20, 27
XS, YS = 1e3 * np.arange(WIDTH), 9e4 - 1e3 * np.arange(HEIGHT)
START = np.datetime64("2016-09-28T14:00", "ns")
STEP = np.timedelta64(5, "m")


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    pytest.importorskip("h5netcdf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rain(seed=0):
    return np.random.default_rng(seed).gamma(0.3, 6.0, (COUNT, HEIGHT, WIDTH))


def dataset_of(values, first=0, units="mm/h", **more):
    xarray = pytest.importorskip("xarray")
    metres = {"units": "m"}
    axes = ("time", "y", "x")
    if values.ndim == 4:
        axes = ("ens_number", *axes)
    times = START + (first + np.arange(values.shape[-3])) * STEP
    places = {"y": ("y", YS, metres), "x": ("x", XS, metres)}
    variables = {"precip": (axes, values, {"units": units}), **more}
    return xarray.Dataset(variables, {"time": times, **places})


def write(dataset, path):
    dataset.to_netcdf(path, engine="h5netcdf")
    return str(path)


def score(folder, *files, options=()):
    """The scores of files against the frames."""
    if not (folder / "frames.nc").exists():
        write(dataset_of(rain()), folder / "frames.nc")
    data = ["--frames", str(folder / "frames.nc"), "--forecasts", *files, *options]
    assert cli.main(["nowcast", "score", *data, "--output", str(folder / "out")]) == 0
    return json.loads((folder / "out" / "scores.json").read_text())["forecast"]


def test_rows_may_be_in_any_order(tmp_path):
    """pysteps and others begin in the south, where frames may begin in the north."""
    perfect = dataset_of(rain()[2:], 2)
    files = (
        perfect,
        perfect.isel(y=slice(None, None, -1)),
        perfect.isel(x=slice(None, None, -1)).transpose("time", "x", "y"),
    )
    for file in files:
        found = score(tmp_path, write(file, tmp_path / "f.nc"))
        csi = np.array(found["csi"], float)  # NaN where it never rains so hard
        assert (csi[:, :4] == 1).all()
        assert np.array(found["b_mse"]) == pytest.approx(0, abs=1e-4)
    turned = perfect.assign_coords(y=perfect["y"][::-1])
    found = score(tmp_path, write(turned, tmp_path / "f.nc"))
    assert np.nanmax(np.array(found["csi"], float)) < 0.9


def failing(capsys, folder, *files, options=()):
    with pytest.raises(SystemExit) as exit:
        score(folder, *files, options=options)
    assert exit.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    [error] = [line for line in lines if line.startswith("trajgru-ext nowcast: error")]
    return error


def test_what_cannot_be_scored_is_one_sentence(tmp_path, capsys):
    forecast = dataset_of(rain()[2:], 2)
    elsewhere = forecast.assign_coords(x=forecast["x"] + 1000)
    file = write(elsewhere, tmp_path / "elsewhere.nc")
    assert "elsewhere.nc: is of 20x27 pixels of 1000 m from (1000, " in failing(
        capsys, tmp_path, file
    )
    smaller = write(forecast.isel(x=slice(5)), tmp_path / "smaller.nc")
    error = failing(capsys, tmp_path, smaller)
    assert "smaller.nc: is of 20x5 pixels, the frames of 20x27" in error
    whole = write(forecast, tmp_path / "whole.nc")
    shorter = write(forecast.isel(time=[0, 1]), tmp_path / "shorter.nc")
    error = failing(capsys, tmp_path, whole, shorter)
    assert "wanted forecasts of as many frames each, got" in error
    assert "shorter.nc: 2" in error
    later = write(dataset_of(rain(), 500), tmp_path / "later.nc")
    assert "frames.nc has no frame of 2016-09-30T" in failing(capsys, tmp_path, later)
    (tmp_path / "text.nc").write_text("no NetCDF")
    text = str(tmp_path / "text.nc")
    assert "text.nc: cannot be read (" in failing(capsys, tmp_path, text)
    options = ["--quantity", "reflectivity", "--gain", "0.5"]
    error = failing(capsys, tmp_path, whole, options=options)
    assert "--quantity, --gain: the files of" in error
    assert "say that their numbers are rain" in error


def test_forecasts_by_another_relation_are_refused(tmp_path, capsys):
    reflectivity = dataset_of(10 * np.log10(rain() + 0.1), units="dBZ")
    write(reflectivity, tmp_path / "frames.nc")
    file = write(
        dataset_of(rain()).assign_attrs(z_r_relation="Z = 223 R^1.53"),
        tmp_path / "f.nc",
    )
    error = failing(capsys, tmp_path, file)
    assert "made rain by Z = 223 R^1.53, the frames by Z = 58.53 R^1.56" in error
    assert score(tmp_path, file, options=["--zr", "223,1.53"])


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ("0,1", "--thresholds: wanted a finite number of 1e-09 or more, got 0"),
        ("0.001", "0.001 mm/h are not between -10 and 60 dBZ by Z = 58.53"),
        ("1,600", "600 mm/h are not between -10 and 60 dBZ"),
    ],
)
def test_thresholds_beyond_pixels_are_refused(tmp_path, capsys, thresholds, message):
    """At or above 0 is every pixel, and above the highest is none."""
    file = write(dataset_of(rain()), tmp_path / "f.nc")
    options = ["--thresholds", thresholds]
    with pytest.raises(SystemExit):
        score(tmp_path, file, options=options)
    assert message in capsys.readouterr().err


def test_several_variables_are_refused(tmp_path):
    more = {"other": (("time", "y", "x"), rain(), {"units": "mm h-1"})}
    path = write(dataset_of(rain(), **more), tmp_path / "f.nc")
    with pytest.raises(FramesError, match="wanted one variable of rain rates"):
        read_forecast(tmp_path / "f.nc")
    assert path


def test_amounts_are_of_the_step(tmp_path):
    write(dataset_of(rain() / 12, units="mm"), tmp_path / "f.nc")
    made = read_forecast(tmp_path / "f.nc")
    np.testing.assert_allclose(made.mean, rain(), rtol=1e-5)
    assert made.grid.same_places(Grid(HEIGHT, WIDTH, "", 0, 9e4, 1e3, -1e3))


def test_members_of_others_are_scored(tmp_path):
    """Of members that are alike, CRPS is the mean absolute error."""
    truth = rain()
    wrong = truth[2:] + 2.0
    apart = np.stack([wrong + 1.0, wrong - 1.0])
    found = score(tmp_path, write(dataset_of(apart, 2), tmp_path / "f.nc"))
    alike = np.stack([wrong, wrong])
    same = score(tmp_path, write(dataset_of(alike, 2), tmp_path / "f.nc"))
    assert np.array(same["crps"]) == pytest.approx(2.0, abs=0.05)
    # mean |x - y| = 2, less half the mean distance of members, 1/2 * 1.
    assert np.array(found["crps"]) == pytest.approx(1.5, abs=0.05)
    counted = np.array(found["reliability_forecasts"])
    assert counted.sum(1) == pytest.approx(4 * HEIGHT * WIDTH)
    # 10 mm/h: none of both members, or of one, or of two.
    came = truth[2:]
    for share, place in ((0.0, 0), (0.5, 5), (1.0, 9)):
        which = (apart >= 10).mean(0) == share
        assert counted[3, place] == which.sum()
        frequency = found["reliability_frequency"][3][place]
        assert frequency == pytest.approx((came[which] >= 10).mean())


# In a process of its own: netCDF4 has an HDF5 beside h5py's, which may crash a process.
EXPORT = """
import sys
from datetime import datetime
import numpy as np
from pysteps.io import exporters
folder, members = sys.argv[1], int(sys.argv[2])
rain = np.load(folder + "/rain.npy")
metadata = {
    "projection": "+proj=stere +lat_0=90 +lon_0=25 +lat_ts=60 +x_0=0 +y_0=0",
    "x1": -500, "x2": 26500, "y1": 70500, "y2": 90500, "yorigin": "upper",
    "xpixelsize": 1000, "ypixelsize": 1000, "cartesian_unit": "m", "unit": "mm/h",
    "transform": None, "institution": "", "accutime": 5, "threshold": 0.1,
    "zerovalue": 0.0,
}
exporter = exporters.initialize_forecast_exporter_netcdf(
    folder, "pysteps", datetime(2016, 9, 28, 14, 5), 5, 4, rain.shape[1:], metadata,
    n_ens_members=members,
)
made = rain if members == 1 else np.stack([rain] * members)
exporters.export_forecast_dataset(made, exporter)
exporters.close_forecast_files(exporter)
"""


@pytest.mark.parametrize("members", [1, 2])
def test_files_of_pysteps_are_scored(tmp_path, members):
    pytest.importorskip("pysteps")
    pytest.importorskip("netCDF4")
    np.save(tmp_path / "rain.npy", rain()[2:])
    line = [sys.executable, "-c", EXPORT, str(tmp_path), str(members)]
    subprocess.run(line, check=True, capture_output=True)
    found = score(tmp_path, str(tmp_path / "pysteps.nc"))
    # Packed in thousandths.
    csi = np.array(found["csi"], float)
    assert csi[:, :4] == pytest.approx(1, abs=0.02)
    assert ("crps" in found) == (members > 1)
