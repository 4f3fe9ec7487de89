"""Times of frames, archives with gaps, and which frames go where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trajgru_ext.nowcasting import (
    Archive,
    Decoding,
    FramesError,
    Reading,
    Windows,
    index,
    split,
)
from trajgru_ext.nowcasting.times import period, time_of_name

AS_THEY_ARE = Reading(Decoding("reflectivity", 1.0, 0.0))


def write(folder, minutes, size=(8, 8), day="2016-09-28"):
    """A frame at each minute of a day, whose dBZ are the minute's tenth."""
    for minute in minutes:
        time = np.datetime64(day) + np.timedelta64(minute, "m")
        path = folder / str(time)[:10].replace("-", "/")
        path.mkdir(parents=True, exist_ok=True)
        frame = np.full(size, minute // 10 + 1, np.uint8)
        name = str(time)[:16].replace("-", "").replace(":", "").replace("T", "")
        Image.fromarray(frame).save(path / f"{name}_radar.png")


@pytest.mark.parametrize(
    ("name", "pattern", "time"),
    [
        ("201609281525_fmi.pgm.gz", None, "2016-09-28T15:25"),
        ("RAD_NL25_RAP_5min_201008260005.h5", None, "2010-08-26T00:05"),
        ("66_20201031_001000.prcp-c10.nc", None, "2020-10-31T00:10"),
        ("PrecipRate_00.00_20190610-004030.grib2", None, "2019-06-10T00:40:30"),
        ("AQC162721005F_00005.801.gif", "AQC%y%j%H%M?_00005", "2016-09-28T10:05"),
        ("frame_28.09.2016 at 7h05.png", "%d.%m.%Y*%Hh%M", None),
        ("frame_28.09.2016 at 07h05.png", "%d.%m.%Y*%Hh%M", "2016-09-28T07:05"),
        ("201613281525.png", None, None),  # of no thirteenth month
        ("frame7.png", None, None),
    ],
)
def test_times_of_names(name, pattern, time):
    found = time_of_name(name, pattern)
    assert found == (None if time is None else np.datetime64(time))


def test_patterns_that_are_none_are_named():
    with pytest.raises(ValueError, match="--time-pattern: wanted some of %Y"):
        time_of_name("a", "%Q")


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2016-09", "2016-09-01", "2016-10-01"),
        ("2016-09-28", "2016-09-28", "2016-09-29"),
        ("2016-09-28T14", "2016-09-28T14", "2016-09-28T15"),
        ("2016-09-28T14:45/2016-09-28", "2016-09-28T14:45", "2016-09-29"),
    ],
)
def test_periods(text, begin, end):
    assert period(text) == (np.datetime64(begin), np.datetime64(end))


@pytest.mark.parametrize("text", ["yesterday", "2016-10/2016-09", "", "NaT"])
def test_what_is_no_period_is_named(text):
    with pytest.raises(ValueError, match="wanted a time"):
        period(text)


def test_windows_lie_over_one_step_without_gaps(tmp_path):
    """Two events with a gap, a stretch at another step, and a frame twice."""
    write(tmp_path / "a", [*range(0, 30, 5), *range(60, 90, 5), 100, 110, 120])
    write(tmp_path / "b", [10])
    archive = Archive(tmp_path, AS_THEY_ARE)
    assert archive.minutes == 5
    lengths = [len(one.times) for one in archive.series]
    assert lengths == [6, 6, 1, 1, 1]
    report = "\n".join(archive.report)
    assert report.startswith("15 frames in 16 files, 2016-09-28T00:00Z to ")
    assert "1 frames of times that others had: left out" in report
    assert "gaps, around which windows are cut" in report
    windows = Windows(archive.series, past=2, ahead=1)
    assert len(windows) == 8
    for n in range(len(windows)):
        recording, begin, _, _ = windows.place(n)
        times = archive.series[recording].times[begin : begin + 3]
        assert (np.diff(times) == np.timedelta64(5, "m")).all()
    past, coming, mask = windows[7]
    dbz = torch.tensor([8.0, 9.0, 9.0])
    seen = torch.cat([past, coming])[:, 0, 0, 0]
    torch.testing.assert_close(seen, (dbz + 10) / 70)
    assert mask.all()


def test_another_step_can_be_chosen(tmp_path):
    write(tmp_path, [*range(0, 50, 5), *range(60, 90, 10)])
    assert [len(s.times) for s in Archive(tmp_path, AS_THEY_ARE, step=10).series] == (
        [1] * 10 + [3]
    )


def test_grids_do_not_mix(tmp_path):
    write(tmp_path, range(0, 30, 5))
    write(tmp_path, range(30, 60, 5), size=(8, 9))
    archive = Archive(tmp_path, AS_THEY_ARE)
    assert [one.shape for one in archive.series] == [(6, 8, 8), (6, 8, 9)]
    assert "2 grids, never in one window" in "\n".join(archive.report)


def test_frames_without_times_need_a_start(tmp_path):
    np.save(tmp_path / "movie.npy", np.ones((4, 8, 8)))
    with pytest.raises(FramesError, match=r"movie.npy: no time .*--begin and --step"):
        Archive(tmp_path, Reading())
    reading = Reading(start="2016-09-28T14:00", step=10.0)
    [series] = Archive(tmp_path, reading).series
    assert series.times[-1] == np.datetime64("2016-09-28T14:30")


@pytest.mark.parametrize("layout", ["NTHW", "TNHW", "NHWT"])
def test_sequences_of_arrays_are_events(tmp_path, layout):
    movies = np.random.default_rng(0).random((3, 5, 4, 6))  # [N, T, H, W]
    axes = ["NTHW".index(axis) for axis in layout]
    np.save(tmp_path / "movies.npy", movies.transpose(axes))
    decoding = Decoding("brightness")
    reading = Reading(decoding, layout=layout, start="2000-01-01", step=5.0)
    archive = Archive(tmp_path / "movies.npy", reading)
    assert [one.shape for one in archive.series] == [(5, 4, 6)] * 3
    for series, movie in zip(archive.series, movies, strict=True):
        np.testing.assert_allclose(series[1:4].numpy(), movie[1:4], rtol=1e-6)
    with pytest.raises(FramesError, match="say by --layout what the axes are"):
        Archive(tmp_path / "movies.npy", Reading(decoding))


def test_the_index_is_kept_and_follows_the_files(tmp_path, monkeypatch):
    folder, kept = tmp_path / "frames", tmp_path / "index.sqlite"
    write(folder, range(0, 20, 5))
    read = []
    describe = index._describe
    monkeypatch.setattr(
        index, "_describe", lambda path, how: read.append(path) or describe(path, how)
    )

    def count():
        read.clear()
        archive = Archive(folder, AS_THEY_ARE, index=kept)
        return len(read), sum(len(one.times) for one in archive.series)

    assert count() == (4, 4)
    assert count() == (0, 4)
    write(folder, [20, 25])
    assert count() == (2, 6)
    next(folder.rglob("*0025_radar.png")).unlink()
    assert count() == (0, 5)
    write(folder, [20], size=(4, 4))  # another size: read again
    assert count() == (1, 5)
    Archive(folder, Reading(), index=kept)  # read in another way: all again
    assert len(read) == 1 + 5
    kept.write_bytes(b"no database" * 100)
    with pytest.raises(FramesError, match="cannot be used as an index"):
        count()


def test_the_cache_has_a_bound(tmp_path):
    write(tmp_path, range(0, 100, 5))
    frame = 8 * 8 * 4
    archive = Archive(tmp_path, AS_THEY_ARE, cache=5 * frame)
    [series] = archive.series
    whole = series[:]
    assert (
        archive.cache.used
        == 5 * frame
        == sum(one.nbytes for one in archive.cache.frames.values())
    )
    assert torch.equal(series[3:9], whole[3:9])


def test_splits_share_no_frame(tmp_path):
    write(tmp_path, [*range(0, 100, 5), *range(200, 300, 5), *range(400, 500, 5)])
    archive = Archive(tmp_path, AS_THEY_ARE)
    assert len(archive.series) == 3

    def times(part):
        return {time for one in part for time in one.times.tolist()}

    parts = split(archive, test="event:3, 2016-09-28T00:30", past=2, ahead=2)
    sets = [times(parts[name]) for name in ("train", "validation", "test")]
    assert all(sets[a].isdisjoint(sets[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert len(sets[1]) == 4  # a tenth of 39, the most recent of them
    assert min(sets[1]) > max(sets[0])
    # A minute alone is no window; it is in no other part either.
    assert len(sets[2]) == 20
    assert len(sets[0]) == 20 - 1 + 20 - 4
    parts = split(archive, "event:1", "event:2", "event:1-2", past=2, ahead=2)
    assert [len(parts[n]) for n in ("train", "validation", "test")] == [0, 0, 2]
    with pytest.raises(ValueError, match="'event:4' chooses none"):
        split(archive, "event:4", past=2, ahead=2)


def test_too_little_is_not_validated_with(tmp_path):
    write(tmp_path, range(0, 30, 5))
    archive = Archive(tmp_path, AS_THEY_ARE)
    parts = split(archive, past=2, ahead=2)
    assert [len(one.times) for one in parts["train"]] == [6]
    assert parts["validation"] == []


def test_a_stray_frame_of_another_grid_is_not_the_latest(tmp_path):
    write(tmp_path, range(0, 20, 5))
    write(tmp_path, [7], size=(9, 9))
    archive = Archive(tmp_path, AS_THEY_ARE)
    assert [len(one.times) for one in archive.series] == [4, 1]
    assert len(archive.latest.times) == 4


def test_times_of_folders(tmp_path):
    for day in (28, 29):
        folder = tmp_path / "2016" / f"09{day}"
        folder.mkdir(parents=True)
        for hour in (10, 11):
            Image.new("L", (8, 8)).save(folder / f"radar_{hour}00.png")
    reading = replace(AS_THEY_ARE, time_pattern="/%Y/%m%d/radar_%H%M")
    series = Archive(tmp_path, reading).series
    days = [str(one.times[0]) for one in series]
    assert days == ["2016-09-28T10:00:00", "2016-09-29T10:00:00"]
