"""Files of formats that say what they hold: units, durations, axes, and refusals."""

import gzip

import numpy as np
import pytest

from trajgru_ext.nowcasting import (
    Archive,
    Decoding,
    Frames,
    FramesError,
    Reading,
    frames_of_xarray,
    read_frames,
    to_pixels,
)

HEIGHT, WIDTH = 6, 5
RATES = np.arange(3 * HEIGHT * WIDTH, dtype=float).reshape(3, HEIGHT, WIDTH) / 8
TIMES = np.datetime64("2016-09-28T14:00", "ns") + np.arange(3) * np.timedelta64(5, "m")
XS, YS = 1000.0 * np.arange(WIDTH), 5e4 - 1000.0 * np.arange(HEIGHT)
TEN_MINUTES = Reading(Decoding(accumulation=10.0))


def dataset_of(name="rain", units="mm/h", values=RATES, **attributes):
    xarray = pytest.importorskip("xarray")
    metres = {"units": "m"}
    return xarray.Dataset(
        {name: (("time", "y", "x"), values, {"units": units, **attributes})},
        {"time": TIMES, "y": ("y", YS, metres), "x": ("x", XS, metres)},
    )


def write_netcdf(dataset, path):
    pytest.importorskip("h5netcdf")
    dataset.to_netcdf(path, engine="h5netcdf")
    return path


# Axes.


@pytest.mark.parametrize(
    "axes", [("time", "x", "y"), ("y", "x", "time"), ("time", "y", "x")]
)
def test_axes_are_found_by_what_they_are(axes):
    dataset = dataset_of().transpose(*axes)
    frames = frames_of_xarray(dataset)
    assert np.array_equal(frames.values, RATES)
    assert np.array_equal(frames.times, TIMES.astype("datetime64[s]"))
    assert np.array_equal(frames.grid.ys, YS)
    degrees = dataset.rename({"x": "lon", "y": "lat"})
    for name in ("lon", "lat"):
        degrees[name].attrs.clear()
    frames = frames_of_xarray(degrees)
    assert np.array_equal(frames.values, RATES)
    assert frames.grid.degrees
    assert np.array_equal(frames.grid.xs, XS)


def test_axes_are_found_by_standard_names():
    dataset = dataset_of().rename({"x": "a", "y": "b"}).transpose("time", "a", "b")
    dataset["a"].attrs["standard_name"] = "projection_x_coordinate"
    dataset["b"].attrs["axis"] = "Y"
    assert np.array_equal(frames_of_xarray(dataset).values, RATES)


def test_coordinates_of_an_unknown_unit_are_no_grid():
    dataset = dataset_of()
    dataset["x"].attrs["units"] = "rad"
    assert frames_of_xarray(dataset).grid is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("member", "is an ensemble"),
        ("number", "is an ensemble"),
        ("level", r"wanted frames \[time, y, x\]"),
    ],
)
def test_ensembles_and_levels_are_refused(extra, message):
    dataset = dataset_of().expand_dims({extra: 2})
    with pytest.raises(FramesError, match=rf"{message}.*{extra} of 2"):
        frames_of_xarray(dataset)
    one = frames_of_xarray(dataset.isel({extra: [0]}))
    assert np.array_equal(one.values, RATES)
    alone = dataset.isel(time=0, drop=True)
    with pytest.raises(FramesError, match=message):
        frames_of_xarray(alone)


@pytest.mark.parametrize(
    "names",
    [("azimuth", "range"), ("sweep_group_name", "sweep_fixed_angle")],
    ids=["CfRadial 1", "CfRadial 2"],
)
def test_polar_data_are_refused(tmp_path, names):
    """Rays and ranges would make an image too."""
    dataset = dataset_of(units="dBZ")
    for name in names:
        dataset[name] = ("y", YS)
    path = write_netcdf(dataset, tmp_path / "radar.nc")
    with pytest.raises(FramesError, match=rf"radar.nc: .*polar data.*{names[0]}"):
        read_frames(path)


# Units and durations.


@pytest.mark.parametrize(
    ("name", "units", "factor"),
    [
        ("rate", "mm h-1", 1),
        ("rate", "kg m-2 s-1", 3600),
        ("rainfall_rate", "m s-1", 3.6e6),
        ("any", "mm  h^-1", 1),
    ],
)
def test_rates_of_every_unit(name, units, factor):
    frames = frames_of_xarray(dataset_of(name, units))
    np.testing.assert_allclose(frames.values, RATES * factor)
    assert frames.quantity == "rain"


@pytest.mark.parametrize("name", ["wind_speed", "velocity"])
def test_a_speed_is_no_rain(name):
    with pytest.raises(FramesError, match=r"wanted one variable .*m s-1"):
        frames_of_xarray(dataset_of(name, "m s-1"))


def with_bounds(dataset, *minutes):
    before = [np.timedelta64(one, "m") for one in minutes]
    ends = np.stack([TIMES - before, TIMES], 1)
    return dataset.assign(time_bnds=(("time", "two"), ends))


@pytest.mark.parametrize(("units", "factor"), [("mm", 6), ("kg m-2", 6), ("m", 6000)])
def test_amounts_by_their_bounds(tmp_path, units, factor):
    dataset = with_bounds(dataset_of("rainfall", units), 10, 10, 10)
    dataset["time"].attrs["bounds"] = "time_bnds"
    path = write_netcdf(dataset, tmp_path / "amounts.nc")
    np.testing.assert_allclose(read_frames(path).values, RATES * factor)


def test_amounts_of_several_durations_are_refused():
    """As of a model, which counts from its start on."""
    dataset = dataset_of("rainfall", "mm")
    with pytest.raises(FramesError, match="got 5, 10, 15 minutes"):
        frames_of_xarray(with_bounds(dataset, 5, 10, 15))
    started = dataset.assign(start_time=TIMES[0] - np.timedelta64(5, "m"))
    with pytest.raises(FramesError, match="got 5, 10, 15 minutes"):
        frames_of_xarray(started)
    with pytest.raises(FramesError, match="says no duration: give --accumulation"):
        frames_of_xarray(dataset)
    frames = frames_of_xarray(dataset, TEN_MINUTES)
    np.testing.assert_allclose(frames.values, RATES * 6)


def test_a_data_array_is_what_was_chosen():
    array = dataset_of("depth", "mm")["depth"]
    np.testing.assert_allclose(frames_of_xarray(array, TEN_MINUTES).values, RATES * 6)


def test_amounts_in_arrays(tmp_path):
    np.save(tmp_path / "movie.npy", RATES)
    decoding = Decoding("rain", accumulation=5.0)
    pixels = to_pixels(read_frames(tmp_path / "movie.npy"), decoding)
    rates = to_pixels(Frames(RATES * 12, "rain"))
    np.testing.assert_allclose(pixels, rates, rtol=1e-6)


def test_what_no_radar_hears_is_warned_of():
    """-999 would be no echo, though nothing was measured there."""
    values = np.full((2, 10, 10), 20.0)
    values[0, :2], values[1] = -999.0, -np.inf
    with pytest.warns(UserWarning, match="10.0% of .* below -70 dBZ.*check --missing"):
        to_pixels(Frames(values, "reflectivity"))
    pixels = to_pixels(Frames(values, "reflectivity"), Decoding(missing=(-999.0,)))
    assert np.isnan(pixels[0, :2]).all()
    assert (pixels[1] == 0).all()


# Formats.


def test_zarr(tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "archive" / "rain.zarr"
    whole = dataset_of()
    whole.isel(time=[0, 1]).to_zarr(path)
    kept = tmp_path / "index.sqlite"
    [series] = Archive(path.parent, index=kept).series
    assert len(series.times) == 2
    whole.isel(time=[2]).to_zarr(path, append_dim="time")
    [series] = Archive(path.parent, index=kept).series
    assert np.array_equal(series.times, TIMES.astype("datetime64[s]"))
    assert series.kind.quantity == "rain"
    frames = read_frames(path)
    np.testing.assert_array_equal(frames.values, RATES)
    assert np.array_equal(frames.grid.ys, YS)


def write_geotiff(path, values, nodata=None, **tags):
    pytest.importorskip("rioxarray")
    rasterio = pytest.importorskip("rasterio")
    bands, height, width = values.shape
    transform = rasterio.transform.from_origin(2000, 9000, 500, 1000)
    kind = {"driver": "GTiff", "dtype": values.dtype, "count": bands, "nodata": nodata}
    grid = {"height": height, "width": width, "crs": "EPSG:3067"}
    colours = tags.pop("colours", None)
    with rasterio.open(path, "w", **kind, **grid, transform=transform) as file:
        file.write(values)
        if "units" in tags:
            file.units = [tags["units"]] * bands
        if "scale" in tags:
            file.scales = [tags["scale"]] * bands
        if colours:
            file.colorinterp = [rasterio.enums.ColorInterp[one] for one in colours]
    return path


def test_geotiff_of_reflectivity(tmp_path):
    raw = (RATES[:1] * 8).astype(np.int16)
    raw[0, 0, 0] = -99
    path = tmp_path / "201609281405.tif"
    write_geotiff(path, raw, nodata=-99, units="dBZ", scale=0.5)
    frames = read_frames(path)
    wanted = raw / 2.0
    wanted[0, 0, 0] = np.nan
    np.testing.assert_array_equal(frames.values, wanted)
    assert frames.quantity == "reflectivity"
    assert frames.times == np.datetime64("2016-09-28T14:05")
    grid = frames.grid
    assert (grid.x, grid.y, grid.dx, grid.dy) == (2250, 8500, 500, -1000)
    assert "TM35FIN" in grid.projection


def test_geotiff_of_integers_that_say_nothing(tmp_path):
    raw = (RATES[:1] * 8).astype(np.uint8)
    raw[0, 0, 0] = 255
    path = write_geotiff(tmp_path / "201609281405.tif", raw, nodata=255)
    frames = read_frames(path)
    with pytest.raises(FramesError, match="integers say nothing of their unit"):
        to_pixels(frames, Decoding("reflectivity"))
    pixels = to_pixels(frames, Decoding("reflectivity", 0.5, -10.0))
    assert pixels[0, 0, 0].isnan()
    np.testing.assert_allclose(pixels[0, 1], raw[0, 1] / 140, rtol=1e-6)


def test_geotiff_of_amounts_and_colours(tmp_path):
    path = write_geotiff(tmp_path / "201609281405.tif", RATES[:1], units="mm")
    with pytest.raises(FramesError, match="says no duration: give --accumulation"):
        read_frames(path)
    np.testing.assert_allclose(read_frames(path, TEN_MINUTES).values, RATES[:1] * 6)
    raw = RATES.astype(np.uint8)
    write_geotiff(path, raw, colours=("red", "green", "blue"))
    with pytest.raises(FramesError, match="wanted one channel of measured values"):
        read_frames(path)


def test_arrays_by_name_and_their_times(tmp_path):
    path = tmp_path / "movies.npz"
    np.savez(path, rates=RATES, heights=RATES + 1, times=TIMES)
    frames = read_frames(path, Reading(variable="heights"))
    assert np.array_equal(frames.values, RATES + 1)
    assert np.array_equal(frames.times, TIMES.astype("datetime64[s]"))
    with pytest.raises(FramesError, match=r"got \['rates', .*choose by --variable"):
        read_frames(path)
    for times in (TIMES[:2], TIMES.astype(int)):
        np.savez(path, frames=RATES, times=times)
        with pytest.raises(FramesError, match="wanted an array 'times' of 3 datetime"):
            read_frames(path)


def test_layouts_of_npz(tmp_path):
    path = tmp_path / "movies.npz"
    np.savez(path, frames=np.moveaxis(RATES, 0, 2), times=TIMES)
    frames = read_frames(path, Reading(layout="HWT"))
    assert np.array_equal(frames.values, RATES)
    with pytest.raises(FramesError, match="wanted frames"):
        read_frames(path, Reading(layout="NTHW"))


def test_a_time_that_is_missing_is_named(tmp_path):
    times = TIMES.copy()
    times[1] = np.datetime64("NaT")
    np.savez(tmp_path / "a.npz", frames=RATES, times=times)
    with pytest.raises(FramesError, match=r"a.npz: has a frame whose time is missing"):
        read_frames(tmp_path / "a.npz")


def test_frames_of_two_places_do_not_mix(tmp_path):
    """Files of one size, whose coordinates differ."""
    for number in range(6):
        dataset = dataset_of().isel(time=[0])
        dataset["time"] = TIMES[:1] + np.timedelta64(5 * number, "m")
        if number > 3:
            dataset["x"] = dataset["x"] + 500.0
        write_netcdf(dataset, tmp_path / f"{number}.nc")
    archive = Archive(tmp_path)
    assert [len(one.times) for one in archive.series] == [4, 2]
    assert [one.kind.grid.x for one in archive.series] == [0, 500]
    assert archive.latest is archive.series[1]


@pytest.mark.parametrize("suffix", ["npy", "nc", "tif"])
def test_gzipped_files(tmp_path, suffix):
    plain = tmp_path / f"plain.{suffix}"
    if suffix == "npy":
        np.save(plain, RATES)
    elif suffix == "nc":
        write_netcdf(dataset_of(), plain)
    else:
        write_geotiff(plain, RATES)
    packed = tmp_path / f"packed.{suffix}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert np.array_equal(read_frames(packed).values, RATES)
    reading = Reading(start="2016-09-28T14:00", step=5.0)
    [series] = Archive(packed, reading).series
    assert np.array_equal(series.times, TIMES.astype("datetime64[s]"))
    assert np.array_equal(series.archive.read(0, 0, slice(1, 3)).values, RATES[1:])
