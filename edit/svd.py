"""SVD class unlearning: take out of every weight what only the forgotten classes use.

Kodge, Saha, Roy: Deep Unlearning: Fast and Efficient Gradient-free Approach to Class Forgetting,
TMLR 2024 (arXiv 2312.00761). Computed from second moments in closed form (see projection.py); no
activation is stored and nothing is decomposed.

Departure from the paper: grid points are compared by the mean probability of the true class
instead of the accuracy. On a few dozen validation images the accuracy of a forgotten class is zero
at many grid points, and the one that it picks first still recognises 1 to 2 % of new images.
`PAPER` compares accuracies.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import DivergedError, InputError, NothingForgottenError
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.moments import editable_layers, second_moments, weight_matrix
from bandstop.edit.projection import factor, normalised, not_shared, without_forget_space
from bandstop.edit.request import ForgetRequest
from bandstop.edit.search import Trial, search

Weights = dict[str, Tensor]  # parameter name -> edited weight


@dataclass(frozen=True, slots=True)
class SVD:
    """Hyper-parameters of SVD class unlearning.

    Attributes:
        alpha_r: scalings of the retain space to try; larger protects more of what retain uses.
        alpha_f: scalings of the forget space to try; larger removes more.
        retain_images: training images to keep, as many of each class, at most.
        forget_images: training images to forget, as many of each class, at most.
        compare: how validation images are scored, by probability or by accuracy as in the paper.
        seed: draws the images.
    """

    name: ClassVar[str] = "svd"
    alpha_r: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0)
    alpha_f: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    retain_images: int = 900
    forget_images: int = 900
    compare: Literal["probability", "accuracy"] = "probability"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no edit can be made with, all at once."""
        wrong = [
            f"{name} must be a list of finite numbers >= 0, got {list(values)}"
            for name, values in (("alpha_r", self.alpha_r), ("alpha_f", self.alpha_f))
            if not values or not all(0 <= a < math.inf for a in values)
        ]
        wrong += [
            f"{name} must be 1 or more, got {count}"
            for name, count in (
                ("retain_images", self.retain_images),
                ("forget_images", self.forget_images),
            )
            if count < 1
        ]
        if wrong:
            raise InputError("svd: " + "; ".join(wrong))

    def __call__(self, model: Classifier, request: ForgetRequest, data: Splits) -> WeightEdit:
        """Return the edit of every convolution and linear layer; `model` is left as it was.

        Raises:
            InputError: no images to forget, to retain or to validate with.
            NothingForgottenError: no grid point is better than the unedited network.
            DivergedError: an edited weight is not finite.
        """
        _check(request, data)
        generator = torch.Generator().manual_seed(self.seed)
        retain = _unit_moments(model, _sample(data.retain, self.retain_images, generator))
        forget = _unit_moments(model, _sample(data.forget, self.forget_images, generator))
        grid = Grid(model, retain, forget)
        original = self._trial(model, request, data.validate, 0.0, 0.0, {})

        def evaluate(alpha_r: float, alpha_f: float) -> Trial:
            weights = grid.weights(alpha_r, alpha_f)
            return self._trial(model, request, data.validate, alpha_r, alpha_f, weights)

        chance = 1 / model.num_classes if self.compare == "accuracy" else 0.0
        best, trials = search(self.alpha_r, self.alpha_f, evaluate, original, forgotten=chance)
        if best is original:
            raise NothingForgottenError(
                f"svd: none of {len(trials)} settings did better than the unedited network (score "
                f"{original.score:.3f}); nothing was written, try other alpha_r and alpha_f"
            )
        weights = grid.weights(best.alpha_r, best.alpha_f)
        bad = [name for name, w in weights.items() if not bool(torch.isfinite(w).all())]
        if bad:
            raise DivergedError(f"svd: the edit of {bad[0]} is not finite; nothing was written")
        return WeightEdit(weights, _findings(model, best, trials, weights))

    def _trial(
        self,
        model: Classifier,
        request: ForgetRequest,
        images: ImageSet,
        alpha_r: float,
        alpha_f: float,
        weights: Weights,
    ) -> Trial:
        recognised = _recognised(model, weights, images, self.compare)
        forgotten = torch.isin(images.labels, torch.tensor(request.classes))
        return Trial(
            alpha_r,
            alpha_f,
            retain=float(recognised[~forgotten].mean()),
            forget=float(recognised[forgotten].mean()),
            norm=sum(c.square().sum().item() for c in _changes(model, weights).values()) ** 0.5,
        )


PAPER = SVD(alpha_f=(3.0,), compare="accuracy")


class Grid:
    """Edited weights at any grid point; each factor and half-product is computed once."""

    def __init__(
        self, model: Classifier, retain: Mapping[str, Tensor], forget: Mapping[str, Tensor]
    ) -> None:
        """Keep the layers of `model` and the normalised moments of both sides."""
        self.layers = editable_layers(model.network)
        self.matrices = {n: weight_matrix(layer).double() for n, layer in self.layers.items()}
        self.retain = retain
        self.forget = forget
        self._not_shared: tuple[float, Weights] = (-1.0, {})
        self._factors: dict[tuple[str, float], Tensor] = {}

    def weights(self, alpha_r: float, alpha_f: float) -> Weights:
        """Return the edited weight of every layer, `W - W (I - P_r) P_f`."""
        if self._not_shared[0] != alpha_r:
            rest = {n: not_shared(w, self.retain[n], alpha_r) for n, w in self.matrices.items()}
            self._not_shared = (alpha_r, rest)
        edited = {}
        for name, layer in self.layers.items():
            weight = without_forget_space(
                self.matrices[name],
                self.retain[name],
                self.forget[name],
                alpha_r,
                alpha_f,
                rest=self._not_shared[1][name],
                cholesky=self._factor(name, alpha_f),
            )
            edited[f"{name}.weight"] = weight.reshape(layer.weight.shape).to(layer.weight.dtype)
        return edited

    def _factor(self, name: str, alpha: float) -> Tensor | None:
        if alpha and (name, alpha) not in self._factors:
            self._factors[name, alpha] = factor(self.forget[name], alpha)
        return self._factors.get((name, alpha))


def _check(request: ForgetRequest, data: Splits) -> None:
    misfits = [
        f"no {what} images"
        for what, images in (
            ("forget", data.forget),
            ("retain", data.retain),
            ("forget validation", data.validate.of_classes(request.classes)),
            ("retain validation", data.validate.without_classes(request.classes)),
        )
        if not len(images)
    ]
    if not request.classes:
        misfits.append("svd forgets classes, not instances")
    if misfits:
        raise InputError("svd: " + "; ".join(misfits))


def _sample(images: ImageSet, count: int, generator: torch.Generator) -> ImageSet:
    per_class = max(1, count // len(images.labels.unique()))
    return images.per_class(per_class, generator)


def _unit_moments(model: Classifier, images: ImageSet) -> dict[str, Tensor]:
    return {name: normalised(c) for name, c in second_moments(model, images).items()}


def _recognised(model: Classifier, weights: Weights, images: ImageSet, compare: str) -> Tensor:
    """Return per image the probability of its class, or 1 where that class is the first, else 0."""
    parts = []
    network: nn.Module = model.network
    with torch.no_grad():
        for image, label in images.batches(500):
            x = (image.to(model.mean) - model.mean) / model.std
            logits = functional_call(network, weights, (x,)).double().cpu()
            if compare == "accuracy":
                parts.append((logits.argmax(1) == label).double())
            else:
                parts.append(logits.softmax(1).gather(1, label[:, None])[:, 0])
    return torch.cat(parts)


def _changes(model: Classifier, weights: Weights) -> Weights:
    state = model.network.state_dict()
    return {name: (w - state[name]).double() for name, w in weights.items()}


def _findings(
    model: Classifier, best: Trial, trials: list[Trial], weights: Weights
) -> dict[str, object]:
    """Return what was chosen, the grid, and by how much each layer changed (relative norm)."""
    state = model.network.state_dict()
    return {
        "alpha_r": best.alpha_r,
        "alpha_f": best.alpha_f,
        "score": best.score,
        "trials": [[t.alpha_r, t.alpha_f, t.retain, t.forget, t.norm] for t in trials],
        "relative_change": {
            name: float(change.norm() / state[name].double().norm())
            for name, change in _changes(model, weights).items()
        },
    }
