"""Selective kernels: the convolution, the residual unit with it, and its network."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from trajgru_ext.nn._as_built import ByWeights
from trajgru_ext.nn._recurrent import check_given, check_positive
from trajgru_ext.nn._resnet import ResNet, conv
from trajgru_ext.ops.channel_mean import channel_mean
from trajgru_ext.ops.sk_select import sk_select


class SelectiveKernelConv(ByWeights):
    """M convolutions of different dilation, mixed channel by channel.

    ::

        U_i = relu(BN(conv3x3(x, dilation=1 + i)))             i = 0 to M - 1
        z = relu(BN(W mean_HW(U_0 + ... + U_M-1)))
        output = sum_i softmax_i(W_i z + b_i) * U_i

    The parameters are `convs.i.0.weight` and `convs.i.1.*` of convolution and batch
    norm, `fc.0.weight` and `fc.1.*` of the hidden layer, `fcs.i.weight` and `.bias` of
    each branch's logits.

    Args:
        features: channels in and out.
        M: branches, 2 to 16.
        G: groups of the convolutions; what it has in common with `features` is taken.
        r: by how much the hidden layer is narrower.
        stride: of the convolutions.
        L: the fewest channels that the hidden layer has.

    Source: Li et al. 2019 (arXiv 1903.06586).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SelectiveKernelConv
        >>> SelectiveKernelConv(64, M=2, G=32)(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])

    """

    def __init__(
        self,
        features: int,
        M: int = 2,
        G: int = 32,
        r: int = 16,
        stride: int = 1,
        L: int = 32,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        features, M, G, r, stride, L = check_positive(
            kind, features=features, M=M, G=G, r=r, stride=stride, L=L
        )
        if M < 2:
            raise ValueError(f"{kind}: M must be at least 2, got {M}")
        hidden = max(features // r, L)
        groups = math.gcd(features, G)
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    features,
                    features,
                    3,
                    stride,
                    padding=1 + i,
                    dilation=1 + i,
                    groups=groups,
                    bias=False,
                ),
                nn.BatchNorm2d(features),
                nn.ReLU(inplace=True),
            )
            for i in range(M)
        )
        self.fc = nn.Sequential(
            conv(features, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        self.fcs = nn.ModuleList(nn.Conv2d(hidden, features, 1) for _ in range(M))
        self._remember("fcs")

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C, H / stride, W / stride]`.

        Raises:
            TypeError, ValueError: as `sk_select`.

        """
        check_given(type(self).__name__, input=input)
        branches = [branch(input) for branch in self.convs]
        z = self.fc(channel_mean(*branches)[:, :, None, None])
        return sk_select(branches, self._logits(z))

    def _logits(self, z: Tensor) -> Tensor:
        """All branches' logits `[B, M, C]`, by one product where that is the same."""
        if self._change() is not None:
            return torch.stack([fc(z).flatten(1) for fc in self.fcs], 1)
        every: list[Any] = list(self.fcs)
        weight = torch.cat([fc.weight for fc in every]).flatten(1)
        bias = torch.cat([fc.bias for fc in every])
        channels = weight.shape[0] // len(every)
        logits = linear(z.flatten(1), weight, bias)
        return logits.reshape(z.shape[0], len(every), channels)


class SelectiveKernelUnit(nn.Module):
    """A selective-kernel convolution between 1x1 convolutions, and the shortcut.

    The parameters are those of `conv1`, `conv2_sk`, `conv3`, each with its batch norm,
    and where the size changes of `shortcut`.

    Args:
        in_features: channels that come in.
        mid_features: channels of the selective-kernel convolution.
        out_features: channels that go out.
        M: as of `SelectiveKernelConv`.
        G: as of `SelectiveKernelConv`.
        r: as of `SelectiveKernelConv`.
        stride: of the selective-kernel convolution; None halves the resolution where
            `in_features` and `out_features` differ.
        L: as of `SelectiveKernelConv`.

    Source: Li et al. 2019 (arXiv 1903.06586).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SelectiveKernelUnit
        >>> SelectiveKernelUnit(64, 64, 128)(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 128, 4, 4])

    """

    def __init__(
        self,
        in_features: int,
        mid_features: int,
        out_features: int,
        M: int = 2,
        G: int = 32,
        r: int = 16,
        stride: int | None = None,
        L: int = 32,
    ) -> None:
        super().__init__()
        in_features, mid_features, out_features = check_positive(
            type(self).__name__,
            in_features=in_features,
            mid_features=mid_features,
            out_features=out_features,
        )
        if stride is None:
            stride = 1 if in_features == out_features else 2
        self.conv1 = nn.Sequential(
            conv(in_features, mid_features, 1),
            nn.BatchNorm2d(mid_features),
            nn.ReLU(inplace=True),
        )
        self.conv2_sk = SelectiveKernelConv(mid_features, M, G, r, stride, L)
        self.conv3 = nn.Sequential(
            conv(mid_features, out_features, 1), nn.BatchNorm2d(out_features)
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_features != out_features:
            self.shortcut = nn.Sequential(
                conv(in_features, out_features, 1, stride),
                nn.BatchNorm2d(out_features),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, in, H, W]` to `[B, out, H / stride, W / stride]`."""
        x = self.conv3(self.conv2_sk(self.conv1(input)))
        output: Tensor = self.relu(x + self.shortcut(input))
        return output


def sknet50(num_classes: int = 1000) -> ResNet:
    """SKNet-50: a residual network of `SelectiveKernelUnit`.

    It makes `[B, num_classes]` logits of images `[B, 3, H, W]`, of any size from 32
    pixels a side. Four stages of (3, 4, 6, 3) units, of two branches each, are 128,
    256, 512 and 1024 channels wide, times 2 at their ends. The parameters are named as
    those of torchvision's ResNet, the units' as of `SelectiveKernelUnit`.

    Args:
        num_classes: of the last layer.

    Source: Li et al. 2019, "Selective Kernel Networks" (arXiv 1903.06586), table 1.

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import sknet50
        >>> net = sknet50(num_classes=10).eval()
        >>> net(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    """

    def make(channels: int, width: int, stride: int) -> nn.Module:
        return SelectiveKernelUnit(channels, width, 2 * width, stride=stride)

    return ResNet(make, 2, (128, 256, 512, 1024), (3, 4, 6, 3), num_classes)
