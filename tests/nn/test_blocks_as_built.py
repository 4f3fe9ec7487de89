"""Blocks run the modules that a person put into them."""

import pytest
import torch
from alterations import ALTERATIONS, assert_same, outputs_and_gradients
from as_built_layers import DTYPES, EVERY, normal
from torch import nn

from trajgru_ext.nn import (
    EESP,
    SelectiveKernelConv,
)


def norms(channels):
    return {
        "group": nn.GroupNorm(2, channels),
        "instance": nn.InstanceNorm2d(channels, affine=True),
        "tracking_instance": nn.InstanceNorm2d(channels, track_running_stats=True),
        "identity": nn.Identity(),
        "plain": nn.BatchNorm2d(channels, affine=False),
        "untracked": nn.BatchNorm2d(channels, track_running_stats=False),
        "hooked": hooked(nn.BatchNorm2d(channels)),
    }


def hooked(module):
    module.register_forward_hook(lambda one, args, result: 2 * result)
    return module


def eesp(block, x):
    projected = block.proj_1x1(x)
    branches = [branch(projected) for branch in block.spp_dw]
    sums = [sum(branches[: k + 1]) for k in range(len(branches))]
    expanded = block.conv_1x1_exp(block.br_after_cat(torch.cat(sums, 1)))
    if block.stride == 2 and block.downAvg:
        return expanded
    same = expanded.shape == x.shape
    return block.module_act(expanded + x if same else expanded)


def make_eesp(dtype=torch.float64, **options):
    torch.manual_seed(0)
    block = EESP(8, 8, **options)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return block.to(dtype)


def same_eesp(make, training, dtype=torch.float64):
    ours, plain = make().train(training), make().train(training)
    x = normal(2, 8, 8, 8, dtype=dtype)
    got = outputs_and_gradients(ours, lambda block: block(x))
    wanted = outputs_and_gradients(plain, lambda block: eesp(block, x))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert_same(got, wanted, tolerance)
    return ours


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", ["proj_1x1", "br_after_cat", "conv_1x1_exp"])
@pytest.mark.parametrize("norm", norms(4))
@DTYPES
def test_eesp_with_any_norm(place, norm, training, dtype):
    def make():
        block = make_eesp(dtype)
        owner = block.get_submodule(place)
        owner.bn = norms(owner.bn.num_features)[norm].to(dtype)
        return block

    ours = same_eesp(make, training, dtype)
    assert ours.computes().startswith(f"by modules: {place}.bn")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "down_method": "avg"}])
@pytest.mark.parametrize(
    "place", ["proj_1x1.conv", "conv_1x1_exp.conv", "spp_dw.1.conv"]
)
@pytest.mark.parametrize(
    "alter",
    [
        *("spectral_norm", "pruned", "new_weight_norm", "forward_hook", "own_forward"),
        *("backward_hook", "in_sequence", "in_groups", "other_bias"),
    ],
)
def test_eesp_with_other_convolutions(place, alter, training, options):
    def make():
        block = make_eesp(**options)
        owner, _, name = place.rpartition(".")
        if alter == "other_bias":
            conv = block.get_submodule(place)
            conv.bias = nn.Parameter(torch.ones(conv.out_channels).double())
        else:
            ALTERATIONS[alter](block.get_submodule(owner), name)
        if alter == "in_groups" and place.startswith("spp_dw"):
            block.get_submodule(place).stride = (block.stride, block.stride)
        return block

    ours = same_eesp(make, training)
    # The depthwise convolutions are called in any case.
    by_modules = not place.startswith("spp_dw")
    assert (ours.computes() != "by weights") == by_modules


@pytest.mark.parametrize("training", [True, False])
def test_eesp_with_other_activations_and_more_layers(training):
    def make():
        block = make_eesp()
        block.module_act = nn.GELU()
        block.br_after_cat.act = nn.PReLU()
        block.proj_1x1.more = nn.Tanh()
        hooked(block.conv_1x1_exp)
        return block.double()

    same_eesp(make, training)
    assert same_eesp(make_eesp, training).computes() == "by weights"


def selective(module, x):
    branches = [branch(x) for branch in module.convs]
    z = module.fc(sum(branches).mean((2, 3), keepdim=True))
    weights = torch.stack([fc(z) for fc in module.fcs], 1).softmax(1)
    return (weights * torch.stack(branches, 1)).sum(1)


@EVERY
def test_selective_kernels(alter):
    def make():
        torch.manual_seed(0)
        module = SelectiveKernelConv(8, G=2, L=4).double()
        alter(module.fcs, "1")
        return module

    if alter.__name__ == "larger_kernel":
        pytest.skip("of an image of one pixel another kernel is no other result")
    ours, plain = make(), make()
    assert ours.computes().startswith("by modules: fcs.1")
    x = normal(2, 8, 6, 7)
    got = outputs_and_gradients(ours, lambda module: module(x))
    wanted = outputs_and_gradients(plain, lambda module: selective(module, x))
    assert_same(got, wanted, 1e-9)
