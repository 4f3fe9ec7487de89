"""trajgru_ext.nn.Conv2d: torch's module, alone, compiled and exported."""

import pytest
import torch
from torch import nn

from trajgru_ext import conv_algorithm
from trajgru_ext.nn import Conv2d

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def by_winograd():
    """Wherever it is possible, that it is tried on few channels."""
    with conv_algorithm("winograd"):
        yield


def test_module_is_torchs():
    """Of any padding mode, and with what is put on it."""
    torch.manual_seed(0)
    for mode in ("zeros", "reflect", "replicate", "circular"):
        torchs = nn.Conv2d(8, 16, 3, padding=1, padding_mode=mode)
        ours = Conv2d(8, 16, 3, padding=1, padding_mode=mode)
        ours.load_state_dict(torchs.state_dict())
        x = torch.randn(2, 8, 9, 10)
        torch.testing.assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)
    assert isinstance(ours, nn.Conv2d)
    normed = nn.utils.parametrizations.spectral_norm(Conv2d(8, 16, 3))
    normed(x).sum().backward()
    assert normed.parametrizations.weight.original.grad.any()


@pytest.mark.parametrize("layout", FORMATS)
def test_compile_and_export(layout):
    torch.compiler.reset()
    layer = Conv2d(16, 32, 3, padding=1).to(memory_format=layout)
    x = torch.randn(2, 16, 12, 13).contiguous(memory_format=layout)
    compiled = torch.compile(layer, fullgraph=True)
    results = []
    for one in (layer, compiled):
        leaf = x.clone().requires_grad_()
        output = one(leaf)
        gradients = torch.autograd.grad(
            output.square().sum(), [leaf, *layer.parameters()]
        )
        results.append([output, *gradients])
    for got, wanted in zip(*results, strict=True):
        assert torch.equal(got, wanted)
    exported = torch.export.export(layer, (x,)).module()
    assert torch.equal(exported(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.compile(layer, fullgraph=True)(x).dtype == torch.bfloat16
