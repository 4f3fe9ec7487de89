"""What the nowcaster makes of tensors on a device, against the CPU."""

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from trajgru_ext import nowcasting as nw

pytestmark = pytest.mark.usefixtures("emulated_devices", "one_thread")


def frames(steps=3, missing=True):
    """Rain that moves by parts of pixels and is unknown here and there."""
    down, right, samples = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (24, 32, 2)), indexing="ij"
    )
    moving = torch.stack(
        [
            (0.5 * (right - 0.7 * t)).sin() * (0.4 * (down + 0.3 * t) + samples).cos()
            for t in range(steps)
        ]
    )
    moving = moving.permute(0, 3, 1, 2)[:, :, None].clamp(min=0)
    if missing:
        moving[:, :, :, 4:6, 8:11] = torch.nan
    return moving


def training_loss(ahead, came):
    ahead = ahead.detach().requires_grad_()
    loss = nw.balanced_loss(ahead, came)
    return loss.detach(), torch.autograd.grad(loss, ahead)


def scores(ahead, came):
    made = nw.Scores(len(ahead)).to(ahead.device)
    made.update(ahead, came)
    return made.compute()


FUNCTIONS = {
    "persistence": lambda past, came: nw.persistence(past, 2),
    "extrapolation": lambda past, came: nw.extrapolation(past, 2),
    "smoothed": lambda past, came: nw.extrapolation(past, 2, smoothing=0.5),
    "carry_on": lambda past, came: nw.carry_on(
        past[-1], came[0].expand(2, 2, -1, -1), 2
    ),
    "estimate_motion": lambda past, came: nw.estimate_motion(past),
    "spectral_prognosis": lambda past, came: nw.spectral_prognosis(past, 2),
    "fill_missing": lambda past, came: nw.fill_missing(past),
    "balancing_weights": lambda past, came: nw.balancing_weights(past),
    "balanced_loss": training_loss,
    "Scores": scores,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    given = frames(), frames(missing=False)
    there = tree_map(lambda one: one.to("emulated:1"), given)
    wanted, found = (tree_leaves(FUNCTIONS[name](*one)) for one in (given, there))
    for one, other in zip(found, wanted, strict=True):
        assert one.device == torch.device("emulated:1")
        torch.testing.assert_close(
            one.cpu(), other, rtol=1e-6, atol=1e-7, equal_nan=True
        )
