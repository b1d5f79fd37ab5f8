"""How well an edited network recognises held-out images of the two sides."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from bandstop.edit import team
from bandstop.edit.classifier import Classifier
from bandstop.edit.images import ImageSet
from bandstop.edit.search import Trial

Compare = Literal["probability", "accuracy"]


def some_of_each_side(
    images: ImageSet, classes: Sequence[int], count: int | None, seed: int
) -> ImageSet:
    """Return at most `count` random images of `classes` and as many of the others; None: all."""
    if count is None:
        return images
    generator = torch.Generator().manual_seed(seed)
    forgotten = torch.isin(images.labels, torch.tensor(classes))
    chosen = torch.zeros(len(images), dtype=torch.bool)
    for side in (forgotten, ~forgotten):
        members = torch.where(side)[0]
        order = torch.randperm(len(members), generator=generator)
        chosen[members[order[:count]]] = True
    return images.take(chosen)


def tried(
    model: Classifier,
    classes: Sequence[int],
    images: ImageSet,
    compare: Compare,
    alpha_r: float,
    alpha_f: float,
    weights: Mapping[str, Tensor],
) -> Trial:
    """Return how well `model` with `weights`, of one grid point, recognises `images`.

    Args:
        model: only read.
        classes: those to forget.
        images: of both sides.
        compare: by the probability of the true class, or by whether it comes first.
        alpha_r: of the grid point.
        alpha_f: of the grid point.
        weights: parameter name -> edited weight; none for the unedited network.
    """
    recognised = _recognised(model, weights, images, compare)
    forgotten = torch.isin(images.labels, torch.tensor(classes))
    state = model.network.state_dict()
    changes = [(w - state[name]).double().square().sum().item() for name, w in weights.items()]
    return Trial(
        alpha_r,
        alpha_f,
        retain=float(recognised[~forgotten].mean()),
        forget=float(recognised[forgotten].mean()),
        norm=sum(changes) ** 0.5,
    )


def _recognised(
    model: Classifier, weights: Mapping[str, Tensor], images: ImageSet, compare: Compare
) -> Tensor:
    """Return per image the probability of its class, or 1 where that class is the first, else 0."""
    own = images.take(torch.arange(len(images))[team.share(len(images))])
    parts = [torch.zeros(0, dtype=torch.float64)]  # there may be fewer images than processes
    with torch.no_grad():
        for image, label in own.batches(500):
            x = (image.to(model.mean) - model.mean) / model.std
            logits = functional_call(model.network, dict(weights), (x,)).double().cpu()
            if compare == "accuracy":
                parts.append((logits.argmax(1) == label).double())
            else:
                parts.append(logits.softmax(1).gather(1, label[:, None])[:, 0])
    return team.of_all(torch.cat(parts).to(model.mean.device), len(images)).cpu()
