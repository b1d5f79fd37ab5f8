"""A residual network for small images, of any width and depth."""

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        """Make a block; its shortcut is projected when `stride` or the width changes."""
        super().__init__()
        self.conv1 = _conv(channels_in, channels_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(channels_out, channels_out, 3, 1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                _conv(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels_out, ceil(h / stride), ceil(w / stride))."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.downsample(x))
        return out


class ResNet(nn.Module):
    """A ResNet whose stem keeps the resolution; every stage but the first halves it.

    With width 64 and blocks (2, 2, 2, 2) this is the ResNet-18 commonly used on CIFAR-10.
    """

    def __init__(
        self, *, width: int, blocks: Sequence[int], in_channels: int, num_classes: int
    ) -> None:
        """Make `len(blocks)` stages, the first `width` channels wide, each next one double."""
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        stages, channels = [], width
        for stage, count in enumerate(blocks):
            wide = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append((stage, BasicBlock(channels, wide, stride)))
                channels = wide
        self.stages = nn.Sequential(
            *(nn.Sequential(*(b for s, b in stages if s == stage)) for stage in range(len(blocks)))
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of normalised images (n, in_channels, h, w)."""
        x = self.relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(self.pool(self.stages(x)).flatten(1))
        return logits


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
