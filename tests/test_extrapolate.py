"""The demonstration: its frames, its motion, its scores and its errors."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

import extrapolate  # noqa: E402 - from the folder above
from digits import moving_digits  # noqa: E402
from frames import FramesError, read_frames  # noqa: E402


def blob(height, width, row, col, radius=5.0):
    """A smooth bump."""
    rows, cols = np.mgrid[:height, :width]
    distance = (rows - row) ** 2 + (cols - col) ** 2
    return np.exp(-distance / (2 * radius**2)).astype(np.float32)


def moving_blobs(frames, velocity=(1.5, -1.0), size=(48, 64)):
    """Bumps that move together, velocity in pixels a frame: down, right."""
    height, width = size
    places = [(12, 20), (30, 44), (36, 16), (16, 52)]
    return np.stack(
        [
            sum(
                blob(height, width, r + t * velocity[0], c + t * velocity[1])
                for r, c in places
            )
            for t in range(frames)
        ]
    ).clip(0, 1)


def test_digits_are_reproducible_by_seed():
    movie = moving_digits(6, seed=3)
    assert movie.dtype == np.uint8
    assert np.array_equal(movie, moving_digits(6, seed=3))
    assert not np.array_equal(movie, moving_digits(6, seed=4))
    assert all((a != b).any() for a, b in itertools.pairwise(movie))


def test_digits_get_brighter_without_overflowing():
    """A bright stroke stays bright: no pixel jumps from near white to black."""
    movie = moving_digits(16, seed=0).astype(int)
    for frame in movie:
        neighbours = np.pad(frame, 1)
        around = np.min(
            [
                neighbours[:-2, 1:-1],
                neighbours[2:, 1:-1],
                neighbours[1:-1, :-2],
                neighbours[1:-1, 2:],
            ],
            axis=0,
        )
        assert not ((around > 200) & (frame < 100)).any()


@pytest.mark.parametrize("kind", ["npz", "npz of one", "npy", "png", "pgm"])
def test_frames_of_every_format(tmp_path, kind):
    frames = moving_digits(11, seed=1)
    if kind == "npz":
        path = tmp_path / "movie.npz"
        np.savez(path, frames=frames, other=np.zeros(3))
    elif kind == "npz of one":
        path = tmp_path / "movie.npz"
        np.savez(path, anything=frames)
    elif kind == "npy":
        path = tmp_path / "movie.npy"
        np.save(path, frames)
    else:
        path = tmp_path
        for n, frame in enumerate(frames):  # 10 after 9, not after 1
            Image.fromarray(frame).save(path / f"frame{n}.{kind}")
    assert np.array_equal(read_frames(path), frames)


def bad_frames(folder, case):
    path = folder / "movie.npy"
    if case == "missing":
        return folder / "nothing.npz"
    if case == "empty folder":
        return folder
    if case == "corrupt":
        path = folder / "movie.npz"
        path.write_bytes(b"PK\x03\x04 but no more")
    elif case == "pickled":
        np.save(path, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    elif case == "rank":
        np.save(path, np.zeros((4, 4)))
    elif case == "nan":
        np.save(path, np.full((20, 32, 32), np.nan))
    elif case == "too few":
        np.save(path, np.ones((5, 32, 32)))
    elif case == "text":
        path = folder / "movie.txt"
        path.write_text("0 1 2")
    else:
        for n in range(2):
            Image.fromarray(np.zeros((32, 32 + n), np.uint8)).save(folder / f"{n}.png")
        return folder
    return path


CASES = ["missing", "empty folder", "corrupt", "pickled", "rank", "nan", "too few"]


@pytest.mark.parametrize("case", [*CASES, "text", "sizes"])
def test_unusable_frames_are_one_clear_line(tmp_path, capsys, case):
    path = bad_frames(tmp_path, case)
    with pytest.raises(SystemExit) as exit:
        extrapolate.main(["--frames", str(path), "--output", str(tmp_path / "x.png")])
    assert exit.value.code == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("extrapolate: error: ")
    assert str(path) in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--past", "1"],
        ["--ahead", "0"],
        ["--now", "2"],
        ["--seed", "-1"],
        ["--minutes-per-frame", "nan"],
        ["--output", "picture.txt"],
    ],
    ids=str,
)
def test_impossible_options_are_one_clear_line(tmp_path, capsys, options):
    output = ["--output", str(tmp_path / "x.png")]
    with pytest.raises(SystemExit) as exit:
        extrapolate.main([*output, *options])
    assert exit.value.code == 2
    message = capsys.readouterr().err.strip()
    assert options[0] in message
    assert len(message.splitlines()) == 1


def test_motion_of_a_translation_is_found():
    past = torch.from_numpy(moving_blobs(4))[:, None]
    motion = extrapolate.estimate_motion(past)
    seen = past[-1] > 0.3
    along_x, along_y = (motion[0, k][seen[0]].median().item() for k in range(2))
    assert along_x == pytest.approx(-1.0, abs=0.25)
    assert along_y == pytest.approx(1.5, abs=0.25)


def test_extrapolation_carries_content_along_the_motion():
    last = torch.from_numpy(blob(48, 64, 20, 40))[None, None]
    motion = torch.tensor([-2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 48, 64)
    forecast, known = extrapolate.extrapolate(last, motion, 4)
    wanted = torch.from_numpy(blob(48, 64, 24, 32))
    carried = forecast[3][known[3]]
    torch.testing.assert_close(carried, wanted[known[3]], rtol=0, atol=1e-5)
    # What would have come from beyond the right and upper edges is not known.
    assert not known[3, :, -8:].any()
    assert not known[3, :4].any()
    assert known[3, 4:, :-8].all()


def test_csi_is_hits_over_all_that_was_forecast_or_came():
    forecast = np.array([1.0, 1.0, 0.0, 0.0])
    observed = np.array([1.0, 0.0, 1.0, 0.0])
    csi = extrapolate.critical_success_index
    assert csi(forecast, observed, 0.5) == pytest.approx(1 / 3)
    assert csi(forecast, observed, 1.0) == pytest.approx(1 / 3)  # at or above
    assert csi(forecast, observed, 2.0) is None


def test_from_frames_to_picture_and_scores(tmp_path):
    np.save(tmp_path / "movie.npy", 60 + 100 * moving_blobs(12))
    picture, scores = tmp_path / "new" / "picture.png", tmp_path / "scores.json"
    done = subprocess.run(
        [
            sys.executable,
            str(EXAMPLES / "extrapolate.py"),
            "--frames",
            str(tmp_path / "movie.npy"),
            "--ahead",
            "4",
            "--output",
            str(picture),
            "--scores",
            str(scores),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(picture).format == "PNG"
    records = json.loads(scores.read_text())
    keys = {"lead_minutes", "threshold", "forecast", "persistence"}
    assert all(set(record) == keys for record in records)
    leads = {(r["lead_minutes"], r["threshold"]) for r in records}
    assert leads == {(5 * n, mm) for n in range(1, 5) for mm in (0.5, 2.0, 5.0)}


def test_digits_are_forecast_better_than_by_persistence(tmp_path):
    scores = tmp_path / "scores.json"
    options = ["--output", str(tmp_path / "x.png"), "--scores", str(scores)]
    assert extrapolate.main(options) == 0
    records = json.loads(scores.read_text())
    assert all(record["threshold"] is None for record in records)
    early = [r for r in records if r["lead_minutes"] <= 30]
    assert all(r["forecast"] < r["persistence"] for r in early)


@pytest.mark.parametrize("now", [[], ["--now", "12"]], ids=["latest", "12"])
def test_rain_is_forecast_better_than_by_persistence(tmp_path, radar_frames, now):
    scores = tmp_path / "scores.json"
    options = ["--frames", str(radar_frames), "--output", str(tmp_path / "x.png")]
    assert extrapolate.main([*options, "--scores", str(scores), *now]) == 0
    records = [
        r for r in json.loads(scores.read_text()) if 15 <= r["lead_minutes"] <= 60
    ]
    assert len(records) == 10 * 3
    assert all(r["forecast"] > r["persistence"] for r in records)


def test_frames_error_names_the_damaged_image(tmp_path):
    (tmp_path / "0.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(FramesError, match=r"0\.png: cannot be read"):
        read_frames(tmp_path)
