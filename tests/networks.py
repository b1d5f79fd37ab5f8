"""Small networks and pictures with a known answer, for the tests of several modules."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.images import ImageSet, Preprocess


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classifier(
    network: nn.Module, *, size: int = 8, channels: int = 1, classes: int = 4
) -> Classifier:
    prep = Preprocess((size, size), channels, (0.5,) * channels, (0.25,) * channels)
    names = tuple(f"class {c}" for c in range(classes))
    return Classifier(network, Arch("test:network"), prep, names)


class TinyNet(nn.Module):
    """Every wiring that folding and gating meet: residual, strided, grouped, conv without norm."""

    def __init__(self, classes: int = 4, channels: int = 1, *, norm: bool = True) -> None:
        super().__init__()
        make = nn.BatchNorm2d if norm else nn.Identity
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=not norm)
        self.bn1 = make(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=not norm)
        self.bn2 = make(8)
        self.conv3 = nn.Conv2d(8, 12, 3, stride=2)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn2(self.conv2(x))).relu()
        logits: Tensor = self.fc(self.conv3(x).relu().mean((2, 3)))
        return logits


def tiny(seed: int = 0, classes: int = 4, *, norm: bool = True) -> Classifier:
    """Return a classifier with random weights and, for BatchNorm, lively statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyNet(classes, norm=norm)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)  # negative scales too
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]  # tracked, so a tensor
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]  # same
    return classifier(network, classes=classes)


def corners(count: int = 200, seed: int = 0) -> ImageSet:
    """Return grey 8x8 pictures: noise with one bright quarter, whose place is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 90, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for c, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        images[labels == c, :, row : row + 4, column : column + 4] += 120
    return ImageSet(images, torch.arange(count), labels)


def trained(seed: int = 0, steps: int = 60) -> Classifier:
    """Return a TinyNet that tells the four corners apart."""
    model = tiny(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.network = TinyNet()
    model.network.train()
    optimizer = torch.optim.Adam(model.network.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        image, label = next(corners(seed=seed + 1).batches(64, generator))
        loss = nn.functional.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def lively_(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give what starts as zeros or ones some life, statistics too; return `network`."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            if parameter.ndim < 2 or not bool(parameter.any()):
                parameter.add_(0.2 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]  # tracked, so a tensor
                nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]  # same
    return network


@dataclass
class Recorder:
    """A store of images that remembers which ones were read."""

    images: Tensor
    read: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        self.read.append(index)
        return self.images[index]
