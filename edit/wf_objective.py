"""What WF-Net minimises: retain under other rows, forget under the own row, keep masks open."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit import team
from bandstop.edit.classifier import Classifier
from bandstop.edit.gates import Gated, rows

Alphas = Mapping[str, Tensor]  # parameter name -> (num_classes, out_channels)


class Terms(Protocol):
    """The hyper-parameters of the objective; see `WFNet`."""

    @property
    def chi(self) -> int:
        """Copies of each retained image."""
        ...

    @property
    def set_size(self) -> int:
        """Classes in a set at most."""
        ...

    @property
    def lambda0(self) -> float:
        """Weight of the retain loss."""
        ...

    @property
    def lambda1(self) -> float:
        """Weight of the forget term."""
        ...

    @property
    def lambda2(self) -> float:
        """Weight of open masks."""
        ...

    @property
    def floor(self) -> float:
        """Is added to each forget loss."""
        ...


def objective(
    setting: Terms,
    model: Classifier,
    gated: Gated,
    alphas: Alphas,
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return `l0 mean(L_r) + l1 mean(1 / (L_f + floor)) + l2 mean(1 - mask)` (paper, eq. 2 to 4).

    Processes of a team divide the rows, and each returns the whole; the gradients are to be summed.

    Args:
        setting: the weights, chi and the size of sets.
        model: the classifier whose normalisation is applied.
        gated: its network under masks.
        alphas: the parameters that are trained.
        image: (n, c, h, w) in [0, 1].
        label: (n,).
        generator: draws the rows.
    """
    image, label = image.to(model.mean), label.to(model.mean.device)
    image, row, label, forgotten = expand(
        image, label, setting.chi, model.num_classes, generator, setting.set_size
    )
    own = team.share(len(label))
    losses = team.of_all(
        _losses(model, gated, alphas, image[own], row[own], label[own]), len(label)
    )
    retain, forget = losses[forgotten:], losses[:forgotten]
    return (
        setting.lambda0 * retain.mean()
        + setting.lambda1 * (1 / (forget + setting.floor)).mean()
        + setting.lambda2 * team.once(closed(alphas))
    )


def _losses(
    model: Classifier, gated: Gated, alphas: Alphas, image: Tensor, row: Tensor, label: Tensor
) -> Tensor:
    """Return the cross-entropy of each image under its row, (n,) float64."""
    if not len(label):  # not every network computes a batch of none
        return torch.zeros(0, dtype=torch.float64, device=label.device)
    masks = {name: torch.sigmoid(alpha) for name, alpha in rows(alphas, row).items()}
    logits = gated((image - model.mean) / model.std, masks)
    # float64: in float32 the loss of a certain image is exactly 0 and has no gradient
    return F.cross_entropy(logits.double(), label, reduction="none")


def expand(
    image: Tensor,
    label: Tensor,
    chi: int,
    num_classes: int,
    generator: torch.Generator,
    set_size: int = 1,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return images, rows, labels and the number of forgotten images, which come first.

    The first half of the batch is forgotten, each under the row of its own class. The other half is
    retained: `chi` copies of each, every copy under a random row of another class.

    With `set_size` above 1 the rows are sets (m, set_size) of 1 to `set_size` classes: the own
    class and random others, or random others only. A smaller set repeats its first class.
    """
    half = len(label) // 2
    kept = label[half:].repeat(chi)
    images = torch.cat([image[:half], image[half:].repeat(chi, 1, 1, 1)])
    labels = torch.cat([label[:half], kept])
    if set_size == 1:
        other = _others(len(kept), 1, num_classes, generator).to(label.device)
        return images, torch.cat([label[:half], (kept + other[:, 0]) % num_classes]), labels, half
    other = _others(len(labels), set_size, num_classes, generator)
    other[:half] = other[:half].roll(1, dims=1)
    other[:half, 0] = 0  # the own class
    size = torch.randint(1, set_size + 1, (len(labels), 1), generator=generator)
    other = torch.where(torch.arange(set_size) < size, other, other[:, :1]).to(label.device)
    return images, (labels[:, None] + other) % num_classes, labels, half


def closed(alphas: Alphas) -> Tensor:
    """Return the mean of `1 - sigmoid(alpha)` over all masks of all rows and layers."""
    flat = torch.cat([alpha.flatten() for alpha in alphas.values()])
    return (1 - torch.sigmoid(flat)).mean()


def _others(count: int, size: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Return (count, size) distances 1..num_classes - 1 to other classes, each once a row."""
    if size == 1:
        return torch.randint(1, num_classes, (count, 1), generator=generator)
    return 1 + torch.rand(count, num_classes - 1, generator=generator).argsort(dim=1)[:, :size]
