"""Real files of four weather services, against what other libraries read in them."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from trajgru_ext.nowcasting import Archive, Reading
from trajgru_ext.nowcasting.readers import opened


@pytest.fixture
def service(request):
    pytest.importorskip("pyproj")
    root = request.config.getoption("--radar-archive")
    if root is None:
        pytest.skip("needs files of weather services: --radar-archive FOLDER")
    return lambda name: sorted(path for path in (Path(root) / name).rglob("*.*"))


def frames_of(path):
    with opened(path, Reading()) as contents:
        return contents.frames()


def test_finland(service):
    """PGM with comments, as its bytes are."""
    pytest.importorskip("pysteps")
    path = service("fmi")[7]
    text = gzip.decompress(path.read_bytes())
    header = re.match(rb"P5\n(?:#[^\n]*\n)*(\d+) (\d+)\n(\d+)\n", text)
    width, height = int(header[1]), int(header[2])
    raw = np.frombuffer(text[header.end() :], np.uint8).reshape(height, width)
    frames = frames_of(path)
    assert frames.quantity == "reflectivity"
    [values] = frames.values
    assert np.array_equal(np.isnan(values), raw == 255)
    assert np.array_equal(values == -np.inf, raw == 0)
    some = (raw > 0) & (raw < 255)
    assert np.array_equal(values[some], raw[some] / 2 - 32)
    [time] = re.findall(rb"obstime (\d{12})", header[0])
    written = str(frames.times[0]).translate(str.maketrans("", "", "-:T"))
    assert written == time.decode() + "00"
    grid = frames.grid
    assert grid.dx == pytest.approx(999.674053, abs=0.1)
    assert grid.dy == pytest.approx(-999.62859, abs=0.2)
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True)
    corner = to_degrees.transform(grid.xs[0] - grid.dx / 2, grid.ys[-1] + grid.dy / 2)
    assert corner == pytest.approx((18.6, 57.93), abs=0.01)  # bottomleft


def test_netherlands(service):
    """KNMI's own HDF5, by its calibration."""
    pytest.importorskip("pysteps")
    h5py = pytest.importorskip("h5py")
    path = service("knmi")[60]
    with h5py.File(path) as file:
        raw = file["image1/image_data"][()]
        calibration = file["image1/calibration"].attrs
        formula = calibration["calibration_formulas"].decode()
        missing = calibration["calibration_missing_data"][0]
        end = file["overview"].attrs["product_datetime_end"][0].decode()
        corners = file["geographic"].attrs["geo_product_corners"]
    assert formula == "GEO=0.01*PV+0.0"
    frames = frames_of(path)
    assert frames.quantity == "rain"
    [values] = frames.values
    assert np.array_equal(np.isnan(values), raw == missing)
    known = raw != missing
    # Hundredths of mm in five minutes.
    np.testing.assert_allclose(values[known], raw[known] * 0.01 * 12)
    assert str(frames.times[0]).endswith(end.split(";")[1][:8])
    from pyproj import Proj

    grid = frames.grid
    to_degrees = Proj(grid.projection)
    lower = to_degrees(
        grid.xs[0] - grid.dx / 2, grid.ys[-1] + grid.dy / 2, inverse=True
    )
    upper = to_degrees(
        grid.xs[-1] + grid.dx / 2, grid.ys[0] - grid.dy / 2, inverse=True
    )
    assert lower == pytest.approx(corners[:2], abs=0.01)
    assert upper == pytest.approx(corners[4:6], abs=0.01)


def test_australia(service):
    """NetCDF amounts of ten minutes, by the packed integers."""
    h5py = pytest.importorskip("h5py")
    path = service("bom")[11]
    with h5py.File(path) as file:
        raw = file["precipitation"][()]
        packing = dict(file["precipitation"].attrs)
        start, end = file["start_time"][()], file["valid_time"][()]
        x = file["x"][()]
        y = file["y"][()]
    frames = frames_of(path)
    assert frames.quantity == "rain"
    [values] = frames.values
    missing = raw == packing["_FillValue"]
    assert np.array_equal(np.isnan(values), missing)
    minutes = (end - start) / 60
    assert minutes == 10
    rate = raw * packing["scale_factor"] * 60 / minutes
    np.testing.assert_allclose(values[~missing], rate[~missing], atol=1e-6)
    assert frames.times[0] == np.datetime64(int(end), "s")
    np.testing.assert_allclose(frames.grid.xs, 1000 * x)
    np.testing.assert_allclose(frames.grid.ys, 1000 * y)
    assert "Albers" in frames.grid.projection
    assert not frames.grid.degrees


def test_united_states(service):
    """GRIB2 rates in degrees, by another library than pysteps."""
    pytest.importorskip("pysteps")
    pygrib = pytest.importorskip("pygrib")
    path = service("mrms")[0]
    frames = frames_of(path)
    with pygrib.open(str(path)) as file:
        message = file.message(1)
        raw = np.ma.filled(message.values, -3.0)
        corner = message["latitudeOfFirstGridPointInDegrees"]
        assert str(frames.times[0])[:16] == message.validDate.isoformat()[:16]
    assert frames.quantity == "rain"
    [values] = frames.values
    assert values.shape == (3500, 7000)
    assert np.array_equal(np.isnan(values), raw < 0)
    np.testing.assert_allclose(values[raw >= 0], raw[raw >= 0], rtol=1e-6)
    grid = frames.grid
    assert grid.degrees
    assert grid.ys[0] == pytest.approx(corner)
    assert grid.xs[0] == pytest.approx(-129.995, abs=1e-6)
    assert (grid.dx, grid.dy) == pytest.approx((0.01, -0.01))


@pytest.mark.parametrize(
    ("name", "count", "minutes", "first", "last"),
    [
        ("fmi", 40, 5, "2016-09-28T14:45", "2016-09-28T18:00"),
        ("knmi", 92, 5, "2010-08-26T00:00", "2010-08-26T07:35"),
        ("bom", 144, 10, "2020-10-31T00:00", "2020-10-31T23:50"),
    ],
)
def test_a_day_is_one_event(service, name, count, minutes, first, last):
    if name != "bom":
        pytest.importorskip("pysteps")
    root = service(name)[0].parents[3]
    archive = Archive(root, progress=False)
    [series] = archive.series
    assert len(series.times) == count
    assert archive.minutes == minutes
    assert series.times[0] == np.datetime64(first)
    assert series.times[-1] == np.datetime64(last)
