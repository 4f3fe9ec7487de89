"""The convolutional blocks as modules, against the same in plain PyTorch."""

import copy

import pytest
import torch
from gate_inputs import FORMATS
from torch import nn
from torch.nn.functional import batch_norm, prelu

from ports.blocks import selective_kernel, squeeze_excitation
from ports.espnetv2 import dilated_pyramid, eesp
from trajgru_ext.nn import (
    EESP,
    DilatedPyramid,
    DilatedSeparableConv,
    SEBasicBlock,
    SEBottleneck,
    SelectiveKernelConv,
    SelectiveKernelUnit,
    SpatialPyramidPooling,
    SqueezeExcitation,
    se_resnet34,
    se_resnet50,
    sknet50,
)
from trajgru_ext.nn.eesp import _normalize


def settled(module):
    """In float64, with batch norms and slopes that are not as they begin."""
    torch.manual_seed(0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, -0.5, 0.5)
    return module.double()


def image(*shape, layout=FORMATS[0]):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.contiguous(memory_format=layout)


def derivatives(module, plain, x):
    """The result of `plain`, and its gradients to the image and the parameters."""
    x = x.clone().requires_grad_()
    output = plain(module, x)
    leaves = [x, *module.parameters()]
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return output, *torch.autograd.grad(output, leaves, seed, allow_unused=True)


def assert_same(module, plain, x, atol=1e-10):
    """Training and evaluation, values and all gradients."""
    for training in (True, False):
        module.train(training)
        again = copy.deepcopy(module)
        got = derivatives(module, lambda m, x: m(x), x)
        wanted = derivatives(again, plain, x)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=atol)
        for one, other in zip(module.buffers(), again.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)


@LAYOUTS
@pytest.mark.parametrize(
    ("make", "plain", "channels"),
    [
        (lambda: SqueezeExcitation(32), squeeze_excitation, 32),
        (lambda: SqueezeExcitation(5), squeeze_excitation, 5),
        (lambda: SelectiveKernelConv(32), selective_kernel, 32),
        (
            lambda: SelectiveKernelConv(7, M=3, G=4, r=2, stride=2, L=3),
            selective_kernel,
            7,
        ),
        (lambda: EESP(16, 16), eesp, 16),
        (lambda: EESP(16, 32, stride=2, k=4, r_lim=9), eesp, 16),
        (lambda: EESP(16, 16, stride=2, down_method="avg"), eesp, 16),
        (lambda: EESP(7, 21, k=3, r_lim=5), eesp, 7),
        (lambda: EESP(9, 18, k=9, r_lim=99), eesp, 9),
        (lambda: DilatedPyramid(8, 12), dilated_pyramid, 8),
        (lambda: DilatedPyramid(3, 5), dilated_pyramid, 3),
    ],
)
def test_blocks_match_plain_pytorch(make, plain, channels, layout):
    module = settled(make())
    assert_same(module, plain, image(3, channels, 7, 5, layout=layout))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (13, 1)], ids=str)
def test_small_maps(size):
    for make, plain in (
        (lambda: SqueezeExcitation(3), squeeze_excitation),
        (lambda: SelectiveKernelConv(4), selective_kernel),
        (lambda: EESP(4, 4), eesp),
        (lambda: DilatedPyramid(4, 4), dilated_pyramid),
    ):
        module = settled(make())
        channels = next(module.parameters()).shape[1]
        channels = 4 if not isinstance(module, SqueezeExcitation) else channels
        assert_same(module, plain, image(2, channels, *size))


class PlainSE(nn.Module):
    def __init__(self, fc):
        super().__init__()
        self.fc = fc

    def forward(self, x):
        return squeeze_excitation(self, x)


class PlainSK(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.convs, self.fc, self.fcs = module.convs, module.fc, module.fcs

    def forward(self, x):
        return selective_kernel(self, x)


def made_plain(module):
    """A copy whose blocks are in plain PyTorch, its parameters in the same order."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SqueezeExcitation):
                setattr(parent, name, PlainSE(child.fc))
            if isinstance(child, SelectiveKernelConv):
                setattr(parent, name, PlainSK(child))
    return module


@pytest.mark.parametrize(
    ("make", "channels", "wanted"),
    [
        (lambda: SEBasicBlock(8, 8), 8, (8, 6, 4)),
        (
            lambda: SEBasicBlock(8, 16, 2, nn.Conv2d(8, 16, 1, 2), reduction=4),
            8,
            (16, 3, 2),
        ),
        (lambda: SEBottleneck(16, 4), 16, (16, 6, 4)),
        (lambda: SelectiveKernelUnit(16, 8, 16), 16, (16, 6, 4)),
        (lambda: SelectiveKernelUnit(16, 8, 32), 16, (32, 3, 2)),
        (lambda: SelectiveKernelUnit(16, 8, 32, M=3, stride=1), 16, (32, 6, 4)),
    ],
)
def test_residual_blocks(make, channels, wanted):
    module, x = settled(make()), image(3, channels, 6, 4)
    for training in (True, False):
        module.train(training)
        plain = made_plain(module)
        got = derivatives(module, lambda m, x: m(x), x)
        assert got[0].shape == (3, *wanted)
        for one, other in zip(
            got, derivatives(plain, lambda m, x: m(x), x), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [se_resnet34, sknet50])
def test_networks(make):
    network = settled(make(num_classes=7)).eval()
    x = image(2, 3, 40, 33)
    with torch.no_grad():
        wanted = made_plain(network)(x)
        torch.testing.assert_close(network(x), wanted, rtol=1e-10, atol=1e-10)
    assert wanted.shape == (2, 7)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts():
    assert count(se_resnet50()) == 28_071_976
    # ResNet-34's, and in each block two layers of C * C / 16.
    of_se = sum(n * 2 * c * c // 16 for n, c in ((3, 64), (4, 128), (6, 256), (3, 512)))
    assert count(se_resnet34()) == 21_797_672 + of_se

    def sk_unit(before, middle, after):
        hidden = max(middle // 16, 32)
        total = before * middle + middle * after + 2 * (middle + after)
        total += 2 * (9 * middle * middle // 32 + 2 * middle)
        total += middle * hidden + 2 * hidden + 2 * (hidden + 1) * middle
        return total + (before != after) * (before * after + 2 * after)

    wanted, before = 3 * 64 * 49 + 2 * 64, 64
    for depth, middle in ((3, 128), (4, 256), (6, 512), (3, 1024)):
        for _ in range(depth):
            wanted += sk_unit(before, middle, 2 * middle)
            before = 2 * middle
    assert count(sknet50()) == wanted + 2049 * 1000
    assert round(count(sknet50()) / 1e6, 1) == 27.5  # as the paper says


@pytest.mark.parametrize(
    ("before", "after", "k"), [(128, 128, 4), (64, 192, 4), (256, 256, 8)]
)
def test_parameters_of_eesp(before, after, k):
    """Grouped projection to d, k depthwise 3x3 of d, grouped expansion of k d."""
    d = after // k
    convolutions = before * d // k + k * 9 * d + after * after // k
    norms = 2 * (d + after + after)
    slopes = d + after + after
    assert count(EESP(before, after, k=k)) == convolutions + norms + slopes


def test_keys():
    def keys(module):
        return {name.rsplit(".", 1)[0] for name in module.state_dict()}

    assert keys(SqueezeExcitation(16)) == {"fc.0", "fc.2"}
    assert keys(SEBasicBlock(16, 16)) == {
        *("conv1", "bn1", "conv2", "bn2", "se.fc.0", "se.fc.2")
    }
    branch = {"convs.0.0", "convs.0.1", "convs.1.0", "convs.1.1"}
    assert keys(SelectiveKernelConv(32)) == {
        *branch,
        *("fc.0", "fc.1", "fcs.0", "fcs.1"),
    }
    assert keys(EESP(8, 8, k=2)) == {
        *("proj_1x1.conv", "proj_1x1.bn", "proj_1x1.act"),
        *("spp_dw.0.conv", "spp_dw.1.conv", "br_after_cat.bn", "br_after_cat.act"),
        *("conv_1x1_exp.conv", "conv_1x1_exp.bn", "module_act"),
    }
    layers = {"conv1", "bn1", "fc", "layer4.2.se.fc.2", "layer1.0.downsample.1"}
    assert layers <= keys(se_resnet50(2))


def test_receptive_fields_of_eesp():
    """Sorted, and those above the limit 3."""

    def dilations(**options):
        return [one.conv.dilation[0] for one in EESP(16, 16, **options).spp_dw]

    assert dilations(r_lim=9) == [1, 2, 3, 4]
    assert dilations(r_lim=7) == [1, 1, 2, 3]
    assert dilations(r_lim=3) == [1, 1, 1, 1]


def test_evaluation_of_eesp_is_batch_norm_and_prelu():
    module = settled(EESP(8, 8)).eval()
    norm, slope = module.br_after_cat.bn, module.br_after_cat.act.weight
    branches = [image(2, 2, 3, 4) * (k + 1) for k in range(4)]
    sums = torch.cat([sum(branches[: k + 1]) for k in range(4)], 1)
    normal = batch_norm(
        sums, norm.running_mean, norm.running_var, norm.weight, norm.bias
    )
    got = _normalize(module.br_after_cat, branches)
    torch.testing.assert_close(got, prelu(normal, slope), rtol=1e-12, atol=1e-12)


def test_separable_convolution():
    module = DilatedSeparableConv(4, 6, dilation=3).double()
    x = image(2, 4, 9, 5)
    inner = nn.functional.conv2d(
        x, module.depthwise.weight, padding=3, dilation=3, groups=4
    )
    wanted = nn.functional.conv2d(inner, module.pointwise.weight)
    torch.testing.assert_close(module(x), wanted, rtol=0, atol=1e-12)
    assert count(module) == 4 * 9 + 4 * 6


@LAYOUTS
@pytest.mark.parametrize(
    ("make", "channels"),
    [
        (lambda: SqueezeExcitation(8), 8),
        (lambda: SelectiveKernelConv(8), 8),
        (lambda: EESP(8, 8), 8),
        (lambda: SpatialPyramidPooling(3), 8),
    ],
    ids=["se", "sk", "eesp", "spp"],
)
def test_compile_and_formats(make, channels, layout):
    torch.compiler.reset()
    torch.manual_seed(0)
    module = make().eval().to(memory_format=layout)
    x = image(2, channels, 6, 5, layout=layout).float()
    compiled = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    if module(x).dim() == 4:
        assert module(x).is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SqueezeExcitation(0), "SqueezeExcitation: channel must be positive"),
        (lambda: SqueezeExcitation(8, 0), "reduction must be positive, got 0"),
        (lambda: SelectiveKernelConv(8, M=1), "M must be at least 2, got 1"),
        (lambda: SelectiveKernelConv(8, G=0), "G must be positive, got 0"),
        (lambda: SelectiveKernelUnit(0, 8, 8), "in_features must be positive"),
        (lambda: EESP(8, 9), "EESP: nOut must be a multiple of k, 4, got 9"),
        (lambda: EESP(8, 8, down_method="max"), "down_method must be one of 'avg', 'e"),
        (lambda: DilatedPyramid(8, 8, 0), "groups must be positive, got 0"),
        (lambda: DilatedSeparableConv(8, 8, 0), "dilation must be positive, got 0"),
        (lambda: SpatialPyramidPooling(0), "levels must be 1 to 1024, got 0"),
        (lambda: SpatialPyramidPooling(2, "min"), "pool_type must be one of 'max_pool"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
