"""Chances of exceedance: what a network sees, what is made of it, what is refused."""

import numpy as np
import pytest
import torch

from trajgru_ext import cli
from trajgru_ext.nowcasting import ZR, spectral_prognosis
from trajgru_ext.nowcasting.exceedance import (
    AREA,
    MOVING,
    RATES,
    SHIPPED,
    STILL,
    Exceedance,
    Scene,
    carried_chances,
    exceedance,
    likeliest,
    load,
    save,
)
from trajgru_ext.nowcasting.fit import Samples, fit, samples_of
from trajgru_ext.nowcasting.network import network
from trajgru_ext.nowcasting.radar import pixel_thresholds, pixels_to_rain
from trajgru_ext.nowcasting.training import Training

SIZE = 72
FINLAND = ZR(223.0, 1.53)


def rain(frames, seed=0, shift=(1, 2)):
    """Showers of several sizes in pixels [T, H, W], which move down and right."""
    random = torch.Generator().manual_seed(seed)
    steps = torch.fft.fftfreq(SIZE)
    squares = steps[:, None].square() + steps.square()
    spectrum = torch.fft.fft2(torch.randn(SIZE, SIZE, generator=random))
    field = torch.fft.ifft2(spectrum / (0.002 + squares)).real
    pixels = (0.4 + 0.12 * field / field.std()).clamp(0, 1)
    moved = [pixels.roll((t * shift[0], t * shift[1]), (0, 1)) for t in range(frames)]
    return torch.stack(moved)


@pytest.fixture(scope="module")
def net():
    return load()


def test_shapes_classes_and_order(net):
    past = rain(5).double()
    forecast, chances = exceedance(net, past, 6, FINLAND)
    assert forecast.shape == (6, SIZE, SIZE)
    assert chances.shape == (6, 3, SIZE, SIZE)
    assert forecast.dtype == chances.dtype == torch.float64
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (chances.diff(dim=1) <= 0).all()
    bounds = pixel_thresholds(RATES, FINLAND)
    above = [forecast >= bound for bound in bounds]
    assert above[0].any() and not above[0].all()
    assert (above[2] <= above[1]).all() and (above[1] <= above[0]).all()
    # Whatever is forecast is likelier than what is not.
    for chance, taken in zip(chances[:, 0], above[0], strict=True):
        assert chance[taken].min() >= chance[~taken].max()


def test_as_many_of_the_likeliest_as_there_are_now():
    chance = torch.tensor([[0.5, 0.9, torch.nan], [0.1, 0.3, 0.7]])
    taken = likeliest(chance, torch.tensor(2 / AREA))
    assert taken.tolist() == [[False, True, False], [False, False, True]]
    assert not likeliest(chance, torch.tensor(0.0)).any()
    assert likeliest(chance, torch.tensor(99.0)).sum() == 5
    assert not likeliest(torch.full((9, 9), torch.nan), torch.tensor(9.0)).any()


def test_unknown_pixels_stay_unknown_and_touch_no_others(net):
    past = rain(5)
    past[:, :9] = torch.nan
    forecast, chances = exceedance(net, past, 4, FINLAND)
    least = pixel_thresholds((0.1,), FINLAND).item()
    wanted = spectral_prognosis(past[:, None, None], 4, least)[:, 0, 0].isnan()
    assert wanted.any()
    assert torch.equal(forecast.isnan(), wanted)
    assert torch.equal(chances.isnan(), wanted[:, None].expand_as(chances))


def turned(pixels):
    return pixels.rot90(1, (-2, -1)).flip(-1)


def test_turned_frames_give_turned_chances_along_the_turned_motion(net):
    past, motion = rain(5), torch.tensor([1.7, 0.6])[None, :, None, None]
    motion = motion.expand(1, 2, SIZE, SIZE).contiguous()
    # A turn to the left, x to -y and y to x, and then x to -x.
    x, y = turned(motion).unbind(1)
    other = torch.stack([-y, -x], 1)
    scene = Scene.of(past, motion, 3, FINLAND, 5.0, 1000.0)
    again = Scene.of(turned(past), other, 3, FINLAND, 5.0, 1000.0)
    torch.testing.assert_close(again.still, turned(scene.still), atol=1e-4, rtol=0)
    pairs = zip(carried_chances(net, scene), carried_chances(net, again), strict=True)
    for one, two in pairs:
        error = (turned(one[1]) - two[1]).abs()
        # Pixels of equal rank in the prognosis may change places.
        assert error.mean() < 1e-3


def test_turned_frames_give_turned_forecasts(net):
    past = rain(5)
    chances = exceedance(net, past, 3, FINLAND)[1]
    again = exceedance(net, turned(past), 3, FINLAND)[1]
    error = (turned(chances) - again).abs()[..., 8:-8, 8:-8]
    straight = (chances - again).abs()[..., 8:-8, 8:-8]
    assert error.mean() < 0.02 < straight.mean() / 2


def test_features_are_of_minutes_and_kilometres():
    still = rain(1).expand(9, SIZE, SIZE)
    motion = torch.zeros(1, 2, SIZE, SIZE)
    one = Scene.of(still[:5], motion, 2, FINLAND, 5.0, 1000.0)
    two = Scene.of(still[:3], motion, 2, FINLAND, 10.0, 1000.0)
    torch.testing.assert_close(one.still, two.still)
    assert two.moving(0)[1].unique() == one.moving(1)[1].unique() == 1 / 6
    fine = Scene.of(still[:5], motion, 2, FINLAND, 5.0, 500.0)
    # 4 km of small pixels are as many as 8 of large ones.
    torch.testing.assert_close(fine.still[2:10], one.still[10:18])


@pytest.mark.parametrize(
    ("frames", "ahead", "minutes", "message"),
    [
        (5, 6, 6.0, "frames every 1, 2, 2.5, 5 or 10 minutes, got 6"),
        (4, 6, 5.0, "past frames of 20 minutes, got 4 every 5"),
        (5, 13, 5.0, "up to 60 minutes ahead, got 13 frames every 5"),
        (5, 0, 5.0, "ahead"),
    ],
)
def test_other_frames_are_refused(frames, ahead, minutes, message):
    with pytest.raises(ValueError, match=message):
        exceedance(Exceedance(), rain(frames), ahead, FINLAND, minutes)


def test_checkpoints(tmp_path, net):
    path = tmp_path / "a" / "net.pt"
    save(net, {"seed": 3}, path)
    again = load(path)
    features = torch.rand(7, STILL), torch.rand(7, MOVING)
    assert torch.equal(net(*features), again(*features))
    settings = {"rate": 1e-3, "steps": 1}
    other = network("conv_gru", 2)
    Training(other, settings, torch.device("cpu")).save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt: is no checkpoint of .* fit"):
        load(tmp_path / "other.pt")
    assert SHIPPED.stat().st_size < 200_000


def test_samples_are_where_the_rain_comes_from():
    frames = rain(7)
    samples = samples_of(
        frames, 5, FINLAND, 5.0, 1000.0, torch.Generator().manual_seed(0)
    )
    # Rain that only moves is after 5 and 10 minutes at the level that it has now, on a
    # scale of decades from 0.1 mm/h; but for the edges, over which showers come in.
    for k, rate in enumerate(RATES):
        above = samples.still[:, 0] >= np.log10(rate / 0.1)
        assert 0.01 < above.double().mean() < 0.99
        assert (above == (samples.came[:, k] > 0.5)).double().mean() > 0.85


def test_what_is_fitted_is_the_order_of_the_chances():
    random = torch.Generator().manual_seed(0)
    still, moving = torch.randn(20000, STILL, generator=random), torch.rand(20000, 2)
    chance = torch.stack([1.5 * still[:, 0] - k for k in range(3)], 1).sigmoid()
    came = (torch.rand(20000, 3, generator=random) < chance).float()
    net = fit([Samples(still[::2], moving[::2], came[::2])], steps=300, batch=512)
    with torch.no_grad():
        made = net(still[1::2], moving[1::2])
    # But for the offset of the event, which is thrown away.
    for wanted, logits in zip(chance[1::2].logit().T, made.T, strict=True):
        assert torch.stack([wanted, logits]).corrcoef()[0, 1] > 0.9


def test_from_archives_to_a_forecast(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = []
    for seed in range(2):
        paths.append(str(tmp_path / f"{seed}.npy"))
        np.save(paths[-1], pixels_to_rain(rain(18, seed), FINLAND).numpy())
    read = ["--quantity", "rain", "--begin", "2020-01-01", "--step", "5"]
    read += ["--zr", "223,1.53"]
    out = str(tmp_path / "net.pt")
    few = ["--starts", "2", "--steps", "5", "--batch", "64", "--output", out]
    assert cli.main(["nowcast", "fit", "--frames", *paths, *read, *few]) == 0
    assert "of 2 events" in capsys.readouterr().out
    made = ["--output", str(tmp_path / "f.nc"), "--method", "exceedance"]
    begin = ["nowcast", "forecast", "--frames", paths[0], *read, *made]
    assert cli.main([*begin, "--checkpoint", out]) == 0
    assert cli.main(begin) == 0
    assert capsys.readouterr().out.count("12 frames from") == 2
    with pytest.raises(SystemExit):
        cli.main([*begin, "--ahead", "13"])
    assert "wanted up to 60 minutes ahead" in capsys.readouterr().err
    other = ["--method", "persistence", "--checkpoint", out]
    with pytest.raises(SystemExit):
        cli.main([*begin, *other])
    assert "--method persistence: reads no --checkpoint" in capsys.readouterr().err
