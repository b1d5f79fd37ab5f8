"""Every metric's name, and how its figure is to be read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["lower", "higher", "closest"]
Unit = Literal["share", "score", "epochs", "s", "MB"]
Target = float | Literal["original", "retrained"] | None


@dataclass(frozen=True, slots=True)
class Metric:
    """How a figure is to be read.

    Attributes:
        title: for people.
        direction: whether lower or higher is better, or what is closest to the target.
        target: where a network that never learnt what is forgotten would stand: at a number, at
            the original's figure or at the retrained network's; None for a control.
        about: what it says, in a sentence.
        chance: what guessing gives; None where that is not defined.
        weak: whether passing is no evidence, since stronger attacks of the kind are known.
        unit: a `share` is shown in percent, a `score` as it is.
        scale: a difference that counts as 1 in a distance between networks.
    """

    title: str
    direction: Direction
    target: Target
    about: str
    chance: float | None = None
    weak: bool = False
    unit: Unit = "share"
    scale: float = 1.0


_ACCURACY: Mapping[str, Metric] = {
    "test_forget_acc": Metric(
        "forgotten classes, test",
        "lower",
        "retrained",
        "Accuracy on test images of the forgotten classes. A switched-off logit reaches 0 as well.",
    ),
    "test_retain_acc": Metric(
        "the rest, test", "higher", "original", "Accuracy on test images of what should stay."
    ),
    "forget_acc": Metric(
        "forgotten, training",
        "lower",
        "retrained",
        "Accuracy on the training images that were to be forgotten.",
    ),
    "retain_acc": Metric(
        "the rest, training", "higher", "original", "Accuracy on training images of what stays."
    ),
    "retain_drop": Metric(
        "lost on the rest",
        "lower",
        0.0,
        "How much test accuracy on what should stay fell: high where too much was forgotten.",
    ),
    "worst_class_drop": Metric(
        "worst class of the rest",
        "lower",
        0.0,
        "How much the test accuracy of that class fell which lost most among those that stay.",
    ),
}
_DISTRIBUTION: Mapping[str, Metric] = {
    "zrf": Metric(
        "zero retrain forgetting",
        "closest",
        "retrained",
        "1 minus the Jensen-Shannon divergence, in nats, to networks with random weights on "
        "the forgotten images (arXiv 2205.08096): from 0.307 for unlike to 1 for alike.",
        unit="score",
        scale=math.log(2),
    ),
    "js_div": Metric(
        "divergence from retrained",
        "lower",
        0.0,
        "Jensen-Shannon divergence, in nats, to the retrained network's answers on the forgotten "
        "images.",
        unit="score",
        scale=math.log(2),
    ),
    "activation_distance": Metric(
        "distance from retrained",
        "lower",
        0.0,
        "Mean distance between the probabilities of this and of the retrained network on the "
        "forgotten images (arXiv 2205.08096).",
        unit="score",
        scale=math.sqrt(2),
    ),
}
_MEMBERSHIP: Mapping[str, Metric] = {
    "mia_svc": Metric(
        "called non-members (SVC)",
        "closest",
        "retrained",
        "Share of forgotten test images that a support vector machine on the true class's "
        "probability calls non-members (arXiv 2312.00761).",
        weak=True,
    ),
    "mia_svc_balanced": Metric(
        "called non-members (balanced SVC)",
        "closest",
        "retrained",
        "The same with both kinds of image weighted alike, so that it is no majority vote.",
        weak=True,
    ),
    "mia_entropy": Metric(
        "called members (entropy)",
        "closest",
        "retrained",
        "Share of forgotten training images that the entropy of their answer gives away as "
        "members (arXiv 2205.08096).",
        weak=True,
    ),
    "cmia_auc": Metric(
        "members by neighbouring classes",
        "closest",
        "retrained",
        "How well the probabilities of the classes that stay tell forgotten training images from "
        "test images of the same class (after arXiv 2506.20893).",
        chance=0.5,
        unit="score",
    ),
    "neighbour_auc": Metric(
        "told from retrained by neighbouring classes",
        "closest",
        0.5,
        "How well the probabilities of the classes that stay tell this network's answers to "
        "forgotten images from the retrained network's.",
        chance=0.5,
        unit="score",
    ),
    "neighbour_tv": Metric(
        "where forgotten images go, against retrained",
        "lower",
        0.0,
        "Total-variation distance between where this and the retrained network send forgotten "
        "images among the classes that stay.",
        unit="score",
    ),
}
_FEATURES: Mapping[str, Metric] = {
    "probe_acc": Metric(
        "linear probe",
        "closest",
        "retrained",
        "Accuracy on forgotten classes of a new linear layer on the same features, fitted with "
        "labels: what the features still hold.",
    ),
    "probe_auc": Metric(
        "linear probe, AUC",
        "closest",
        "retrained",
        "How well that layer tells the forgotten classes from the others.",
        chance=0.5,
        unit="score",
    ),
    "prototype_acc": Metric(
        "five-shot prototypes",
        "closest",
        "retrained",
        "Accuracy on forgotten classes by the nearest class mean of features, that of a forgotten "
        "class from five images (arXiv 2506.01318).",
    ),
    "cka_original": Metric(
        "features like the original's",
        "closest",
        "retrained",
        "Linear centred kernel alignment with the original's features on forgotten images: 1 where "
        "nothing but the head changed (arXiv 1905.00414).",
        unit="score",
    ),
    "cka_retrained": Metric(
        "features like the retrained's",
        "higher",
        1.0,
        "The same with the retrained network's features.",
        unit="score",
    ),
    "bn_reestimate_acc": Metric(
        "BatchNorm re-estimated",
        "closest",
        "retrained",
        "Accuracy on forgotten classes after BatchNorm's statistics are taken anew from unlabelled "
        "images of the others: shows a class that is hidden, not gone.",
    ),
}
_TRAINING: Mapping[str, Metric] = {
    "relearn_epochs": Metric(
        "epochs to relearn",
        "closest",
        "retrained",
        "Epochs of 500 random training images until the forgotten classes are known as before "
        "(arXiv 2304.02049).",
        unit="epochs",
        scale=20.0,
    ),
    "retain_tune_acc": Metric(
        "after training on the rest",
        "closest",
        "retrained",
        "Accuracy on forgotten classes after training on images of the others alone "
        "(arXiv 2505.22310).",
    ),
}
_TOGETHER: Mapping[str, Metric] = {
    "tow": Metric(
        "tug of war",
        "higher",
        1.0,
        "Product of 1 minus the gaps to the retrained network in accuracy on forgotten, retained "
        "and test images (arXiv 2406.01257).",
        unit="score",
    ),
    "tow_mia": Metric(
        "tug of war, membership",
        "higher",
        1.0,
        "The same with a membership attack in place of accuracy on forgotten images.",
        weak=True,
        unit="score",
    ),
    "insertion_auc": Metric(
        "insertion",
        "higher",
        1.0,
        "Confidence in the class regained as the masks that suppress it most are opened first "
        "(arXiv 2304.02049), as area under the curve.",
        unit="score",
    ),
    "insertion_random_auc": Metric(
        "insertion, random order",
        "closest",
        None,
        "The same in random order: the control.",
        unit="score",
    ),
    "deletion_auc": Metric(
        "deletion",
        "lower",
        0.0,
        "Confidence in the class kept as those masks are closed first, as area under the curve.",
        unit="score",
    ),
    "deletion_random_auc": Metric(
        "deletion, random order",
        "closest",
        None,
        "The same in random order: the control.",
        unit="score",
    ),
}
_COST: Mapping[str, Metric] = {
    "unlearn_seconds": Metric(
        "seconds to forget", "lower", 0.0, "Wall-clock time of the edit.", unit="s"
    ),
    "peak_memory_mb": Metric(
        "peak memory, MiB", "lower", 0.0, "Of the process of the edit.", unit="MB"
    ),
    "parity_max_abs": Metric(
        "export parity",
        "lower",
        0.0,
        "Largest difference of a logit between PyTorch and the exported file.",
        unit="score",
    ),
}
_OF_CLASSES = ("test_forget_acc", "probe_acc", "prototype_acc", "retain_tune_acc")
METRICS: Mapping[str, Metric] = {
    **_ACCURACY,
    **_FEATURES,
    **_TRAINING,
    **_MEMBERSHIP,
    **_DISTRIBUTION,
    **_TOGETHER,
    **_COST,
}


def metrics(num_classes: int) -> dict[str, Metric]:
    """Return all metrics by their key, with the chance level of a network of so many classes."""
    chance = {key: replace(METRICS[key], chance=1 / num_classes) for key in _OF_CLASSES}
    return {**METRICS, **chance}
