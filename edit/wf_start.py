"""Where WF-Net's masks start: open, but less so where a class stands out (not in the paper).

A channel that answers to class c more than to the others is likely to be shut in the row of c. A
row that starts there needs a third of the steps (docs/results.md).
"""

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from bandstop.edit import team
from bandstop.edit.attention import SelfAttention
from bandstop.edit.classifier import Classifier
from bandstop.edit.gates import bias_of, gateable, layer_of
from bandstop.edit.images import ImageSet
from bandstop.edit.moments import weight_of

_IMAGES = 100  # of each class, at most


def initial_alphas(
    model: Classifier, bound: float, layers: Sequence[str] = ("*",), *, tied: bool = False
) -> dict[str, Tensor]:
    """Return alphas at `bound`, with gradients, for what is gated (see `gateable`).

    When `tied` there is none for a bias: it goes with its weight.
    """
    names = gateable(model.network, layers)
    biases = {bias_of(name) for name in names} - {n for n in names if n.endswith("weight")}
    return {
        name: torch.full(
            (model.num_classes, channels), bound, device=model.mean.device, requires_grad=True
        )
        for name, channels in names.items()
        if not (tied and name in biases)
    }


def lower_(
    alphas: dict[str, Tensor], model: Classifier, images: ImageSet, warm: float, seed: int
) -> None:
    """Lower each alpha by `warm` times how far its channel stands out in its class, in place.

    Args:
        alphas: parameter name -> (num_classes, channels).
        model: the network, no mask on it.
        images: of every class; a hundred of each are read.
        warm: alpha a standard deviation over the classes.
        seed: draws the images.
    """
    few = images.per_class(_IMAGES, torch.Generator().manual_seed(seed))
    means = class_means(model, list(dict.fromkeys(map(layer_of, alphas))), few)
    with torch.no_grad():
        for name, alpha in alphas.items():
            alpha.sub_(warm * standing_out(means[layer_of(name)]))


def standing_out(means: Tensor) -> Tensor:
    """Return by how many deviations over the classes each of `means` (C, channels) is higher.

    What is not above the mean of all classes stands out by 0.
    """
    deviation = means.std(dim=0, correction=0)
    above = (means - means.mean(dim=0)).clamp_min(0)
    return torch.where(deviation > 0, above / deviation, torch.zeros_like(above))


def class_means(model: Classifier, layers: Sequence[str], images: ImageSet) -> dict[str, Tensor]:
    """Return how strongly each channel of `layers` answers to each class, (num_classes, channels).

    Of a convolution that is the mean of the positive part over images and places; of queries, keys
    and values, where the sign says nothing, the mean size over images and tokens.

    Processes of a team divide the batches, and each returns the means over all images.
    """
    seen: dict[str, Tensor] = {}
    sums = {name: _zeros(model, name) for name in layers}
    counts = images.labels.bincount(minlength=model.num_classes)
    with ExitStack() as hooks, torch.no_grad():
        for name in layers:
            hooks.callback(_watch(model.network.get_submodule(name), name, seen).remove)
        for _, image, label in team.batches(images, 100):
            model(image.to(model.mean))
            for name, strength in seen.items():
                sums[name].index_add_(0, label.to(strength.device), strength)
    return {
        name: team.sum_(total) / counts.clamp_min(1).to(total)[:, None]
        for name, total in sums.items()
    }


def _zeros(model: Classifier, name: str) -> Tensor:
    """Return zeros (num_classes, channels) of what the layer called `name` makes."""
    layer = model.network.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear | SelfAttention)  # what can be gated
    weight = weight_of(layer)
    return weight.new_zeros(model.num_classes, len(weight))


def _watch(
    layer: nn.Module, name: str, seen: dict[str, Tensor]
) -> torch.utils.hooks.RemovableHandle:
    """Put (n, channels) of each batch that `layer` makes into `seen`."""
    if isinstance(layer, SelfAttention):

        def before(_m: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            x = args[0] if args else kwargs["query"]
            seen[name] = layer.project(x).abs().mean(1)

        return layer.register_forward_pre_hook(before, with_kwargs=True)

    def after(_m: nn.Module, _x: tuple[Tensor, ...], y: Tensor) -> None:
        tokens = y.reshape(len(y), -1, y.shape[-1])
        seen[name] = y.relu().mean((2, 3)) if y.ndim == 4 else tokens.abs().mean(1)

    return layer.register_forward_hook(after)
