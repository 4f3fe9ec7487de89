"""Persistence, and the motion that is found through the warp and followed."""

import importlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from trajgru_ext.nowcasting import (
    PROFILES,
    Scores,
    carry_on,
    estimate_motion,
    extrapolation,
    persistence,
    read_frames,
    to_pixels,
)


def blob(height, width, row, col, radius=5.0):
    """A smooth bump."""
    rows, cols = np.mgrid[:height, :width]
    distance = (rows - row) ** 2 + (cols - col) ** 2
    return np.exp(-distance / (2 * radius**2)).astype(np.float32)


def moving_blobs(frames, velocity=(1.5, -1.0), size=(48, 64)):
    """Bumps that move together, velocity in pixels a frame: down, right."""
    height, width = size
    places = [(12, 20), (30, 44), (36, 16), (16, 52)]
    movie = np.stack(
        [
            sum(
                blob(height, width, r + t * velocity[0], c + t * velocity[1])
                for r, c in places
            )
            for t in range(frames)
        ]
    )
    return torch.from_numpy(movie.clip(0, 1))[:, None, None]


def test_persistence_is_the_last_frame():
    past = torch.rand(3, 2, 1, 4, 5)
    forecast = persistence(past, 4)
    assert forecast.shape == (4, 2, 1, 4, 5)
    assert all(torch.equal(frame, past[-1]) for frame in forecast)


def test_motion_of_translations_is_found():
    """Of each sequence by itself, as if the others were not there."""
    velocities = ((1.5, -1.0), (-1.0, 0.5))
    past = torch.cat([moving_blobs(4, velocity) for velocity in velocities], 1)
    motion = estimate_motion(past)
    for k, (down, right) in enumerate(velocities):
        seen = past[-1, k, 0] > 0.3
        assert motion[k, 0][seen].median().item() == pytest.approx(right, abs=0.25)
        assert motion[k, 1][seen].median().item() == pytest.approx(down, abs=0.25)
    alone = estimate_motion(past[:, 1:])
    torch.testing.assert_close(motion[1:], alone, rtol=0, atol=0.02)


def test_motion_is_found_by_one_thread_and_others_keep_theirs(monkeypatch):
    """Thousands of small parallel regions would wait for each other."""
    module = importlib.import_module("trajgru_ext.nowcasting.motion")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    counts = []

    def motion(past):
        counts.append(torch.get_num_threads())
        with ThreadPoolExecutor(1) as pool:
            counts.append(pool.submit(torch.get_num_threads).result())
        return past

    monkeypatch.setattr(module, "_motion", motion)
    try:
        estimate_motion(torch.zeros(2, 1, 1, 16, 16))
        assert counts == [1, 2]
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(module, "BY_ONE_THREAD", 16)
        estimate_motion(torch.zeros(2, 1, 1, 16, 16))
        assert counts[2:] == [2, 2]
    finally:
        torch.set_num_threads(before)


def test_extrapolation_carries_content_along_the_motion():
    last = torch.from_numpy(blob(48, 64, 20, 40))[None, None]
    motion = torch.tensor([-2.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 48, 64)
    forecast, known = carry_on(last, motion, 4)
    wanted = torch.from_numpy(blob(48, 64, 24, 32))
    inside = known[3, 0, 0]
    carried = forecast[3, 0, 0][inside]
    torch.testing.assert_close(carried, wanted[inside], rtol=0, atol=1e-5)
    # What would have come from beyond the right and upper edges is not known.
    assert not inside[:, -8:].any()
    assert not inside[:4].any()
    assert inside[4:, :-8].all()


def test_smoothing_keeps_the_values():
    last = torch.rand(2, 1, 20, 24)
    forecast, _ = carry_on(last, torch.zeros(2, 2, 20, 24), 3, smoothing=1.0)
    for frames in forecast:
        for got, wanted in zip(frames, last, strict=True):
            assert torch.equal(
                got.flatten().sort().values, wanted.flatten().sort().values
            )
    roughness = forecast.diff(dim=-1).abs().mean((1, 2, 3, 4))
    assert (roughness.diff() < 0).all()


def test_extrapolation_of_a_translation_beats_persistence():
    movie = moving_blobs(10)
    past, coming = movie[:4], movie[4:]
    errors = [
        (forecast(past, 6) - coming).square().mean((1, 2, 3, 4))
        for forecast in (extrapolation, persistence)
    ]
    assert (errors[0] < 0.5 * errors[1]).all()


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 32, 32), (4, 1, 2, 32, 32), (4, 32, 32), (4, 1, 1, 32, 15)],
    ids=["one frame", "two channels", "no batch", "too small"],
)
def test_impossible_frames_are_named(shape):
    with pytest.raises(ValueError, match="estimate_motion: past must be"):
        estimate_motion(torch.zeros(shape))


@pytest.mark.parametrize("now", [12, 27], ids=["12", "latest"])
def test_rain_is_forecast_better_than_by_persistence(radar_frames, now):
    pixels = to_pixels(read_frames(radar_frames), PROFILES["fmi"])[:, None, None]
    past, coming = pixels[now - 3 : now + 1], pixels[now + 1 : now + 13]
    scores = {}
    for name, forecast in (
        ("extrapolation", extrapolation(past, 12, smoothing=0.5)),
        ("persistence", persistence(past, 12)),
    ):
        score = Scores(12)
        score.update(forecast, coming)
        scores[name] = score.compute()["csi"][2:, :3]  # 15 minutes and more, to 5 mm/h
    assert (scores["extrapolation"] > scores["persistence"]).all()
