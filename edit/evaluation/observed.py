"""What is looked at: the images of a request, the networks, and what each answers to them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bandstop.edit.classifier import Classifier
from bandstop.edit.head import with_features
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.method import split
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import seeded
from bandstop.edit.storage import state_sha256

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network says of some images; all on the CPU.

    Attributes:
        logits: (n, classes) float32.
        features: (n, d) float32, what its head reads.
        labels: (n,) int64, the true classes.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, positions: Tensor) -> "Answers":
        """Return the answers at `positions`, an index or a boolean mask."""
        return Answers(self.logits[positions], self.features[positions], self.labels[positions])

    def of_classes(self, classes: tuple[int, ...]) -> "Answers":
        """Return the answers to images whose label is among `classes`."""
        return self.take(torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64)))

    def without_classes(self, classes: tuple[int, ...]) -> "Answers":
        """Return the answers to all other images."""
        return self.take(~torch.isin(self.labels, torch.tensor(classes, dtype=torch.int64)))


@dataclass(frozen=True, slots=True)
class Case:
    """What every network of an evaluation is asked.

    Attributes:
        request: what was to be forgotten.
        forget: training images to forget, a sample where there are very many.
        retain: training images that stay, a sample.
        validate: held-out training images of the classes that stay.
        test: all test images, of all classes.
        seed: of whatever a metric draws.
    """

    request: ForgetRequest
    forget: ImageSet
    retain: ImageSet
    validate: ImageSet
    test: ImageSet
    seed: int = 0

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes to forget; none where single images were."""
        return self.request.classes


@dataclass(frozen=True, slots=True)
class Observed:
    """What one network answers to the images of a case.

    Attributes:
        forget: to `Case.forget`.
        retain: to `Case.retain`.
        test: to `Case.test`.
    """

    forget: Answers
    retain: Answers
    test: Answers


@dataclass(frozen=True, slots=True)
class Subject:
    """A network under evaluation.

    Attributes:
        name: original, edited, retrained or logit-mask.
        model: as it would be served: masks are folded in, and so is BatchNorm.
        observed: what it answers.
        given: the network as the user gave it, with BatchNorm where it has any; None: `model`.
    """

    name: str
    model: Classifier
    observed: Observed
    given: Classifier | None = None

    @property
    def key(self) -> str:
        """Return what tells it from other networks, of this name and of others."""
        return subject_key(self.name, self.given or self.model)


def subject_key(name: str, given: Classifier) -> str:
    """Return `Subject.key` of the network `given`."""
    return f"{name}-{state_sha256(given.network.state_dict())[:16]}"


def case_of(data: DataSplits, request: ForgetRequest, *, most: int = 5000, seed: int = 0) -> Case:
    """Return the images that the networks are asked, at most `most` of each training set.

    Args:
        data: the data that the original was trained on, with the forgotten images.
        request: what was to be forgotten.
        most: training images to forget, and to keep; drawn at random where there are more.
        seed: of the draws.

    Raises:
        InputError: see `split`.
    """
    parts = split(data, request)
    return Case(
        request,
        forget=sample(parts.forget, most, seed),
        retain=sample(parts.retain, most, seed + 1),
        validate=data.validate.without_classes(request.classes),
        test=data.test,
        seed=seed,
    )


def sample(images: ImageSet, most: int, seed: int) -> ImageSet:
    """Return at most `most` of the images, drawn at random, in their order."""
    if len(images) <= most:
        return images
    drawn = torch.randperm(len(images), generator=seeded(seed))[:most]
    return images.take(drawn.sort().values)


def observe(model: Classifier, case: Case) -> Observed:
    """Return what `model` answers to the images of `case`."""
    return Observed(*(answers(model, part) for part in (case.forget, case.retain, case.test)))


def answers(model: Classifier, images: ImageSet) -> Answers:
    """Return the logits and features that `model` has for all images."""
    parts = []
    starts = range(0, len(images), _BATCH)
    with torch.no_grad():
        for start in progress(starts, "answers"):
            part = images.take(torch.arange(start, min(start + _BATCH, len(images))))
            image, _ = next(part.batches(_BATCH))
            parts.append([t.cpu() for t in with_features(model, image.to(model.mean))])
    if not parts:
        width = model.num_classes
        return Answers(torch.empty(0, width), torch.empty(0, 0), images.labels)
    logits, features = (torch.cat(column) for column in zip(*parts, strict=True))
    return Answers(logits, features, images.labels)
