"""A step of adversarial generation against a bare gradient with respect to the same images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.bench.timing import Comparison, interleaved
from bandstop.bench.workload import resnet18, smooth_images
from bandstop.edit.adversarial import Attack, descend, first_steps, frozen
from bandstop.edit.classifier import Classifier
from bandstop.edit.seeds import seeded

_STEPS = 3  # of ours in a round, so that what comes before and after them counts as it does


def pgd_times(
    width: int, size: int, batch: int, rounds: int, seed: int
) -> tuple[Comparison, Comparison]:
    """Return the time of our steps / as many bare steps on `batch` images, two ways.

    First the bare steps take the network as it was trained, which is what ours is given too; then
    they take the network that ours makes of it, BatchNorm folded. One call of each is not counted.
    """
    model = resnet18(width, size, seed, folded=False)
    image, label = next(iter(smooth_images(torch.arange(batch) % 10, size, seed).batches(batch)))
    target = (label + 1) % 10
    start = torch.cat([first_steps(one, 1, 4.0, seeded(seed, i)) for i, one in enumerate(image)])
    ready = frozen(model)

    def ours() -> Tensor:
        return descend(ready, image, target, start, Attack(steps=_STEPS))

    def bare(network: Classifier) -> None:
        for _ in range(_STEPS):
            x = (image + start).requires_grad_()
            torch.autograd.grad(F.cross_entropy(network(x), target), x)

    ours()
    bare(model)
    as_given = interleaved(ours, lambda: bare(model), rounds)
    return as_given, interleaved(ours, lambda: bare(ready), rounds)
