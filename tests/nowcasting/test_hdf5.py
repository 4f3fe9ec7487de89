"""HDF5 of weather services, of ODIM and others, and what importers of pysteps read."""

import numpy as np
import pytest

from trajgru_ext.nowcasting import (
    Decoding,
    FramesError,
    Reading,
    frames_of_triple,
    read_frames,
)

HEIGHT, WIDTH = 6, 5
RATES = np.arange(3 * HEIGHT * WIDTH, dtype=float).reshape(3, HEIGHT, WIDTH) / 8
TEN_MINUTES = Reading(Decoding(accumulation=10.0))


def write_odim(path, images, kind="COMP", **options):
    """Images: quantity, raw numbers and attributes of `what`."""
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("pyproj")
    with h5py.File(path, "w") as file:
        file.attrs["Conventions"] = np.bytes_("ODIM_H5/V2_2")
        about = {"object": kind, "date": "20160928", "time": "140500", **options}
        file.create_group("what").attrs.update(
            {name: np.bytes_(text) for name, text in about.items()}
        )
        corners = {
            "projdef": np.bytes_("+proj=utm +zone=35 +ellps=WGS84 +units=km"),
            **{"LL_lon": 25.0, "LL_lat": 60.0, "UR_lon": 26.0, "UR_lat": 61.0},
            **{"UL_lon": 25.0, "UL_lat": 61.0, "LR_lon": 26.0, "LR_lat": 60.0},
            **{"xsize": WIDTH, "ysize": HEIGHT, "xscale": 11e3, "yscale": 18e3},
        }
        file.create_group("where").attrs.update(corners)
        for number, (quantity, raw, more) in enumerate(images, 1):
            data = file.create_group(f"dataset{number}/data1")
            data["data"] = raw
            what = data.create_group("what").attrs
            what["quantity"] = np.bytes_(quantity)
            for name, value in more.items():
                what[name] = np.bytes_(value) if isinstance(value, str) else value
    return path


def test_odim_that_leaves_out_how_it_is_packed(tmp_path):
    """Then gain is 1, offset 0, 0 is no echo and nothing is missing, as in pysteps."""
    raw = np.array([[0, 7], [60, 255]], np.uint8).repeat(3, 0).repeat(3, 1)
    path = write_odim(tmp_path / "a.h5", [("DBZH", raw, {})])
    frames = read_frames(path)
    wanted = np.where(raw == 0, -np.inf, raw)
    assert np.array_equal(frames.values[0], wanted)
    assert frames.times == np.datetime64("2016-09-28T14:05")


def test_odim_lies_where_its_corners_do(tmp_path):
    pyproj = pytest.importorskip("pyproj")
    path = write_odim(tmp_path / "a.h5", [("RATE", RATES[0], {})])
    grid = read_frames(path).grid
    back = pyproj.Transformer.from_crs(grid.projection, "EPSG:4326", always_xy=True)
    lower = grid.xs[0] - grid.dx / 2, grid.ys[-1] + grid.dy / 2
    upper = grid.xs[-1] + grid.dx / 2, grid.ys[0] - grid.dy / 2
    assert back.transform(*lower) == pytest.approx((25, 60))
    assert back.transform(*upper) == pytest.approx((26, 61))
    assert grid.pixel_metres == pytest.approx(18.6e3, rel=0.02)


def test_odim_amounts_have_a_duration(tmp_path):
    span = {"startdate": "20160928", "starttime": "133500"}
    span |= {"enddate": "20160928", "endtime": "140500"}
    path = write_odim(tmp_path / "a.h5", [("ACRR", RATES[0], span)])
    np.testing.assert_allclose(read_frames(path).values[0], RATES[0] * 2)
    np.testing.assert_allclose(read_frames(path, TEN_MINUTES).values[0], RATES[0] * 6)
    for less in ({}, span | {"starttime": "140500"}):
        write_odim(path, [("ACRR", RATES[0], less)])
        with pytest.raises(FramesError, match="no duration: give --accumulation"):
            read_frames(path)


def test_odim_of_several_images_wants_a_choice(tmp_path):
    images = [("QIND", RATES[2], {}), ("TH", RATES[0], {}), ("DBZH", RATES[1], {})]
    path = write_odim(tmp_path / "a.h5", images)
    with pytest.raises(FramesError, match=r"dataset2/data1 of TH.*choose one by --var"):
        read_frames(path)
    for name in ("DBZH", "dataset3/data1"):
        frames = read_frames(path, Reading(variable=name))
        assert np.array_equal(frames.values[0, 1:], RATES[1, 1:])
    with pytest.raises(FramesError, match=r"quantities RATE, got \['QIND'"):
        read_frames(path, Reading(variable="RATE"))


@pytest.mark.parametrize("kind", ["PVOL", "SCAN", "CVOL", "XSEC"])
def test_odim_volumes_are_refused(tmp_path, kind):
    path = write_odim(tmp_path / "a.h5", [("DBZH", RATES[0], {})], kind)
    with pytest.raises(FramesError, match=rf"a.h5: wanted the object COMP.*{kind}"):
        read_frames(path)


def test_knmi_of_another_calibration_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "knmi.h5"
    with h5py.File(path, "w") as file:
        file.create_group("geographic")
        calibration = file.create_group("image1/calibration")
        calibration.attrs["calibration_formulas"] = np.bytes_("GEO=0.5*PV+-31.5")
    with pytest.raises(FramesError, match=r"of KNMI, got 'GEO=0.5"):
        read_frames(path)


def test_importers_of_pysteps_by_name(tmp_path):
    pytest.importorskip("pysteps")
    path = write_odim(
        tmp_path / "201609281410.any",
        [("ACRR", RATES[0], {"undetect": -1.0, "nodata": -2.0})],
        startdate="20160928",
    )
    options = (("qty", "ACRR"),)
    reading = Reading(Decoding(accumulation=5.0), "odim_hdf5", options)
    frames = read_frames(path, reading)
    np.testing.assert_allclose(frames.values[0], RATES[0] * 12)
    assert frames.times == np.datetime64("2016-09-28T14:10")
    with pytest.raises(FramesError, match=r"no importer 'none', but .*odim_hdf5"):
        read_frames(path, Reading(importer="none"))


def test_amounts_of_a_triple():
    amounts = np.ma.masked_equal(RATES, RATES[0, 0, 1])
    metadata = {"unit": "mm", "accutime": 15.0, "transform": None}
    frames = frames_of_triple((amounts, None, metadata))
    assert np.isnan(frames.values[0, 0, 1])
    np.testing.assert_allclose(frames.values[1], RATES[1] * 4)
    with pytest.raises(FramesError, match="under transform dB"):
        frames_of_triple((amounts, None, {**metadata, "transform": "dB"}))
