"""How much each weight matters to some images, and the penalty that holds the others in place.

Memory aware synapses (Aljundi et al., arXiv 1711.09601), as L2UL uses them (arXiv 2301.11578): on
the images to be forgotten, so that the weights that matter to these alone are free to move.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bandstop.edit import team
from bandstop.edit.classifier import Classifier
from bandstop.edit.images import ImageSet

ByName = Mapping[str, Tensor]  # parameter name -> a value an entry


def importance(model: Classifier, images: ImageSet, *, batch: int = 32) -> dict[str, Tensor]:
    """Return by how much the length of the logits changes with each weight, on average.

    It is `sum over batches |B| |d mean ||g(x)||_2 / d theta| / N`. A batch of one image gives the
    definition of the paper that it is from; its users average within batches first.

    Args:
        model: in evaluation; left as it was.
        images: labels are not used.
        batch: images a batch.
    """
    names, weights = zip(*model.network.named_parameters(), strict=True)
    total = [torch.zeros_like(w) for w in weights]
    batches = range(-(-len(images) // batch))
    for i in batches[team.share(len(batches))]:
        part = images.take(torch.arange(i * batch, min((i + 1) * batch, len(images))))
        image, _ = next(part.batches(batch))
        length = model(image.to(model.mean)).norm(dim=1).mean()
        slopes = torch.autograd.grad(length, weights, allow_unused=True, materialize_grads=True)
        for sum_, slope in zip(total, slopes, strict=True):
            sum_ += len(part) * slope.abs() / len(images)
    return {name: team.summed(value) for name, value in zip(names, total, strict=True)}


def protection(importance: ByName) -> dict[str, Tensor]:
    """Return `1 - (omega - min) / (max - min)` of each tensor: 1 is held, 0 is free.

    A tensor whose entries are all alike is held: nothing tells that it matters to these images.
    """
    held = {}
    for name, omega in importance.items():
        low, high = omega.min(), omega.max()
        spread = high - low
        held[name] = torch.where(
            spread > 0, 1 - (omega - low) / spread.clamp_min(torch.finfo(omega.dtype).tiny), 1.0
        )
    return held


def penalty(weights: Iterable[tuple[str, nn.Parameter]], start: ByName, held: ByName) -> Tensor:
    """Return `1/2 sum held (theta - theta_start)^2` over all weights."""
    terms = [(held[name] * (weight - start[name]) ** 2).sum() for name, weight in weights]
    return torch.stack(terms).sum() / 2
