"""Forecasts from checkpoints: sizes, files, refusals, ensembles and their scores."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from trajgru_ext import cli
from trajgru_ext.nowcasting import ZR, Frames, Grid, drawing, errors, radar, tiles
from trajgru_ext.nowcasting.datasets import Forecast, write_geotiffs, write_netcdf
from trajgru_ext.nowcasting.drawing import Picture
from trajgru_ext.nowcasting.network import network
from trajgru_ext.nowcasting.nowcaster import Nowcaster, nowcast
from trajgru_ext.nowcasting.training import Training

PROJECTION = "+proj=stere +lat_0=90 +lat_ts=60 +lon_0=25 +a=6371288 +units=m"
GRID = Grid(20, 27, PROJECTION, 1500.0, 9500.0, 1000.0, -1000.0)
FINNISH = ZR(223.0, 1.53)
BANDS = len(errors.WIDTHS) + 1
ERRORS = {
    "sizes": [[0.03] * BANDS] * 3,
    "total": [0.05] * 3,
    "correlation": [0.5] * BANDS,
}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    data = {"quantity": "rain", "zr": [223.0, 1.53], "minutes": 5.0}
    settings = {"model": "conv_gru", "past": 2, "ahead": 3, "rate": 1e-3, "steps": 1}
    settings["data"] = {**data, "pixel_metres": 1000.0}
    training = Training(network("conv_gru", 3), settings, torch.device("cpu"))
    training.errors = ERRORS
    path = tmp_path / "best.pt"
    training.save(path)
    return path


def some_frames(count=3, **changes):
    rain = np.random.default_rng(0).gamma(0.3, 6.0, (count, 20, 27))
    rain[:, :3, :4] = np.nan
    rain[-1, 10, 10] = np.nan
    times = np.datetime64("2016-09-28T14:00", "s") + 300 * np.arange(count).astype(
        "timedelta64[s]"
    )
    given = {"quantity": "rain", "times": times, "grid": GRID, "zr": FINNISH}
    return Frames(rain, **{**given, **changes})


def test_any_size_and_number_of_frames(checkpoint):
    caster = Nowcaster.load(checkpoint)
    forecast = caster.forecast(some_frames(), 5)
    assert forecast.values.shape == (5, 20, 27)
    # Unknown where no frame knew anything, and only there.
    assert np.isnan(forecast.values[:, :3, :4]).all()
    assert np.isfinite(forecast.values[:, 3:]).all()
    assert (forecast.values[:, 3:] >= 0).all()
    assert str(forecast.times[0]) == "2016-09-28T14:15:00"
    shorter = caster.forecast(some_frames())
    np.testing.assert_array_equal(shorter.values, forecast.values[:3])
    pixels = radar.rain_to_pixels(torch.from_numpy(some_frames().values[1:]), FINNISH)
    padded = torch.zeros(2, 1, 1, 24, 32)
    filled = pixels.nan_to_num(0.0).float()
    filled[1, 10, 10] = filled[0, 10, 10]
    padded[:, 0, 0, :20, :27] = filled
    with torch.no_grad():
        plain = caster.net(padded)[:, 0, 0, :20, :27]
    wanted = radar.pixels_to_rain(plain.clamp(0, 1), FINNISH)
    seen = torch.from_numpy(forecast.values[:3])
    known = ~seen.isnan()
    torch.testing.assert_close(seen[known], wanted[known], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (some_frames(1), "reads 2 frames, got 1"),
        (some_frames(times=some_frames().times[[0, 1, 1]]), "steps of 0"),
        (
            some_frames(zr=ZR()),
            r"makes rain by Z = 223 R\^1.53, the frames by Z = 58.53",
        ),
        (
            some_frames(grid=Grid(20, 27, "", 0.0, 0.0, 500.0, 500.0)),
            "reads pixels of 1000 m, got 500 m",
        ),
    ],
    ids=["few", "step", "zr", "pixels"],
)
def test_frames_that_do_not_fit_are_refused(checkpoint, frames, message):
    with pytest.raises(ValueError, match=message):
        Nowcaster.load(checkpoint).forecast(frames)


def test_what_is_no_checkpoint_is_named(tmp_path, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state["settings"].pop("data")
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match=r"best.pt: is no checkpoint of trajgru-ext"):
        Nowcaster.load(checkpoint)


def test_tiles_join_without_a_seam(monkeypatch):
    """A forecast of what each pixel was is the same in tiles."""
    past = torch.rand(2, 40, 56)
    monkeypatch.setattr(tiles, "WHOLE", 10)
    monkeypatch.setattr(tiles, "TILE", 16)
    monkeypatch.setattr(tiles, "OVERLAP", 4)
    sizes = set()

    def make(tile):
        sizes.add(tuple(tile.shape))
        return tile[-1:].expand(3, -1, -1)

    made = tiles.in_tiles(make, past, 3)
    assert sizes == {(2, 16, 16)}
    torch.testing.assert_close(made, past[-1:].expand(3, -1, -1))


def test_pysteps_and_xarray_frames(checkpoint):
    xarray = pytest.importorskip("xarray")
    frames = some_frames()
    caster = Nowcaster.load(checkpoint)
    wanted = caster.forecast(frames).values
    triple = frames.values, None, {"unit": "mm/h", "transform": None}
    np.testing.assert_allclose(caster.forecast(triple).values, wanted, rtol=1e-5)
    array = xarray.DataArray(
        frames.values,
        {"time": frames.times, "y": GRID.ys, "x": GRID.xs},
        ("time", "y", "x"),
        attrs={"units": "mm/h"},
    )
    made = caster.forecast(array)
    np.testing.assert_allclose(made.values, wanted, rtol=1e-5)
    assert made.reference == frames.times[-1]
    as_pysteps = nowcast(frames.values, None, 3, checkpoint=checkpoint)
    np.testing.assert_allclose(as_pysteps, wanted, rtol=1e-5)
    some = nowcast(frames.values, None, [1, 3], checkpoint=checkpoint, n_ens_members=2)
    assert some.shape == (2, 2, 20, 27)
    unmasked = np.where(np.isnan(frames.values), 50.0, frames.values)
    masked = np.ma.masked_array(unmasked, np.isnan(frames.values))
    as_pysteps = nowcast(masked, None, 3, checkpoint=checkpoint)
    np.testing.assert_allclose(as_pysteps, wanted, rtol=1e-5)
    with pytest.raises(TypeError, match="knows no options kmperpixel"):
        nowcast(frames.values, None, 1, checkpoint=checkpoint, kmperpixel=1)


def test_netcdf_says_all(tmp_path, checkpoint):
    xarray = pytest.importorskip("xarray")
    pyproj = pytest.importorskip("pyproj")
    forecast = Nowcaster.load(checkpoint).forecast(some_frames(), members=4)
    path = tmp_path / "forecast.nc"
    write_netcdf(forecast.to_xarray([0.5, 5.0], "test"), path, forecast.reference)
    options = {"engine": "h5netcdf", "decode_timedelta": False}
    with xarray.open_dataset(path, **options) as dataset:
        rain = dataset["precip_intensity"]
        assert rain.dims == ("member", "time", "y", "x")
        assert rain.attrs["units"] == "mm h-1"
        assert dataset.attrs["Conventions"] == "CF-1.10"
        assert dataset.attrs["z_r_relation"] == "Z = 223 R^1.53"
        assert "test" in dataset.attrs["history"]
        np.testing.assert_allclose(dataset["x"], GRID.xs)
        np.testing.assert_allclose(dataset["y"], GRID.ys)
        assert dataset["time"].encoding["units"].startswith("seconds since 2016-09-28")
        np.testing.assert_allclose(dataset["lead_time"].astype(float), [5, 10, 15])
        mapping = dataset[rain.attrs["grid_mapping"]].attrs
        crs = pyproj.CRS.from_cf(mapping)
        assert crs.equals(pyproj.CRS(PROJECTION), ignore_axis_order=True)
        shares = dataset["probability"]
        count = (rain >= 5.0).mean("member").to_numpy()
        known = np.isfinite(forecast.values)
        np.testing.assert_allclose(shares[1].to_numpy()[known], count[known])


def test_pysteps_opens_the_netcdf(tmp_path, checkpoint):
    pytest.importorskip("pysteps")
    from pysteps.io.nowcast_importers import import_netcdf_pysteps

    forecast = Nowcaster.load(checkpoint).forecast(some_frames())
    path = tmp_path / "forecast.nc"
    write_netcdf(forecast.to_xarray(), path, forecast.reference)
    values, metadata = import_netcdf_pysteps(str(path), onerror="raise")
    np.testing.assert_allclose(values, forecast.values, rtol=1e-6)
    assert metadata["leadtimes"].tolist() == [5, 10, 15]
    assert metadata["unit"] == "mm/h"
    assert "+proj=stere" in metadata["projection"]


def test_geotiffs_lie_where_the_frames_do(tmp_path, checkpoint):
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("rioxarray")
    forecast = Nowcaster.load(checkpoint).forecast(some_frames())
    paths = write_geotiffs(forecast, tmp_path)
    assert [path.name for path in paths][:1] == ["201609281415.tif"]
    with rasterio.open(paths[2]) as image:
        np.testing.assert_allclose(image.read(1), forecast.values[2], rtol=1e-6)
        assert image.transform * (0, 0) == (1000.0, 10000.0)
        assert image.crs is not None
        assert np.isnan(image.nodata)


def test_geotiffs_of_seconds_and_of_no_grid(tmp_path):
    pytest.importorskip("rioxarray")
    rasterio = pytest.importorskip("rasterio")
    start = np.datetime64("2016-09-28T14:00:00")
    rates = np.random.default_rng(0).random((3, 20, 27)).astype(np.float32)
    forecast = Forecast(rates, None, False, start, 0.5, None, ZR())
    paths = write_geotiffs(forecast, tmp_path)
    names = [path.stem for path in paths]
    assert names == ["20160928140030", "20160928140100", "20160928140130"]
    with rasterio.open(paths[1]) as image:
        assert np.array_equal(image.read(1), rates[1])


def test_gdal_opens_the_netcdf(tmp_path, checkpoint):
    """What QGIS reads it with."""
    rasterio = pytest.importorskip("rasterio")
    forecast = Nowcaster.load(checkpoint).forecast(some_frames())
    path = tmp_path / "forecast.nc"
    write_netcdf(forecast.to_xarray(), path, forecast.reference)
    if "netCDF" not in rasterio.drivers.raster_driver_extensions().values():
        pytest.skip("this GDAL has no driver of NetCDF")
    with rasterio.open(f"netcdf:{path}:precip_intensity") as image:
        assert image.count == 3
        np.testing.assert_allclose(image.read(2), forecast.values[1], rtol=1e-6)
        assert image.transform * (0, 0) == (1000.0, 10000.0)
        assert "Stereographic" in image.crs.to_wkt()


def test_pictures_have_the_north_above_and_the_proportions_of_a_map():
    rising = Grid(4, 4, "", 20.0, 59.0, 0.02, 0.01, degrees=True)
    falling = Grid(4, 4, "", 0.0, 0.0, 1000.0, -2000.0)
    for grid, origin, aspect in (
        (rising, "lower", 0.5 / np.cos(np.radians(59.015))),
        (falling, "upper", 2.0),
        (None, "upper", 1.0),
    ):
        frame = torch.zeros(4, 4)
        rows = {"forecast": frame[None]}
        picture = Picture(frame[None], rows, None, 5.0, True, "", "", grid=grid)
        image = drawing._show(Figure().subplots(), picture, frame)
        assert image.origin == origin
        assert image.axes.get_aspect() == pytest.approx(aspect)


def test_members_have_the_errors_that_were_measured():
    """In rain, the spread at each lead time is that of the errors."""
    forecast = torch.full((3, 64, 64), 0.5)
    motion = torch.zeros(1, 2, 64, 64)
    sizes = [[0.01 * (t + 1)] * BANDS for t in range(3)]
    measured = {"sizes": sizes, "correlation": [0.8] * BANDS}
    measured["total"] = [0.02, 0.04, 0.06]
    members = errors.make_members(forecast, motion, measured, 20, seed=1)
    assert torch.equal(
        members, errors.make_members(forecast, motion, measured, 20, seed=1)
    )
    spread = (members - 0.5).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(spread, torch.tensor(measured["total"]))
    # What one lead time was wrong by, the next is in part.
    noise = (members[:, :2] - 0.5).flatten(2)
    together = torch.cosine_similarity(noise[:, 0], noise[:, 1])
    assert 0.6 < together.mean() < 0.95
    # Where no rain is near, no forecast is wrong.
    dry = errors.make_members(0 * forecast, motion, measured, 2)
    assert (dry == 0).all()


def test_bands_add_up():
    frames = torch.rand(2, 32, 32).double()
    torch.testing.assert_close(errors.bands(frames).sum(0), frames)


def test_an_ensemble_needs_errors(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    state["errors"] = {}
    torch.save(state, checkpoint)
    with pytest.raises(ValueError, match="knows no errors to make an ensemble by"):
        Nowcaster.load(checkpoint).forecast(some_frames(), members=2)


def write_archive(folder, count=14):
    """Rain that moves, and a gap that makes two events of it."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    folder.mkdir()
    for n in range(count):
        minute = 5 * n + (60 if n >= count // 2 else 0)
        time = np.datetime64("2016-09-28T14:00", "ns") + np.timedelta64(minute, "m")
        rain = np.zeros((1, 20, 27))
        rain[0, 5:12, n : n + 9] = 8.0
        dataset = xarray.Dataset(
            {"rate": (("time", "y", "x"), rain, {"units": "mm/h"})},
            {"time": [time], "y": ("y", GRID.ys), "x": ("x", GRID.xs)},
        )
        dataset.to_netcdf(folder / f"{n}.nc", engine="h5netcdf")


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_from_an_archive_to_scores(tmp_path, capsys, request, device):
    if device == "emulated":
        request.getfixturevalue("emulated_devices")
    on = ["--device", device]
    write_archive(tmp_path / "frames")
    out = str(tmp_path / "out")
    data = ["--frames", str(tmp_path / "frames")]
    more = ["--past", "2", "--ahead", "3", "--batch", "2", "--steps", "4"]
    more += ["--model", "conv_gru", "--zr", "223,1.53", "--validation", "event:2"]
    assert cli.main(["nowcast", "train", *data, *more, *on, "--output", out]) == 0
    best = ["--checkpoint", f"{out}/best.pt"]
    made = ["--output", f"{out}/f.nc", "--time", "2016-09-28T14:10", "--members", "3"]
    picture = ["--picture", f"{out}/f.png"]
    assert cli.main(["nowcast", "forecast", *data, *best, *made, *picture, *on]) == 0
    assert (tmp_path / "out" / "f.png").stat().st_size > 1000
    scored = ["--zr", "223,1.53", "--forecasts", f"{out}/f.nc", "--output", f"{out}/a"]
    assert cli.main(["nowcast", "score", *data, *scored, *on]) == 0
    alone = json.loads((tmp_path / "out" / "a" / "scores.json").read_text())
    assert alone["z_r"] == [223.0, 1.53]
    assert len(alone["forecast"]["crps"]) == 3
    assert alone["events"] == 1
    tested = [*best, "--members", "3", "--output", f"{out}/b", "--thresholds", "1,5"]
    assert cli.main(["nowcast", "score", *data, *tested, *on]) == 0
    scores = json.loads((tmp_path / "out" / "b" / "scores.json").read_text())
    assert scores["thresholds_mm_h"] == [1, 5]
    assert scores["events"] == 2
    low, high = scores["persistence"]["csi_interval"]
    assert low[0][0] <= scores["persistence"]["csi"][0][0] <= high[0][0]
    assert "90% intervals by a bootstrap of 2 events" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["nowcast", "forecast", *data, *best, "--zr", "200,1.6"])
    error = capsys.readouterr().err
    assert "makes rain by Z = 223 R^1.53" in error
    with pytest.raises(SystemExit):
        cli.main(["nowcast", "score", *data])
    assert "wanted either --checkpoint or --forecasts" in capsys.readouterr().err


def test_times_of_a_forecast_of_frames_without_any():
    forecast = Forecast(np.zeros((2, 4, 4)), None, False, None, 2.5, None, ZR())
    assert forecast.leads.tolist() == [2.5, 5.0]
    with pytest.raises(ValueError, match="wanted a forecast with members"):
        forecast.probabilities([1.0])
    assert "x" not in forecast.to_xarray().coords
