"""Ensembles: noise with the errors that a forecaster was measured to make.

In validation, errors e of pixels are split into bands of scales, differences of
Gaussian filters of widths `WIDTHS`. For each lead time t and band k are measured the
size s, that of all bands together, S, and from one lead time to the next the
correlation r::

    s_tk^2 = sum e_tk^2 / sum a_t^2     S_t^2 = sum e_t^2 / sum a_t^2
    r_k = sum e_tk e_(t+1)k / sum e_tk^2

with the activity a, which is 1 in rain and falls to 0 away from it, where forecasts are
right that nothing comes. A member is the forecast and noise of these sizes::

    member_t = forecast_t + a_t S_t unit(sum_k s_tk n_tk),
    n_tk = r_k moved(n_(t-1)k) + sqrt(1 - r_k^2) unit(white_tk)

with unit(x) = x / sqrt(mean x^2): bands overlap, and so do not add up to S by
themselves. The noise is moved along the motion between the past frames. So members
spread as much as forecasts were wrong, at every scale, without a model trained for it:
the errors of some hundred windows measure some fifty numbers well, but not a network
that draws.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from trajgru_ext.nowcasting.windows import Windows
from trajgru_ext.ops import flow_warp

WIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)  # pixels, of the filters between bands
ACTIVITY_WIDTH = 6.0  # pixels from rain over which activity falls
MEASURED = 64  # windows at most, spread evenly over all
SHOWN = 2**22  # pixels; of an ensemble of more, progress is shown
DRY = 1e-3  # pixels below are without rain


def blur(frames: Tensor, width: float) -> Tensor:
    """Frames `[..., H, W]` through a Gaussian filter."""
    axes = (0.0,) * (frames.dim() - 2)
    filtered = gaussian_filter(frames.cpu().numpy(), (*axes, width, width))
    return torch.from_numpy(filtered).to(frames)


def bands(frames: Tensor) -> Tensor:
    """Frames `[..., H, W]` split by scale: parts along a first axis that add up."""
    smooth = [frames, *(blur(frames, width) for width in WIDTHS)]
    parts = [a - b for a, b in pairwise(smooth)]
    return torch.stack([*parts, smooth[-1]])


def activity(forecast: Tensor) -> Tensor:
    """How much rain is near, from 0 to 1."""
    return blur((forecast > DRY).to(forecast), ACTIVITY_WIDTH).clamp(0, 1).sqrt()


def _unit(noise: Tensor) -> Tensor:
    """Noise `[..., H, W]` with a mean square of 1."""
    return noise / noise.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-9)


@torch.no_grad()
def measure_errors(
    net: nn.Module, windows: Windows, device: torch.device
) -> dict[str, Any]:
    """Measure the sizes and correlations of a network's errors, as lists."""
    net.eval()
    every = range(0, len(windows), max(1, len(windows) // MEASURED))
    zero = torch.zeros(())
    squares, products, weights, total = zero, zero, zero, zero
    chosen = DataLoader(Subset(windows, list(every)))
    for past, coming, mask in tqdm(chosen, desc="measuring errors", unit="forecast"):
        made = net(past.to(device).transpose(0, 1)).float().cpu()
        forecast, came, known = (
            one.transpose(0, 1)[:, 0, 0] if one is not made else one[:, 0, 0]
            for one in (made, coming, mask)
        )
        whole = torch.where(known, came - forecast, 0).double()
        total = total + whole.square().sum((1, 2))
        error = bands(whole)
        squares = squares + error.square().sum((2, 3))
        products = products + (error[:, 1:] * error[:, :-1]).sum((2, 3))
        weights = weights + activity(forecast.double()).square().sum((1, 2))
    weights = weights.clamp(min=1e-9)
    sizes = (squares / weights).sqrt()
    between = (squares[:, 1:] * squares[:, :-1]).sqrt().sum(1).clamp(min=1e-12)
    correlation = products.sum(1) / between
    return {
        "sizes": sizes.T.tolist(),  # [leads, bands]
        "total": (total / weights).sqrt().tolist(),  # [leads]
        "correlation": correlation.clamp(0, 0.99).tolist(),  # [bands]
    }


def make_members(
    forecast: Tensor,
    motion: Tensor,
    errors: Mapping[str, Sequence[Any]],
    members: int,
    seed: int = 0,
) -> Tensor:
    """Make an ensemble around a forecast.

    Args:
        forecast: pixels `[T, H, W]` without NaN. Beyond the lead times that were
            measured, errors are those of the last.
        motion: `[1, 2, H, W]`, of `estimate_motion`.
        errors: of `measure_errors`.
        members: how many, M.
        seed: of the noise.

    Returns:
        Pixels `[M, T, H, W]` in [0, 1].

    """
    sizes = torch.tensor(errors["sizes"])
    total = torch.tensor(errors["total"])
    correlation = torch.tensor(errors["correlation"])[:, None, None]
    near = activity(forecast)
    random = torch.Generator().manual_seed(seed)

    def white() -> Tensor:
        return _unit(bands(torch.randn(forecast.shape[1:], generator=random)))

    made = []
    many = members * forecast[0].numel() > SHOWN
    for _ in tqdm(range(members), desc="members", disable=not many):
        noise, frames = white(), []
        for t, frame in enumerate(forecast):
            if t:
                moved = flow_warp(noise[None], motion, flow_scale=-1)[0]
                noise = correlation * moved
                noise = noise + (1 - correlation.square()).sqrt() * white()
            lead = min(t, len(sizes) - 1)
            mixed = _unit((sizes[lead][:, None, None] * noise).sum(0))
            added = near[t] * total[lead] * mixed
            frames.append((frame + added).clamp(0, 1))
        made.append(torch.stack(frames))
    return torch.stack(made)
