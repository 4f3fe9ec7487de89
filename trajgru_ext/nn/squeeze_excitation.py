"""Squeeze-and-excitation: the block, residual blocks with it, and their networks."""

from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_given, check_positive
from trajgru_ext.nn._resnet import ResNet, conv
from trajgru_ext.ops.channel_mean import channel_mean
from trajgru_ext.ops.se_scale import se_scale


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate that all channels' means decide.

    ::

        output = x * sigma(W2 relu(W1 mean_HW(x)))

    The parameters are `fc.0.weight` `[C / reduction, C]` and `fc.2.weight`
    `[C, C / reduction]`, without biases.

    Args:
        channel: C.
        reduction: by how much the hidden layer is narrower; it keeps at least one
            channel.

    Source: Hu et al. 2018 (arXiv 1709.01507).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SqueezeExcitation
        >>> SqueezeExcitation(64)(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])

    """

    def __init__(self, channel: int, reduction: int = 16) -> None:
        super().__init__()
        channel, reduction = check_positive(
            type(self).__name__, channel=channel, reduction=reduction
        )
        hidden = max(channel // reduction, 1)
        self.fc = nn.Sequential(
            nn.Linear(channel, hidden, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, channel, bias=False),
        )

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same.

        Raises:
            TypeError, ValueError: as `se_scale`.

        """
        check_given(type(self).__name__, input=input)
        return se_scale(input, self.fc(channel_mean(input)))


class SEBasicBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation, and the shortcut.

    The parameters are named as torchvision's `BasicBlock`'s, and `se`.

    Args:
        inplanes: channels that come in.
        planes: channels that go out.
        stride: of the first convolution.
        downsample: what the shortcut goes through, where it must.
        reduction: of `SqueezeExcitation`.

    Source: Hu et al. 2018 (arXiv 1709.01507).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SEBasicBlock
        >>> SEBasicBlock(64, 64)(torch.randn(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])

    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.conv1 = conv(inplanes, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(planes, reduction)
        self.downsample = downsample

    def forward(self, input: Tensor) -> Tensor:
        """`[B, inplanes, H, W]` to `[B, planes, H / stride, W / stride]`."""
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.se(self.bn2(self.conv2(x)))
        output: Tensor = self.relu(x + _shortcut(self.downsample, input))
        return output


class SEBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, squeeze-and-excitation, and the shortcut.

    The parameters are named as torchvision's `Bottleneck`'s, and `se`.

    Args:
        inplanes: channels that come in.
        planes: channels between; four times as many go out.
        stride: of the 3x3 convolution.
        downsample: what the shortcut goes through, where it must.
        reduction: of `SqueezeExcitation`.

    Source: Hu et al. 2018 (arXiv 1709.01507).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import SEBottleneck
        >>> SEBottleneck(256, 64)(torch.randn(2, 256, 8, 8)).shape
        torch.Size([2, 256, 8, 8])

    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = conv(inplanes, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = conv(planes, outplanes, 1)
        self.bn3 = nn.BatchNorm2d(outplanes)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(outplanes, reduction)
        self.downsample = downsample

    def forward(self, input: Tensor) -> Tensor:
        """`[B, inplanes, H, W]` to `[B, 4 * planes, H / stride, W / stride]`."""
        x = self.relu(self.bn1(self.conv1(input)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.se(self.bn3(self.conv3(x)))
        output: Tensor = self.relu(x + _shortcut(self.downsample, input))
        return output


def _shortcut(downsample: nn.Module | None, input: Tensor) -> Tensor:
    if downsample is None:
        return input
    shortcut: Tensor = downsample(input)
    return shortcut


def _se_resnet(block: type[SEBasicBlock | SEBottleneck], num_classes: int) -> ResNet:
    def make(channels: int, planes: int, stride: int) -> nn.Module:
        outplanes = planes * block.expansion
        downsample = None
        if stride != 1 or channels != outplanes:
            downsample = nn.Sequential(
                conv(channels, outplanes, 1, stride), nn.BatchNorm2d(outplanes)
            )
        return block(channels, planes, stride, downsample)

    widths, depths = (64, 128, 256, 512), (3, 4, 6, 3)
    return ResNet(make, block.expansion, widths, depths, num_classes)


def se_resnet34(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-34: a residual network of `SEBasicBlock`.

    It makes `[B, num_classes]` logits of images `[B, 3, H, W]`, of any size from 32
    pixels a side. Four stages of (3, 4, 6, 3) blocks are 64, 128, 256 and 512 channels
    wide. The parameters are named as those of torchvision's ResNet, the blocks' as of
    `SEBasicBlock`.

    Args:
        num_classes: of the last layer.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks" (arXiv 1709.01507).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import se_resnet34
        >>> net = se_resnet34(num_classes=10).eval()
        >>> net(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    """
    return _se_resnet(SEBasicBlock, num_classes)


def se_resnet50(num_classes: int = 1000) -> ResNet:
    """SE-ResNet-50: a residual network of `SEBottleneck`.

    It makes `[B, num_classes]` logits of images `[B, 3, H, W]`, of any size from 32
    pixels a side. Four stages of (3, 4, 6, 3) blocks are 64, 128, 256 and 512 channels
    wide, times 4 at their ends. The parameters are named as those of torchvision's
    ResNet, the blocks' as of `SEBottleneck`.

    Args:
        num_classes: of the last layer.

    Source: Hu et al. 2018, "Squeeze-and-Excitation Networks" (arXiv 1709.01507).

    Examples:
        >>> import torch
        >>> from trajgru_ext.nn import se_resnet50
        >>> net = se_resnet50(num_classes=10).eval()
        >>> net(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    """
    return _se_resnet(SEBottleneck, num_classes)
