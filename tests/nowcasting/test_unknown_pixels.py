"""NaN is unknown, not poison: in extrapolation, the loss and the scores."""

import numpy as np
import pytest
import torch
from torch import nn

from trajgru_ext.nowcasting import (
    Scores,
    balanced_loss,
    balancing_weights,
    carry_on,
    estimate_motion,
    extrapolation,
)

SHAPE = (3, 4, 1, 6, 5)


def blobs(frames=4, velocity=(1.5, -1.0), size=(40, 48)):
    """Bumps that move together, velocity in pixels a frame: down, right."""
    t = torch.arange(frames, dtype=torch.float32)[:, None, None]
    movie = torch.zeros(frames, *size)
    for row, col in ((8, 14), (22, 36), (28, 12), (12, 42), (18, 24)):
        down = torch.arange(size[0])[:, None] - row - velocity[0] * t
        right = torch.arange(size[1]) - col - velocity[1] * t
        movie += torch.exp(-(down**2 + right**2) / 32)
    return movie.clamp(0, 1)[:, None, None]


def with_holes(movie):
    """Some pixels of each frame, others in each, and a column of all."""
    generator = torch.Generator().manual_seed(0)
    holes = torch.rand(movie.shape, generator=generator) < 0.1
    holes[..., 0] = True
    holes[-1, ..., 10:20, 15:25] = True
    return movie.masked_fill(holes, torch.nan)


def test_motion_is_found_around_holes():
    for past in (with_holes(blobs()), with_holes(blobs()).double()):
        motion = estimate_motion(past)
        assert motion.dtype == past.dtype
        seen = past[-1, 0, 0] > 0.3
        middle = motion[0][:, seen].median(1).values
        torch.testing.assert_close(middle.tolist(), [-1.0, 1.5], rtol=0, atol=0.25)


def test_holes_are_filled_from_frames_before():
    movie = blobs(7)
    forecast = extrapolation(with_holes(movie[:4]), 3)
    inside = forecast[..., 8:-8, 8:-8]
    assert inside.isfinite().all()
    error = (inside - movie[4:, ..., 8:-8, 8:-8]).abs().mean()
    whole = (extrapolation(movie[:4], 3) - movie[4:])[..., 8:-8, 8:-8].abs().mean()
    assert error < 1.5 * whole + 0.01


def test_sequences_without_holes_do_not_change():
    past = torch.cat([blobs(), blobs(velocity=(-1.0, 0.5))], 1)
    alone = extrapolation(past[:, 1:], 2)
    past[:, 0] = with_holes(past[:, :1])[:, 0]
    torch.testing.assert_close(extrapolation(past, 2)[:, 1:], alone, rtol=0, atol=0.02)


def test_what_nothing_knows_is_unknown():
    past = torch.full((3, 2, 1, 20, 16), torch.nan)
    assert not estimate_motion(past).any()
    assert extrapolation(past, 2).isnan().all()
    assert extrapolation(past, 2, smoothing=1.0).isnan().all()
    past[:, 1] = 0.5
    forecast = extrapolation(past, 2)
    assert forecast[:, 0].isnan().all()
    assert forecast[:, 1].isfinite().all()


def test_carried_pixels_are_means_of_the_known():
    last = torch.arange(1.0, 7).view(1, 1, 1, 6)
    last[..., 2:4] = torch.nan
    motion = torch.tensor([0.25, 0]).view(1, 2, 1, 1).expand(1, 2, 1, 6)
    forecast, known = carry_on(last, motion, 2)
    # The first pixel comes in part from outside, where there is 0 and no motion.
    wanted = (
        [0.75, 1.75, 2, torch.nan, 5, 5.75],
        [0.5625, 1.5, 2, torch.nan, 5, 5.5],
    )
    torch.testing.assert_close(
        forecast.view(2, 6), torch.tensor(wanted), rtol=0, atol=1e-6, equal_nan=True
    )
    assert known[0].flatten().tolist() == [True, True, False, False, True, True]
    outside = carry_on(last, motion * 40, 1)
    assert outside[0].tolist() == [[[[[0.0] * 6]]]]
    assert not outside[1].any()


def test_gradients_go_around_the_unknown():
    last, motion = blobs(1)[0].double(), torch.full((1, 2, 40, 48), 0.3).double()
    last[..., 4:9, 4:9] = torch.nan
    last.requires_grad_(), motion.requires_grad_()
    forecast, _ = carry_on(last, motion, 2)
    forecast.nan_to_num(0).sum().backward()
    assert last.grad.isfinite().all() and motion.grad.isfinite().all()
    assert not last.grad[..., 4:9, 4:9].any()
    assert last.grad[..., 12:30, 12:30].all()


def test_smoothing_keeps_the_known_values():
    last = with_holes(blobs(1))[0]
    forecast, known = carry_on(last, torch.zeros(1, 2, 40, 48), 1, smoothing=1.0)
    assert torch.equal(forecast[0].isnan(), last.isnan())
    assert torch.equal(known[0], ~last.isnan())
    got, wanted = (one[~one.isnan()].sort().values for one in (forecast[0], last))
    assert torch.equal(got, wanted)
    assert not torch.equal(forecast[0].nan_to_num(0), last.nan_to_num(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
def test_extrapolation_in_inference_mode(holes, smoothing):
    past = with_holes(blobs()) if holes else blobs()
    wanted = extrapolation(past, 2, smoothing)
    with torch.inference_mode():
        inside = extrapolation(past, 2, smoothing)
        made_inside = extrapolation(past.clone(), 2, smoothing)
    with torch.no_grad():
        without = extrapolation(past, 2, smoothing)
    for got in (inside, made_inside, without):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    with torch.inference_mode():
        made = past.clone()
    torch.testing.assert_close(estimate_motion(made), estimate_motion(past))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_extrapolation_of_half_precision(dtype, smoothing):
    # Smoothing goes by ranks, and what is filled in, rounded, may change places.
    past = (blobs() if smoothing else with_holes(blobs())).to(dtype)
    got, wanted = (extrapolation(one, 2, smoothing) for one in (past, past.float()))
    assert got.dtype == dtype
    assert estimate_motion(past).dtype == torch.float32
    torch.testing.assert_close(got, wanted.to(dtype), equal_nan=True)
    motion = estimate_motion(past)
    halves = carry_on(past[-1], motion.to(dtype), 2)[0]
    wide = carry_on(past[-1], motion.to(dtype).float(), 2)[0]
    assert torch.equal(halves.isnan(), wide.isnan())
    torch.testing.assert_close(halves, wide, equal_nan=True)


def test_autocast_does_not_change_the_extrapolation():
    past = blobs()
    with torch.autocast("cpu", torch.bfloat16):
        got = extrapolation(past, 2)
    torch.testing.assert_close(got, extrapolation(past, 2), rtol=0, atol=0)


class Nowcast(nn.Module):
    def forward(self, past):
        return extrapolation(past + 0.0, 2) * 1.0


def test_graphs_leave_the_extrapolation_out():
    torch.compiler.reset()
    past = blobs()
    compiled = torch.compile(Nowcast(), backend="aot_eager")
    torch.testing.assert_close(compiled(past), Nowcast()(past), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(compiled(past), Nowcast()(past), rtol=0, atol=0)
    torch.compiler.reset()
    whole = torch.compile(Nowcast(), backend="aot_eager", fullgraph=True)
    with pytest.raises(
        Exception, match="extrapolation runs an iteration or scipy's filter"
    ):
        whole(past)
    for strict in (False, True):
        with pytest.raises(Exception, match=r"extrapolation.* scipy's filter"):
            torch.export.export(Nowcast(), (past,), strict=strict)


def test_impossible_calls_are_named():
    past = blobs()
    with pytest.raises(TypeError, match=r"past must be of a floating dtype, got"):
        estimate_motion(past.long())
    with pytest.raises(TypeError, match=r"estimate_motion: past must be a Tensor"):
        extrapolation(past.numpy(), 2)
    with pytest.raises(ValueError, match=r"carry_on: steps must be positive, got 0"):
        extrapolation(past, 0)


def sample(dtype=torch.float64):
    """Forecast and observation, where each is unknown and where a mask is False."""
    generator = torch.Generator().manual_seed(0)
    forecast, observed = (torch.rand(SHAPE, generator=generator) for _ in range(2))
    holes = [torch.rand(SHAPE, generator=generator) < 0.2 for _ in range(2)]
    return forecast.to(dtype), observed.to(dtype), holes


def hidden(kind):
    """The unknown as NaN, or as NaN and infinities under a mask; and what is known."""
    forecast, observed, holes = sample()
    known = ~(holes[0] | holes[1])
    if kind == "masked":
        forecast = forecast.masked_fill(~known, torch.inf)
        return forecast, observed.masked_fill(~known, torch.nan), known, known
    forecast = forecast.masked_fill(holes[0], torch.nan)
    return forecast, observed.masked_fill(holes[1], torch.nan), None, known


KINDS = pytest.mark.parametrize("kind", ["unmasked", "masked"])


@KINDS
@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_loss_leaves_out_the_unknown(kind, balance):
    forecast, observed, mask, known = hidden(kind)
    pair = [one.clone().requires_grad_() for one in (forecast, observed)]
    loss = balanced_loss(*pair, mask, balance=balance)
    plain = [one.detach() for one in sample()[:2]]
    wanted = balanced_loss(*plain, known, balance=balance)
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-12, atol=0)
    error = (plain[0] - plain[1])[known]
    weights = balancing_weights(plain[1])[known] ** balance
    by_hand = 5e-5 / 12 * (weights * (error**2 + error.abs())).sum()
    torch.testing.assert_close(loss.detach(), by_hand)
    for grad in torch.autograd.grad(loss, pair):
        assert not grad[~known].any()
        assert grad[known].all()


def test_weights_of_the_unknown_are_0():
    observed = torch.tensor([0.9, torch.nan, 0.1])
    assert balancing_weights(observed).tolist() == [30, 0, 1]


def test_loss_of_nothing():
    """0 without a gradient where nothing came, NaN where nothing was forecast."""
    forecast, observed, _ = sample()
    nothing = torch.full_like(observed, torch.nan)
    for pair, mask in (
        ((forecast, nothing), None),
        ((forecast, observed), torch.zeros(SHAPE, dtype=torch.bool)),
    ):
        leaf = pair[0].clone().requires_grad_()
        loss = balanced_loss(leaf, pair[1], mask)
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, leaf)[0].any()
    leaf = nothing.clone().requires_grad_()
    loss = balanced_loss(leaf, observed)
    assert loss.isnan()
    assert not torch.autograd.grad(loss, leaf)[0].any()
    assert balanced_loss(nothing, nothing).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_precision(dtype):
    """Its sum over a large frame is beyond float16."""
    generator = torch.Generator().manual_seed(0)
    forecast = torch.rand(1, 1, 1, 200, 200, generator=generator).to(dtype)
    observed = torch.full_like(forecast, 0.95)
    observed[..., 0] = torch.nan
    loss = balanced_loss(forecast, observed, scale=1.0)
    wanted = balanced_loss(forecast.double(), observed.double(), scale=1.0)
    assert loss.dtype == torch.float32
    assert wanted > torch.finfo(torch.float16).max
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    mixed = balanced_loss(forecast.float(), observed, scale=1.0)
    torch.testing.assert_close(mixed, loss)


class Loss(nn.Module):
    def forward(self, forecast, observed, mask):
        return balanced_loss(forecast, observed, mask)


@KINDS
def test_loss_in_graphs(kind):
    torch.compiler.reset()
    *arguments, known = hidden(kind)
    forecast = arguments[0].requires_grad_()
    compiled = torch.compile(Loss(), fullgraph=True)
    found = [module(*arguments) for module in (compiled, Loss())]
    torch.testing.assert_close(*found)
    grads = [torch.autograd.grad(one, forecast)[0] for one in found]
    torch.testing.assert_close(*grads)
    assert not grads[0][~known].any()
    program = torch.export.export(Loss(), tuple(arguments))
    torch.testing.assert_close(program.module()(*arguments), found[1])


@KINDS
def test_scores_leave_out_the_unknown(kind):
    forecast, observed, mask, known = hidden(kind)
    got, wanted = Scores(SHAPE[0]), Scores(SHAPE[0])
    got.update(forecast, observed, mask)
    wanted.update(*sample()[:2], known)
    counts = got.hits + got.misses + got.false_alarms + got.correct_negatives
    assert torch.equal(counts, known.sum((1, 2, 3, 4))[:, None].expand(-1, 5))
    for name, values in got.compute().items():
        assert values.isfinite().all()
        torch.testing.assert_close(values, wanted.compute()[name], rtol=1e-12, atol=0)


def test_sequences_of_which_nothing_is_known_do_not_count():
    forecast, observed, _ = sample()
    some, every = Scores(3), Scores(3)
    every.update(forecast[:, :2], observed[:, :2])
    forecast[:, 2:] = torch.nan
    some.update(forecast, observed)
    assert some.sequences.tolist() == [2, 2, 2]
    for name, values in some.compute().items():
        torch.testing.assert_close(values, every.compute()[name], rtol=1e-12, atol=0)
    none = Scores(3)
    none.update(torch.full_like(forecast, torch.nan), observed)
    assert all(values.isnan().all() for values in none.compute().values())


def test_scores_in_and_out_of_inference_mode():
    forecast, observed, _ = sample(torch.float32)
    scores, wanted = Scores(3), Scores(3)
    with torch.inference_mode():
        scores.reset()
        scores.update(forecast, observed)
        scores.reset()
        scores.update(forecast[:, :2], observed[:, :2])
    scores.update(forecast[:, 2:], observed[:, 2:])
    wanted.update(forecast, observed)
    for name, values in wanted.compute().items():
        torch.testing.assert_close(scores.compute()[name], values)


@pytest.mark.parametrize("function", [balanced_loss, Scores(3).update])
def test_masks_are_bool(function):
    forecast, observed, _ = sample()
    with pytest.raises(TypeError, match=r"mask must be of bool, got torch.float64"):
        function(forecast, observed, torch.ones_like(forecast))


def test_lead_times_as_numpy_counts_them():
    assert extrapolation(blobs(2), np.int64(2)).shape[0] == 2
