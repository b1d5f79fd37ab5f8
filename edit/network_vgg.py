"""VGG with BatchNorm for small images, of any width."""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

# layout -> convolutions in each of its stages (Simonyan and Zisserman 2015, table 1: A, B, D, E;
# vgg8 is the smallest with the same five stages)
LAYOUTS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "vgg8": (1, 1, 1, 1, 1),
        "vgg11": (1, 1, 2, 2, 2),
        "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3),
        "vgg19": (2, 2, 4, 4, 4),
    }
)
_WIDTHS = (1, 2, 4, 8, 8)  # of the stages, in units of `width`


class VGG(nn.Module):
    """A VGG with one linear layer as its head; with width 64 the convolutions are the paper's."""

    def __init__(self, *, width: int, layout: str, in_channels: int, num_classes: int) -> None:
        """Make the network `layout` (see `LAYOUTS`), its first stage `width` channels wide."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for count, factor in zip(LAYOUTS[layout], _WIDTHS, strict=True):
            for _ in range(count):
                conv = nn.Conv2d(channels, width * factor, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(width * factor), nn.ReLU()]
                channels = width * factor
            # rounding up leaves one pixel where an 8x8 image would run out of pixels
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, num_classes) of normalised images (n, in_channels, h, w)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
