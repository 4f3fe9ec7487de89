"""Scores by event, against other libraries and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.regression import continuous_ranked_probability_score

from trajgru_ext.nowcasting import Scores, radar
from trajgru_ext.nowcasting.verification import (
    SCALES,
    Verification,
    crps,
    fractions_sums,
)


def fields(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator)


def test_crps_is_that_of_torchmetrics():
    members, observed = fields(0, 7, 5, 6), fields(1, 5, 6)
    each = crps(members, observed)
    wanted = continuous_ranked_probability_score(
        members.flatten(1).T.contiguous(), observed.flatten()
    )
    torch.testing.assert_close(each.mean(), wanted)
    # Of one member it is the absolute error.
    torch.testing.assert_close(
        crps(members[:1], observed), (members[0] - observed).abs()
    )


def test_fractions_skill_score_is_that_of_pysteps():
    spatialscores = pytest.importorskip("pysteps.verification.spatialscores")
    forecast, observed = fields(0, 1, 40, 40), fields(1, 1, 40, 40)
    known = torch.ones_like(forecast, dtype=torch.bool)
    numerator, denominator = fractions_sums(
        forecast, observed, known, torch.tensor([0.8])
    )
    score = 1 - numerator / denominator
    for s, scale in enumerate(SCALES[:3]):
        wanted = spatialscores.fss(
            forecast[0].numpy(), observed[0].numpy(), thr=0.8, scale=scale
        )
        assert score[0, 0, s].item() == pytest.approx(wanted)


def test_fractions_by_hand():
    """Rain one pixel off: no skill pixel by pixel, some in larger squares."""
    forecast, observed = torch.zeros(2, 1, 32, 32)
    forecast[0, 16, 16] = observed[0, 16, 17] = 1
    known = torch.ones_like(forecast, dtype=torch.bool)
    bounds = torch.tensor([0.5])
    numerator, denominator = fractions_sums(forecast, observed, known, bounds)
    score = (1 - numerator / denominator)[0, 0]
    assert score[0] == 0
    assert (score.diff() > 0).all()
    assert score[-1] > 0.9


def test_scores_are_those_of_all_events_together():
    verification, metric = Verification(), Scores(2)
    for n in range(4):
        forecast, observed = fields(n, 2, 16, 16), fields(n + 10, 2, 16, 16)
        observed[:, 0, :3] = torch.nan
        verification.add(str(n % 3), forecast, observed)
        metric.update(forecast[:, None, None], observed[:, None, None])
    assert len(verification.events) == 3
    found = verification.compute()
    for name, wanted in metric.compute().items():
        torch.testing.assert_close(found[name], wanted, equal_nan=True)


def test_intervals_are_of_events():
    """All alike: no width. One event: none. Two that differ: between the two."""
    alike, apart = Verification(), Verification()
    good = fields(0, 1, 16, 16)
    bad = fields(1, 1, 16, 16)
    for n in range(5):
        alike.add(str(n), bad, good)
        apart.add(str(n), good if n < 2 else bad, good)
    low, high = alike.intervals()["csi"]
    assert torch.equal(low, high)
    low, high = apart.intervals()["csi"]
    middle = apart.compute()["csi"]
    assert (low < middle).all()
    assert (middle < high).all()
    assert torch.equal(apart.intervals()["csi"][0], low)
    one = Verification()
    one.add("1", bad, good)
    assert one.intervals() == {}


def test_reliability_of_a_reliable_ensemble():
    """Members and observation drawn alike: what is said to come so often does."""
    zr = radar.HKO7
    generator = torch.Generator().manual_seed(0)
    level = fields(1, 1, 128, 128)
    members = torch.rand(40, 1, 128, 128, generator=generator) * level
    observed = torch.rand(1, 128, 128, generator=generator) * level
    verification = Verification((5.0,), zr)
    verification.add("1", members.mean(0), observed, members)
    scores = verification.compute()
    said = scores["reliability_probability"][0]
    came = scores["reliability_frequency"][0]
    counted = scores["reliability_forecasts"][0]
    assert counted.sum() == 128 * 128
    many = counted > 300
    assert many.sum() >= 4
    np.testing.assert_allclose(said[many], came[many], atol=0.08)
    assert scores["crps"].item() > 0
