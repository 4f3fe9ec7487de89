"""The residual network that the blocks' published models are made of."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from trajgru_ext.nn._recurrent import check_given

# From the channels that come in, a stage's width and a stride.
MakeBlock = Callable[[int, int, int], nn.Module]


def conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Conv2d:
    """A convolution without bias, that keeps the size but for its stride."""
    padding = kernel_size // 2
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, bias=False
    )


class ResNet(nn.Module):
    """He et al. 2016 (arXiv 1512.03385), with blocks of any kind.

    The parameters are named as torchvision's.
    """

    def __init__(
        self,
        make: MakeBlock,
        expansion: int,
        widths: Sequence[int],
        depths: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        channels = 64
        self.conv1 = conv(3, channels, 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for k, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = []
            for n in range(depth):
                stride = 2 if k > 0 and n == 0 else 1
                blocks.append(make(channels, width, stride))
                channels = width * expansion
            setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, input: Tensor) -> Tensor:
        """The logits of the classes, `[B, classes]`, of images `[B, 3, H, W]`."""
        check_given(type(self).__name__, input=input)
        x = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        for k in range(1, 5):
            x = self.get_submodule(f"layer{k}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits
