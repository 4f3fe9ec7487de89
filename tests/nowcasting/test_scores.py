"""Scales of rain, the balanced loss and the scores, against tables and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    cohen_kappa_score,
    jaccard_score,
    precision_score,
    recall_score,
)

from trajgru_ext.nowcasting import (
    THRESHOLDS,
    Scores,
    balanced_loss,
    balancing_weights,
    radar,
)

LEADS, SEQUENCES = 3, 4
SHAPE = (LEADS, SEQUENCES, 1, 12, 10)


def pixels_of(rates):
    return radar.dbz_to_pixels(radar.rain_to_dbz(torch.as_tensor(rates)))


def sample(seed):
    """Forecast and observation that have to do with each other, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(SHAPE, generator=generator)
    forecast = observed + 0.2 * torch.randn(SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) < 0.9
    return forecast.clamp(0, 1), observed, mask


def test_rain_rates_by_hand():
    """Z = a R^b: 58.53 at 1 mm/h, and 10^1.56 times as much at 10 mm/h."""
    dbz = radar.rain_to_dbz(torch.tensor([1.0, 10.0, 0.0]).double())
    assert dbz[0].item() == pytest.approx(10 * math.log10(58.53))
    assert (dbz[1] - dbz[0]).item() == pytest.approx(15.6)
    assert dbz[2] == -torch.inf
    pixels = radar.dbz_to_pixels(torch.tensor([-torch.inf, -10, 25, 60, 99, torch.nan]))
    assert pixels[:5].tolist() == [0, 0, 0.5, 1, 1]
    assert pixels[5].isnan()


def test_pixels_and_back():
    rates = torch.tensor([0.0, 0.1, 0.5, 2, 5, 10, 30, 80], dtype=torch.float64)
    torch.testing.assert_close(radar.pixels_to_rain(pixels_of(rates)), rates)


def test_weights_by_hand():
    rates = [0.0, 1.9, 2.1, 4.9, 5.1, 9.9, 10.1, 29.0, 31.0, 99.0]
    weights = [1, 1, 2, 2, 5, 5, 10, 10, 30, 30]
    assert balancing_weights(pixels_of(rates)).tolist() == weights
    mask = torch.arange(10) > 4
    assert balancing_weights(pixels_of(rates), mask).tolist() == [0] * 5 + weights[5:]


def test_a_pixel_at_a_threshold_counts_as_above():
    at = radar.pixel_thresholds()
    assert balancing_weights(at).tolist() == [1, 2, 5, 10, 30]
    observed = at.float().view(1, 1, 1, 1, 5)
    scores = Scores(1)
    scores.update(observed, observed)
    assert scores.hits.tolist() == [[5, 4, 3, 2, 1]]


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_loss_is_the_weighted_sum_of_errors(balance):
    forecast, observed, mask = (one.double() for one in sample(0))
    error = forecast - observed
    each = balancing_weights(observed) ** balance * mask * (error**2 + error.abs())
    wanted = 0.5 * each.sum() / (LEADS * SEQUENCES)
    loss = balanced_loss(forecast, observed, mask.bool(), scale=0.5, balance=balance)
    torch.testing.assert_close(loss, wanted)


def test_loss_has_no_gradient_where_pixels_are_missing():
    forecast, observed, mask = sample(1)
    forecast.requires_grad_()
    balanced_loss(forecast, observed, mask).backward()
    assert (forecast.grad[~mask] == 0).all()
    assert (forecast.grad[mask] != 0).any()


def test_scores_of_a_hand_made_table():
    """4 hits, 2 misses, 1 false alarm and 3 correct negatives, at every threshold."""
    observed = torch.tensor([1.0] * 6 + [0] * 4).view(1, 1, 1, 2, 5)
    forecast = torch.tensor([1.0] * 4 + [0] * 2 + [1] + [0] * 3).view(1, 1, 1, 2, 5)
    scores = Scores(1)
    scores.update(forecast, observed)
    got = {name: values.flatten() for name, values in scores.compute().items()}
    assert got["csi"].tolist() == pytest.approx([4 / 7] * 5)
    assert got["pod"].tolist() == pytest.approx([4 / 6] * 5)
    assert got["far"].tolist() == pytest.approx([1 / 5] * 5)
    wanted = 2 * (4 * 3 - 2 * 1) / ((4 + 2) * (2 + 3) + (4 + 1) * (1 + 3))
    assert got["hss"].tolist() == pytest.approx([wanted] * 5)
    # Errors of 1: two where heavy rain came, one where none did.
    assert got["b_mse"].item() == got["b_mae"].item() == 30 + 30 + 1


def test_scores_against_scikit_learn():
    forecast, observed, mask = sample(2)
    scores = Scores(LEADS)
    scores.update(forecast, observed, mask)
    got = scores.compute()
    rates = [radar.pixels_to_rain(one.double()).numpy() for one in (forecast, observed)]
    for lead in range(LEADS):
        for k, threshold in enumerate(THRESHOLDS):
            seen = mask[lead].numpy()
            predicted, came = (rate[lead][seen] >= threshold for rate in rates)
            for name, wanted in (
                ("csi", jaccard_score(came, predicted)),
                ("pod", recall_score(came, predicted)),
                ("far", 1 - precision_score(came, predicted)),
                ("hss", cohen_kappa_score(came, predicted)),
            ):
                assert got[name][lead, k].item() == pytest.approx(wanted), name
    error = (forecast - observed).double().numpy()
    bins = np.digitize(rates[1], THRESHOLDS[1:])
    weights = np.array([1, 2, 5, 10, 30])[bins] * mask.numpy()
    for name, errors in (("b_mse", error**2), ("b_mae", abs(error))):
        wanted = (weights * errors).sum((1, 2, 3, 4)) / SEQUENCES
        np.testing.assert_allclose(got[name], wanted)


def test_scores_of_batches_are_those_of_all_at_once():
    forecast, observed, mask = sample(3)
    together, apart = Scores(LEADS), Scores(LEADS)
    together.update(forecast, observed, mask)
    for part in (slice(0, 1), slice(1, 4)):
        apart.update(forecast[:, part], observed[:, part], mask[:, part])
    for name, values in together.compute().items():
        torch.testing.assert_close(apart.compute()[name], values, msg=name)


def test_what_nothing_defines_is_nan():
    scores = Scores(1)
    scores.update(torch.zeros(1, 1, 1, 2, 2), torch.zeros(1, 1, 1, 2, 2))
    got = scores.compute()
    assert all(got[name].isnan().all() for name in ("csi", "hss", "pod", "far"))
    assert got["b_mse"].item() == 0


@pytest.mark.parametrize("function", [balanced_loss, Scores(LEADS).update])
def test_unequal_shapes_are_named(function):
    forecast, observed, mask = sample(4)
    with pytest.raises(ValueError, match=r"observed must have the shape of forecast"):
        function(forecast, observed[:, 1:], mask)
    with pytest.raises(ValueError, match=r"mask must have the shape of forecast"):
        function(forecast, observed, mask[0])
    with pytest.raises(ValueError, match=r"forecast must be \[T, B, C, H, W\]"):
        function(forecast[0], observed, mask)


def test_another_number_of_lead_times_is_named():
    forecast, observed, _ = sample(5)
    with pytest.raises(ValueError, match=r"forecast must have 2 frames, got 3"):
        Scores(2).update(forecast, observed)
    with pytest.raises(ValueError, match=r"leads must be positive, got 0"):
        Scores(0)
