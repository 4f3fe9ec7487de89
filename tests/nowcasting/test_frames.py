"""Readers of frames, their pixels, and windows that keep training and test apart."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from trajgru_ext.nowcasting import (
    Decoding,
    Frames,
    FramesError,
    Reading,
    Windows,
    fill_missing,
    radar,
    read_frames,
    to_pixels,
)

FMI = Decoding("reflectivity", 0.5, -32.0, (255,))

COUNT, HEIGHT, WIDTH = 11, 6, 5


def some_frames(count=COUNT):
    generator = np.random.default_rng(0)
    return generator.integers(1, 200, (count, HEIGHT, WIDTH), np.uint8)


def write_netcdf(path, frames, units="dBZ", **more):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    variable = ("time", "y", "x"), frames, {"units": units}
    dataset = xarray.Dataset({"rain": variable, **more})
    packed = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -99}
    dataset.to_netcdf(path, engine="h5netcdf", encoding={"rain": packed})


def write_odim(path, frame, quantity="DBZH", kind="COMP", **scale):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_group("what").attrs["object"] = np.bytes_(kind)
        # Another product comes first, which is no rain.
        quality = file.create_group("dataset1/data1")
        quality["data"] = np.zeros((HEIGHT, WIDTH), np.uint8)
        quality.create_group("what").attrs["quantity"] = np.bytes_("QIND")
        scale = {"gain": 0.5, "offset": -32.0, "nodata": 255, "undetect": 0, **scale}
        file.create_group("dataset2/what").attrs.update(scale)
        data = file.create_group("dataset2/data1")
        data["data"] = frame
        data.create_group("what").attrs["quantity"] = np.bytes_(quantity)


@pytest.mark.parametrize(
    "kind", ["npz", "npz of one", "npy", "npy each", "png", "pgm", "nc", "nc each"]
)
def test_frames_of_every_format(tmp_path, kind):
    frames = some_frames()
    path = tmp_path
    if kind == "npz":
        path = tmp_path / "movie.npz"
        np.savez(path, frames=frames, other=np.zeros(3))
    elif kind == "npz of one":
        path = tmp_path / "movie.npz"
        np.savez(path, anything=frames)
    elif kind == "npy":
        path = tmp_path / "movie.npy"
        np.save(path, frames)
    elif kind == "nc":
        path = tmp_path / "movie.nc"
        write_netcdf(path, frames / 2.0)
        frames = frames / 2.0
    else:
        suffix = kind.split()[0]
        for n, frame in enumerate(frames):  # 10 after 9, not after 1
            file = path / f"frame{n}.{suffix}"
            if suffix == "nc":
                write_netcdf(file, frame[None].astype(float))
            elif suffix == "npy":
                np.save(file, frame)
            else:
                Image.fromarray(frame).save(file)
    read = read_frames(path)
    assert np.array_equal(read.values, frames)
    assert read.quantity == ("reflectivity" if "nc" in kind else None)


def test_netcdf_says_what_is_missing(tmp_path):
    frames = some_frames(2).astype(float)
    frames[1, 2, 3] = np.nan
    write_netcdf(tmp_path / "movie.nc", frames, "mm h-1")
    read = read_frames(tmp_path / "movie.nc")
    assert read.quantity == "rain"
    assert np.array_equal(read.values, frames, equal_nan=True)


def test_netcdf_variable_is_chosen(tmp_path):
    frames = some_frames(2).astype(float)
    other = ("time", "y", "x"), frames + 1, {"units": "mm/h"}
    more = {"other": other, "height": ("y", np.zeros(HEIGHT), {"units": "m"})}
    write_netcdf(tmp_path / "movie.nc", frames, **more)
    with pytest.raises(
        FramesError, match=r"wanted one variable in dBZ, mm/h or mm, got"
    ):
        read_frames(tmp_path / "movie.nc")
    read = read_frames(tmp_path / "movie.nc", Reading(variable="other"))
    assert read.quantity == "rain"
    assert np.array_equal(read.values, frames + 1)
    with pytest.raises(FramesError, match="wanted a variable 'height' in"):
        read_frames(tmp_path / "movie.nc", Reading(variable="height"))


def test_odim_composites(tmp_path):
    frames = some_frames(2)
    frames[1, 0, 0], frames[1, 0, 1] = 255, 0
    for n, frame in enumerate(frames):
        write_odim(tmp_path / f"2016092815{n}0.h5", frame)
    read = read_frames(tmp_path)
    assert read.quantity == "reflectivity"
    wanted = frames / 2 - 32
    wanted[1, 0, :2] = np.nan, -np.inf
    assert np.array_equal(read.values, wanted, equal_nan=True)


def test_odim_rain_rates(tmp_path):
    frame = some_frames(1)[0]
    frame[0, 0] = 0
    write_odim(tmp_path / "rate.h5", frame, "RATE", gain=0.1, offset=0.0)
    read = read_frames(tmp_path / "rate.h5")
    assert read.quantity == "rain"
    np.testing.assert_allclose(read.values[0], frame * 0.1)
    pixels = to_pixels(read)
    rates = radar.pixels_to_rain(pixels.double()).numpy()
    np.testing.assert_allclose(rates[0], frame * 0.1, rtol=1e-5)


def test_odim_without_an_image_is_named(tmp_path):
    path = tmp_path / "volume.h5"
    write_odim(path, some_frames(1)[0], kind="PVOL")
    with pytest.raises(FramesError, match=r"wanted the object COMP or IMAGE.*PVOL"):
        read_frames(path)
    write_odim(path, some_frames(1)[0], quantity="VRADH")
    with pytest.raises(FramesError, match=r"quantities TH.*got \['QIND', 'VRADH'\]"):
        read_frames(path)


@pytest.mark.parametrize(
    ("suffix", "module"), [("nc", "xarray"), ("h5", "h5py")], ids=["nc", "h5"]
)
def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch, suffix, module):
    path = tmp_path / f"movie.{suffix}"
    if suffix == "nc":
        write_netcdf(path, some_frames(1) / 2.0)
    else:
        write_odim(path, some_frames(1)[0])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        FramesError, match=rf"needs {module}.*trajgru_ext\[nowcasting\]"
    ):
        read_frames(path)


def bad_frames(folder, case):
    path = folder / "movie.npy"
    if case == "missing":
        return folder / "nothing.npz"
    if case == "corrupt npz":
        path = folder / "movie.npz"
        path.write_bytes(b"PK\x03\x04 but no more")
    elif case == "corrupt png":
        path = folder / "0.png"
        path.write_bytes(b"\x89PNG not really")
    elif case == "pickled":
        np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    elif case == "rank":
        np.save(path, np.zeros(4))
    elif case == "complex":
        np.save(path, np.zeros((2, 4, 4), complex))
    elif case == "colour":
        path = folder / "0.png"
        Image.new("RGB", (4, 4)).save(path)
    elif case == "text":
        path = folder / "movie.txt"
        path.write_text("0 1 2")
    elif case == "sizes":
        for n in range(2):
            Image.fromarray(np.zeros((8, 8 + n), np.uint8)).save(folder / f"{n}.png")
        return folder
    return path if path.exists() else folder


BAD = {
    "missing": "no such file or folder",
    "empty folder": "wanted a file or a folder of .npz",
    "text": "wanted a file or a folder of .npz",
    "corrupt npz": "cannot be read",
    "corrupt png": "cannot be read",
    "pickled": "cannot be read",
    "rank": r"wanted frames \[T, H, W\], got shape \[4\]",
    "complex": "wanted real numbers, got complex128",
    "colour": "wanted a greyscale image, got mode RGB",
    "sizes": r"size \(8, 9\), but those before it \(8, 8\)",
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_frames_are_named(tmp_path, case):
    path = bad_frames(tmp_path, case)
    with pytest.raises(FramesError, match=BAD[case]) as error:
        read_frames(path)
    assert str(path) in str(error.value)


def test_pixels_of_reflectivity():
    values = np.array([[[0, 44, 114, 184, 250, 255]]], np.uint8)
    with pytest.warns(UserWarning, match="beyond 60 dBZ"):
        pixels = to_pixels(Frames(values), FMI)[0, 0]
    assert pixels.dtype == torch.float32
    # No echo, -10 dBZ, 25 dBZ, 60 dBZ, beyond, missing.
    assert pixels[:5].tolist() == [0, 0, 0.5, 1, 1]
    assert pixels[5].isnan()


def test_value_0_is_no_echo_whatever_the_offset():
    values = np.zeros((1, 1, 1), np.uint8)
    decoding = Decoding("reflectivity", 0.5, 20.0)
    assert to_pixels(Frames(values), decoding).item() == 0


def test_pixels_of_brightness_and_rain():
    values = np.array([[[0, 51, 255]]], np.uint8)
    assert to_pixels(Frames(values), Decoding("brightness")).tolist() == [
        [[0, np.float32(0.2), 1]]
    ]
    values = np.array([[[0.0, 5.0, np.nan]]])
    pixels = to_pixels(Frames(values), Decoding("rain", 2.0, 0.0))[0, 0]
    assert radar.pixels_to_rain(pixels[:2]).tolist() == pytest.approx([0, 10])
    assert pixels[2].isnan()


def test_numbers_without_a_meaning_are_refused():
    """Nothing is guessed: the defaults of one service would be wrong for another."""
    whole = Frames(np.full((1, 2, 2), 7, np.uint8))
    with pytest.raises(FramesError, match=r"nothing says whether .* --quantity"):
        to_pixels(whole)
    with pytest.raises(
        FramesError, match=r"integers say nothing .* --gain and --offset"
    ):
        to_pixels(whole, Decoding("reflectivity"))
    with pytest.raises(FramesError, match="integers say nothing"):
        to_pixels(whole, Decoding("reflectivity", gain=0.5))


def test_floats_are_taken_as_they_are():
    frames = Frames(np.full((1, 2, 2), 25.0, np.float32))
    assert (to_pixels(frames, Decoding("reflectivity")) == 0.5).all()
    rain = radar.pixels_to_rain(to_pixels(frames, Decoding("rain")))
    torch.testing.assert_close(rain, torch.full((1, 2, 2), 25.0))


def test_numbers_beyond_rain_are_warned_of():
    values = np.full((1, 10, 10), 100, np.uint8)
    values[0, :5, :5] = 255
    with pytest.warns(UserWarning, match="25.0% of the known pixels are beyond 60 dBZ"):
        to_pixels(Frames(values), Decoding("reflectivity", 0.5, -32.0))
    to_pixels(Frames(values), FMI)  # 255 is missing: nothing to warn of
    with pytest.warns(UserWarning, match="100.0% .* beyond 300 mm/h"):
        to_pixels(Frames(np.full((1, 2, 2), 301.0)), Decoding("rain"))


def test_rain_of_reflectivity_is_by_the_relation_that_was_chosen():
    """0.5 mm/h of Helsinki is 0.21 of Hong Kong."""
    finnish = radar.ZR(223.0, 1.53)
    pixel = radar.rain_to_pixels(torch.tensor([0.5]).double(), finnish)
    assert radar.pixels_to_rain(pixel, finnish).item() == pytest.approx(0.5)
    other = radar.rain_to_pixels(torch.tensor([0.5]).double())
    assert radar.pixels_to_rain(other, finnish).item() == pytest.approx(0.21, abs=0.005)
    with pytest.raises(ValueError, match="a and b must be positive"):
        radar.ZR(0, 1)


@pytest.mark.parametrize(
    ("quantity", "value", "message"),
    [
        ("brightness", 1.5, "brightness must be 0 to 1, got 1.5 to 1.5"),
        ("rain", -1.0, "rain must be 0 to"),
        ("reflectivity", np.inf, "reflectivity must be -inf to"),
    ],
    ids=["brightness", "rain", "reflectivity"],
)
def test_impossible_values_are_named(quantity, value, message):
    frames = Frames(np.full((1, 2, 2), value))
    with pytest.raises(FramesError, match=message):
        to_pixels(frames, Decoding(quantity, 1.0, 0.0))


def test_windows_are_what_they_say():
    frames = torch.arange(2 * 5 * 7 * 9).view(2, 5, 7, 9).float()
    frames[0, 4, 3, 5] = torch.nan
    windows = Windows(frames, past=2, ahead=2, size=4, step=2)
    # 2 recordings, 2 beginnings, rows 0, 2, 3 and columns 0, 2, 4, 5.
    assert len(windows) == 2 * 2 * 3 * 4
    past, coming, mask = windows[0]
    assert torch.equal(past[:, 0], frames[0, :2, :4, :4])
    assert torch.equal(coming[:, 0], frames[0, 2:4, :4, :4])
    assert mask.all()
    past, coming, mask = windows[len(windows) - 1]
    assert torch.equal(past[:, 0], frames[1, 1:3, 3:, 5:])
    _, coming, mask = windows[23]  # the last of the first recording
    assert (~mask).nonzero().tolist() == [[1, 0, 0, 0]]
    assert coming[1, 0, 0, 0] == 0


def test_windows_of_whole_frames():
    windows = Windows(torch.rand(3, 4, 6, 8), past=3, ahead=1)
    assert len(windows) == 3
    assert windows[0][0].shape == (3, 1, 6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"past": 4}, r"at least past \+ ahead.*got 5 for 4 \+ 2"),
        ({"ahead": 0}, r"each of 1 or more"),
        ({"size": 9}, r"size must be 1 to that of the frames, 8x8, got 9"),
        ({"step": 0}, r"step must be positive, got 0"),
    ],
    ids=["past", "ahead", "size", "step"],
)
def test_impossible_windows_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Windows(torch.zeros(1, 5, 8, 8), **{"past": 2, "ahead": 2, **options})


def test_windows_of_recordings_of_several_lengths_and_sizes():
    recordings = [torch.rand(5, 6, 9), torch.rand(2, 4, 4), torch.rand(4, 10, 7)]
    windows = Windows(recordings, past=2, ahead=1, size=8, step=4, divisor=8)
    # Of 8x16 in 3 beginnings, none of 8x8, of 16x8 in 2 beginnings.
    assert len(windows) == 3 * 3 + 2 * 3
    assert [windows.place(n)[0] for n in range(len(windows))] == 9 * [0] + 6 * [2]
    past, _, mask = windows[9]
    assert torch.equal(past[:, 0, :, :7], recordings[2][:2, :8])
    assert not mask[..., 7].any()
    assert mask[..., :7].all()
    assert (past[..., 7] == 0).all()
    with pytest.raises(IndexError):
        windows.place(15)


def test_missing_pixels_are_filled_with_what_was_there_last():
    nan = torch.nan
    past = torch.tensor([[nan, 1.0, nan], [2.0, nan, nan], [nan, nan, nan]])
    filled = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert torch.equal(fill_missing(past), filled)
    whole = torch.rand(2, 3)
    assert fill_missing(whole) is whole
