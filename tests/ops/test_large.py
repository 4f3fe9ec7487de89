"""Tensors of more than 2**31 elements: their last pixels are those of a small image.

They take up to 14 GiB and some minutes, so that they run only with `--large`.
"""

import pytest
import torch
from torch import Tensor

from trajgru_ext import flow_warp, lstm_gates, se_scale

ROWS, COLS, CHANNELS = 5800, 5800, 64
# Rows at the end that are compared, and those before them that these may read.
END, MARGIN = 16, 8


@pytest.fixture(autouse=True)
def enough_memory(request):
    if not request.config.getoption("--large"):
        pytest.skip("takes 14 GiB: --large")


def filled(channels: int) -> Tensor:
    """An image, channels last, that repeats itself at no whole number of rows."""
    image = torch.empty(ROWS, COLS, channels, dtype=torch.bfloat16)
    values = torch.linspace(-1, 1, 1009, dtype=torch.bfloat16).repeat(4096)
    flat = image.view(-1)
    for first in range(0, flat.numel(), values.numel()):
        part = flat[first : first + values.numel()]
        part.copy_(values[: part.numel()])
    return image.permute(2, 0, 1)[None]


def last(image: Tensor, rows: int = END) -> Tensor:
    return image[:, :, -rows:]


def derivatives(function, image: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """The result's last rows, and the gradient to the image from the image itself."""
    leaf = image.detach().requires_grad_()
    result = function(leaf, *others)
    (gradient,) = torch.autograd.grad(result, leaf, image)
    return last(result.detach()), gradient


def test_flow_warp():
    image = filled(CHANNELS)
    assert image.numel() > 2**31
    u = (0.7 * torch.arange(ROWS)).sin()[:, None].expand(ROWS, COLS)
    v = (0.1 * torch.arange(COLS)).cos().expand(ROWS, COLS)
    flow = 3 * torch.stack([u, v])[None]
    got, gradient = derivatives(flow_warp, image, flow)
    crop, beside = last(image, END + MARGIN).clone(), last(flow, END + MARGIN)
    want, part = derivatives(flow_warp, crop, beside)
    assert torch.equal(got, want)
    torch.testing.assert_close(last(gradient), last(part))


def test_se_scale():
    image = filled(CHANNELS)
    logits = torch.linspace(-2, 2, CHANNELS)[None]
    got, gradient = derivatives(se_scale, image, logits)
    want, part = derivatives(se_scale, last(image).clone(), logits)
    assert torch.equal(got, want)
    assert torch.equal(last(gradient), last(part))


def test_lstm_gates():
    gates, c = filled(CHANNELS), filled(CHANNELS // 4)
    leaf = gates.detach().requires_grad_()
    h, _ = lstm_gates(leaf, None, c)
    (gradient,) = torch.autograd.grad(h, leaf, c)
    small = last(gates).clone().requires_grad_()
    want, _ = lstm_gates(small, None, last(c).clone())
    (part,) = torch.autograd.grad(want, small, last(c).clone())
    assert torch.equal(last(h), want)
    assert torch.equal(last(gradient), part)
