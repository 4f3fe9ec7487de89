"""Efficient spatial pyramids of dilated convolutions: EESP and a simpler block."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from trajgru_ext.nn._as_built import ByWeights
from trajgru_ext.nn._recurrent import check_given, check_positive
from trajgru_ext.ops._layout import channels_last_on_cpu, in_format, memory_format
from trajgru_ext.ops._options import check_choice
from trajgru_ext.ops._overrides import leaf
from trajgru_ext.ops.hff_concat import hff_concat


class _Layers(nn.Module):
    """A convolution, batch norm and PReLU, those that there are, under these names."""

    def __init__(
        self,
        conv: nn.Conv2d | None,
        channels: int,
        *,
        norm: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        if conv is not None:
            self.conv = conv
        if norm:
            self.bn = nn.BatchNorm2d(channels)
        if activation:
            self.act = nn.PReLU(channels)

    def forward(self, input: Tensor) -> Tensor:
        """One after the other."""
        for layer in self.children():
            input = layer(input)
        return input


def _pointwise(channels: int, out_channels: int, groups: int) -> nn.Conv2d:
    """A 1x1 convolution in as many of the groups as the channels allow."""
    groups = math.gcd(channels, out_channels, groups)
    return nn.Conv2d(channels, out_channels, 1, groups=groups, bias=False)


def _depthwise(channels: int, dilation: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution of each channel alone, that keeps the size but for its stride.

    So does every dilation, and the branches fit each other.
    """
    return nn.Conv2d(
        channels,
        channels,
        3,
        stride,
        padding=dilation,
        dilation=dilation,
        groups=channels,
        bias=False,
    )


class EESP(ByWeights):
    """The unit of ESPNetv2: dilated depthwise convolutions, hierarchically fused.

    ::

        p = PReLU(BN(conv1x1(x)))                             n = nOut / k channels
        b_i = depthwise3x3(p, dilation=d_i)                   i = 0 to k - 1
        s = PReLU(BN(cat(b_0, b_0 + b_1, ..., b_0 + ... + b_k-1)))
        output = PReLU(BN(conv1x1(s)) + x)                    + x where sizes are equal

    The 1x1 convolutions have k groups. The receptive fields of the branches, of size
    2 d_i + 1, are 3, 5, 7, ... in order; those above `r_lim` are 3 instead. In
    evaluation sums, batch norm and PReLU are one pass. On a CPU all is computed in
    channels last, where depthwise convolutions are several times faster; the output
    has the memory format of the input.

    Constructor and keys are the published ones: `proj_1x1.conv`, `.bn` and `.act`;
    `spp_dw.i.conv`; `br_after_cat.bn` and `.act`; `conv_1x1_exp.conv` and `.bn`;
    `module_act`.

    Args:
        nIn: channels that come in.
        nOut: channels that go out, a multiple of k.
        stride: of the depthwise convolutions.
        k: branches, at most 16. Where the channels are no multiples of k, the 1x1
            convolutions have as many groups as they and k have in common.
        r_lim: the largest receptive field.
        down_method: "esp"; with "avg" and a stride of 2 the result is that of the
            second 1x1 convolution, to be joined with an average-pooled input.

    Source: Mehta et al. 2019, "ESPNetv2" (arXiv 1811.11431); sacmehta/ESPNetv2.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import EESP
        >>> EESP(32, 64, stride=2, k=4)(torch.randn(2, 32, 16, 16)).shape
        torch.Size([2, 64, 8, 8])

    """

    def __init__(
        self,
        nIn: int,
        nOut: int,
        stride: int = 1,
        k: int = 4,
        r_lim: int = 7,
        down_method: str = "esp",
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        nIn, nOut, stride, k, r_lim = check_positive(
            kind, nIn=nIn, nOut=nOut, stride=stride, k=k, r_lim=r_lim
        )
        check_choice(kind, "down_method", down_method, ("avg", "esp"))
        if nOut % k:
            raise ValueError(f"{kind}: nOut must be a multiple of k, {k}, got {nOut}")
        n = nOut // k
        fields = sorted(f if f <= r_lim else 3 for f in range(3, 3 + 2 * k, 2))
        self.stride = stride
        self.downAvg = down_method == "avg"
        self.proj_1x1 = _Layers(_pointwise(nIn, n, k), n)
        self.spp_dw = nn.ModuleList(
            _Layers(_depthwise(n, field // 2, stride), n, norm=False, activation=False)
            for field in fields
        )
        self.conv_1x1_exp = _Layers(_pointwise(nOut, nOut, k), nOut, activation=False)
        self.br_after_cat = _Layers(None, nOut)
        self.module_act = nn.PReLU(nOut)
        # The depthwise convolutions are called in either case.
        self._remember("proj_1x1", "conv_1x1_exp", "br_after_cat", "module_act")

    def forward(self, input: Tensor) -> Tensor:
        """`[B, nIn, H, W]` to `[B, nOut, H / stride, W / stride]`.

        Raises:
            TypeError, ValueError: as `hff_concat`.

        """
        check_given(type(self).__name__, input=input)
        image, by_weights = _fastest(input), self._change() is None
        expanded = self._by_weights(image) if by_weights else self._by_modules(image)
        if self.stride == 2 and self.downAvg:
            return _as_given(expanded, input)
        if by_weights:
            joined = _added(expanded, image, self.module_act.weight)
        else:
            joined = self.module_act(_added(expanded, image))
        return _as_given(joined, input)

    def _by_weights(self, input: Tensor) -> Tensor:
        projected = _normalize(self.proj_1x1, [self.proj_1x1.conv(input)])
        branches = [branch(projected) for branch in self.spp_dw]
        return self._expand(_normalize(self.br_after_cat, branches))

    def _by_modules(self, input: Tensor) -> Tensor:
        projected = self.proj_1x1(input)
        branches = [branch(projected) for branch in self.spp_dw]
        expanded: Tensor = self.conv_1x1_exp(self.br_after_cat(hff_concat(branches)))
        return expanded

    def _expand(self, input: Tensor) -> Tensor:
        """The convolution and batch norm, which in evaluation is part of it."""
        conv, norm = self.conv_1x1_exp.conv, self.conv_1x1_exp.bn
        if norm.training:
            output: Tensor = norm(conv(input))
            return output
        scale, shift = _scale_and_shift(norm)
        weight = conv.weight * scale[:, None, None, None]
        return conv2d(input, weight, shift, groups=conv.groups)


@leaf
def _fastest(image: Tensor) -> Tensor:
    return channels_last_on_cpu(image)


@leaf
def _as_given(output: Tensor, input: Tensor) -> Tensor:
    """The output in the memory format of the input."""
    return in_format(output, memory_format(input))


@leaf
def _added(expanded: Tensor, input: Tensor, slope: Tensor | None = None) -> Tensor:
    """What the block adds to its input where the sizes are equal; then PReLU."""
    summed = [expanded]
    if expanded.shape == input.shape:
        dtype = torch.promote_types(expanded.dtype, input.dtype)
        summed = [input.to(dtype), expanded.to(dtype)]
    return hff_concat(summed, len(summed) - 1, slope=slope)


def _normalize(layers: _Layers, branches: list[Tensor]) -> Tensor:
    """The batch norm and PReLU of the branches' sums, in evaluation in one pass."""
    slope = layers.act.weight
    if not layers.bn.training:
        return hff_concat(branches, 0, *_scale_and_shift(layers.bn), slope)
    sums = hff_concat(branches) if len(branches) > 1 else branches[0]
    return hff_concat([layers.bn(sums)], slope=slope)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The batch norm of evaluation as a product and a sum."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # as built
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


class DilatedSeparableConv(nn.Module):
    """A dilated 3x3 convolution of each channel alone, and a 1x1 convolution of all.

    The parameters are `depthwise.weight` and `pointwise.weight`.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        dilation: of the first; the size stays.

    Source: Chollet 2017 (arXiv 1610.02357), with dilation.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import DilatedSeparableConv
        >>> DilatedSeparableConv(8, 16, dilation=2)(torch.randn(2, 8, 16, 16)).shape
        torch.Size([2, 16, 16, 16])

    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        in_channels, out_channels, dilation = check_positive(
            type(self).__name__,
            in_channels=in_channels,
            out_channels=out_channels,
            dilation=dilation,
        )
        self.depthwise = _depthwise(in_channels, dilation)
        self.pointwise = _pointwise(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, in, H, W]` to `[B, out, H, W]`."""
        output: Tensor = self.pointwise(self.depthwise(input))
        return output


class DilatedPyramid(nn.Module):
    """The simpler unit: four separable branches, their sums, and no batch norm.

    ::

        p = conv1x1(x)
        b_i = DilatedSeparableConv(p, dilation=i)             i = 1 to 4
        output = conv1x1(cat(b_1 + b_2, b_1 + b_2 + b_3, b_1 + ... + b_4))

    The parameters are those of `reduce`, `branches.i` and `expand`.

    Args:
        in_channels: channels that come in.
        out_channels: channels of each branch, and that go out.
        groups: of the 1x1 convolutions; what it has in common with the channels is
            taken.

    Source: after Mehta et al. 2018, "ESPNet" (arXiv 1803.06815).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import DilatedPyramid
        >>> DilatedPyramid(32, 48)(torch.randn(2, 32, 16, 16)).shape
        torch.Size([2, 48, 16, 16])

    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 4) -> None:
        super().__init__()
        in_channels, out_channels, groups = check_positive(
            type(self).__name__,
            in_channels=in_channels,
            out_channels=out_channels,
            groups=groups,
        )
        self.reduce = _pointwise(in_channels, out_channels, groups)
        self.branches = nn.ModuleList(
            DilatedSeparableConv(out_channels, out_channels, dilation)
            for dilation in (1, 2, 3, 4)
        )
        self.expand = _pointwise(3 * out_channels, out_channels, groups)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, in, H, W]` to `[B, out, H, W]`.

        Raises:
            TypeError, ValueError: as `hff_concat`.

        """
        check_given(type(self).__name__, input=input)
        reduced = self.reduce(_fastest(input))
        branches = [branch(reduced) for branch in self.branches]
        output = self.expand(hff_concat(branches, skipped=1))
        return _as_given(output, input)
