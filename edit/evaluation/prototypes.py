"""Few-shot prototypes: whether a handful of images is enough to find a forgotten class again."""

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, mean
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.seeds import seeded


def prototype_acc(subject: Subject, case: Case, *, shots: int = 5, repeats: int = 20) -> Measure:
    """Return the accuracy on the forgotten classes when each is given by a few images.

    A prototype is the mean of features of length 1; an image is of the class whose prototype is
    nearest by the cosine. A forgotten class has the prototype of `shots` training images, any other
    that of all its retained ones. Ha et al. (arXiv 2506.01318) write the prototypes of forgotten
    classes into the head instead and leave its other rows; this way the head's own scale plays no
    part. The features of a network that never saw a class find it often, too: only the distance to
    the retrained network counts.

    Args:
        subject: its features in front of the head are looked at.
        case: which classes were forgotten; its seed draws the images.
        shots: training images of each forgotten class.
        repeats: draws that are averaged; the interval is over them.

    Raises:
        InputError: single images were forgotten, or images are missing.
    """
    _check(subject, case, shots, repeats)
    seen = subject.observed
    test = seen.test.of_classes(case.classes)
    of_others = _prototypes(seen.retain.without_classes(case.classes))
    image = F.normalize(test.features.double(), dim=1)
    nearest_other = (image @ of_others.T).amax(1)
    own = torch.searchsorted(torch.tensor(case.classes), test.labels)  # case.classes ascend
    rates = []
    for repeat in range(repeats):
        few = _few(seen.forget.of_classes(case.classes), shots, seeded(case.seed, repeat))
        likeness = image @ _prototypes(few).T  # (n, forgotten classes)
        rival = likeness.scatter(1, own[:, None], -torch.inf).amax(1)
        mine = likeness.gather(1, own[:, None])[:, 0]
        # a tie is no hit: features that are all 0 are alike to every prototype
        rates.append((mine > torch.maximum(rival, nearest_other)).double().mean())
    return mean(torch.stack(rates))


def _prototypes(answers: Answers) -> Tensor:
    """Return one prototype (classes, d) of length 1 for each class that occurs, ascending."""
    features = F.normalize(answers.features.double(), dim=1)
    means = [features[answers.labels == c].mean(0) for c in answers.labels.unique()]
    return F.normalize(torch.stack(means), dim=1)


def _few(answers: Answers, shots: int, generator: torch.Generator) -> Answers:
    order = torch.randperm(len(answers), generator=generator)
    labels = answers.labels[order]
    return answers.take(torch.cat([order[labels == c][:shots] for c in labels.unique()]))


def _check(subject: Subject, case: Case, shots: int, repeats: int) -> None:
    if not case.classes:
        raise InputError("prototypes are of classes, but single images were forgotten")
    if shots < 1 or repeats < 1:
        raise InputError(f"prototypes: shots and repeats must be 1 or more: {shots}, {repeats}")
    seen = subject.observed
    short = [c for c in case.classes if int((seen.forget.labels == c).sum()) < shots]
    if short or not len(seen.test.of_classes(case.classes)):
        raise InputError(
            f"prototypes need {shots} training images of each forgotten class and test images; "
            f"the classes {short} have fewer"
        )
    if not len(seen.retain.without_classes(case.classes)):
        raise InputError("prototypes need retained training images, got none")
