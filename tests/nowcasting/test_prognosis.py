"""Scales that decay as they have decayed, on fields made to do so."""

import numpy as np
import pytest
import torch

from trajgru_ext import cli
from trajgru_ext.nowcasting import (
    PROFILES,
    Scores,
    extrapolation,
    prognosis,
    read_frames,
    spectral_prognosis,
    to_pixels,
)

SIZE = 96


def filtered(noise, width):
    """Periodic noise of one scale, with a variance of 1."""
    steps = torch.fft.fftfreq(SIZE)
    squares = steps[:, None].square() + steps.square()
    response = torch.exp(-2 * (np.pi * width) ** 2 * squares)
    smooth = torch.fft.ifft2(torch.fft.fft2(noise) * response).real
    return smooth / smooth.std()


def moving_rain(frames=12, seed=0, keep=(0.3, 0.995), shift=(1, 2), spread=0.1):
    """Pixels of two scales, which move down and right and forget at their own rates."""
    random = torch.Generator().manual_seed(seed)
    widths = 1.5, 10.0

    def fresh(width):
        return filtered(torch.randn(SIZE, SIZE, generator=random), width)

    parts, movie = [fresh(width) for width in widths], []
    for t in range(frames):
        mixed = 0.35 + spread * (0.6 * parts[0] + parts[1])
        movie.append(mixed.roll((shift[0] * t, shift[1] * t), (0, 1)))
        parts = [
            r * part + (1 - r * r) ** 0.5 * fresh(width)
            for r, part, width in zip(keep, parts, widths, strict=True)
        ]
    return torch.stack(movie).clamp(0, 1)[:, None, None]


@pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
def test_bands_and_mean_add_up(holes):
    fields = moving_rain(2)
    if holes:
        fields[:, :, :, 20:40, 30:60] = torch.nan
    split, mean = prognosis.bands(fields)
    whole = split.sum(2, keepdim=True) + mean
    known = ~fields.isnan()
    torch.testing.assert_close(whole[known], fields[known], rtol=0, atol=1e-5)
    assert not split[(~known).expand_as(split)].any()


def test_bands_are_of_their_scales():
    """Noise of one scale is in the bands of filters about as wide."""
    for width, low, high in ((0.7, 0, 2), (8.0, 3, 6)):
        noise = filtered(
            torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(1)), width
        )
        split, _ = prognosis.bands(noise[None, None, None])
        energy = split.square().mean((0, 1, 3, 4))
        assert energy[low:high].sum() > 0.8 * energy.sum()


def test_what_is_unknown_changes_no_band_far_away():
    fields = moving_rain(1)
    holed = fields.clone()
    holed[..., :10, :10] = torch.nan
    fine = [prognosis.bands(one)[0][:, :, :3, 50:, 50:] for one in (fields, holed)]
    torch.testing.assert_close(fine[1], fine[0], rtol=0, atol=1e-3)


def test_autoregression_is_that_of_the_process():
    """Of processes with known correlations, and never one that grows or swings."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 2, 1, 200, 200, generator=random)
    keep = 0.8
    fields = [noise[0]]
    for fresh in noise[1:]:
        fields.append(keep * fields[-1] + (1 - keep**2) ** 0.5 * fresh)
    newest_first = torch.stack(fields[::-1])
    known = torch.ones(newest_first.shape, dtype=torch.bool)
    first, second = prognosis.autoregression(newest_first, known)
    torch.testing.assert_close(first, torch.full_like(first, keep), rtol=0, atol=0.03)
    torch.testing.assert_close(second, torch.zeros_like(first), rtol=0, atol=0.03)
    swinging = torch.stack([noise[0], noise[0] + 0.3 * noise[1], -noise[0]])
    first, second = prognosis.autoregression(swinging, known)
    # Both roots of x^2 = phi1 x + phi2 are real and less than 1.
    assert (first.square() + 4 * second >= -1e-4).all()
    assert (first + second < 1).all() and (second.abs() < 1).all()


def test_small_scales_decay_and_large_ones_stay():
    """The forecast has the scales that last, and its errors are less for it."""
    movie = moving_rain()
    past, coming = movie[:5], movie[5:]
    forecast = spectral_prognosis(past, len(coming), least_rain=0.0)
    plain = extrapolation(past, len(coming))
    inner = (..., slice(24, -24), slice(24, -24))
    errors = [
        (one - coming)[inner].square().mean((1, 2, 3, 4)) for one in (forecast, plain)
    ]
    assert (errors[0] < 0.8 * errors[1]).all()
    rough = [one.diff(dim=-1)[inner].abs().mean() for one in (forecast[-1], plain[-1])]
    assert rough[0] < 0.5 * rough[1]


def test_it_moves_with_the_rain():
    movie = moving_rain(8, keep=(0.999, 0.999))
    past, coming = movie[:5], movie[5:]
    forecast = spectral_prognosis(past, 3, least_rain=0.0)
    inner = (..., slice(16, -16), slice(16, -16))
    error = (forecast - coming)[inner].square().mean((1, 2, 3, 4))
    still = (past[-1:] - coming)[inner].square().mean((1, 2, 3, 4))
    assert (error < 0.25 * still).all()


def test_the_area_of_rain_stays_that_of_the_last_frame():
    """Where rain of the same amount comes from outside, at no motion, exactly."""
    past = moving_rain(4, shift=(0, 0))
    motion = torch.zeros(1, 2, SIZE, SIZE)
    made = prognosis.prognosis(past, motion, 3, 0.26)
    for frame in made:
        assert torch.equal(frame.flatten().sort().values, past[-1].flatten().sort()[0])
    assert not torch.equal(made[-1], past[-1])


def test_unknown_pixels_are_unknown_and_spread_nowhere():
    movie = moving_rain(8)
    past, coming = movie[:5].clone(), movie[5:]
    past[..., :, :6] = torch.nan  # never known
    past[-1, ..., 40:50, 40:50] = torch.nan  # known before
    forecast = spectral_prognosis(past, 3, least_rain=0.0)
    # What moves right from there by two pixels is as unknown.
    assert forecast[0, 0, 0, 20:-20, 3:5].isnan().float().mean() > 0.9
    assert forecast[..., 8:-8, 24:-8].isfinite().all()
    whole = spectral_prognosis(movie[:5], 3, least_rain=0.0)
    inner = (..., slice(16, -16), slice(32, -16))
    errors = [(one - coming)[inner].abs().mean() for one in (forecast, whole)]
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("value", [0.0, 0.5, torch.nan])
def test_fields_without_structure_stay(value):
    """All dry, constant, and all unknown."""
    past = torch.full((4, 2, 1, 32, 48), value)
    forecast = spectral_prognosis(past, 3)
    torch.testing.assert_close(
        forecast, past[:1].expand(3, -1, -1, -1, -1), equal_nan=True
    )


def test_it_is_the_same_every_time_and_of_each_sequence_alone():
    past = torch.cat([moving_rain(4), moving_rain(4, seed=1)], 1)
    made = spectral_prognosis(past, 3)
    assert torch.equal(made, spectral_prognosis(past, 3))
    alone = spectral_prognosis(past[:, 1:], 3)
    assert (made[:, 1:] - alone).abs().mean() < 0.005
    wide = spectral_prognosis(past.double(), 3)
    assert wide.dtype == torch.float64
    assert (wide - made).abs().mean() < 0.005


def test_two_frames_are_enough_and_wrong_ones_are_named():
    assert spectral_prognosis(moving_rain(2), 2).isfinite().all()
    with pytest.raises(ValueError, match="estimate_motion: past must be"):
        spectral_prognosis(moving_rain(1), 2)
    with pytest.raises(ValueError, match="spectral_prognosis: steps must be positive"):
        spectral_prognosis(moving_rain(2), 0)


def test_forecast_without_a_checkpoint(tmp_path, monkeypatch, capsys):
    xarray = pytest.importorskip("xarray")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = moving_rain(6)[:, 0, 0]
    np.save(tmp_path / "frames.npy", (70 * pixels - 10).numpy())
    frames = ["--frames", str(tmp_path / "frames.npy"), "--quantity", "reflectivity"]
    frames += ["--begin", "2016-09-28T14:00", "--step", "5", "--zr", "223,1.53"]
    output = tmp_path / "forecast.nc"
    command = ["nowcast", "forecast", *frames, "--output", str(output)]
    assert cli.main([*command, "--ahead", "3"]) == 0
    with xarray.open_dataset(output) as dataset:
        rain = dataset["precip_intensity"].values
    assert rain.shape == (3, SIZE, SIZE)
    assert np.isfinite(rain).all() and rain.max() > 0
    assert cli.main([*command, "--method", "persistence"]) == 0
    with xarray.open_dataset(output) as dataset:
        last = dataset["precip_intensity"].values
    assert (last == last[0]).all() and len(last) == 12
    with pytest.raises(SystemExit):
        cli.main([*command, "--members", "2"])
    assert "--members: wanted a --checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("now", [12, 27], ids=["12", "latest"])
def test_rain_is_forecast_better_than_by_plain_extrapolation(radar_frames, now):
    pixels = to_pixels(read_frames(radar_frames), PROFILES["fmi"])[:, None, None]
    past, coming = pixels[now - 4 : now + 1], pixels[now + 1 : now + 13]
    scores = {}
    for make in (spectral_prognosis, extrapolation):
        score = Scores(12)
        score.update(make(past, 12), coming)
        scores[make] = score.compute()["csi"][2:, :2]  # 15 minutes and more, to 2 mm/h
    assert (scores[spectral_prognosis] > scores[extrapolation]).all()
