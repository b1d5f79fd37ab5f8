"""The measurements that an evaluation is made of: one row each, with what it needs and costs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bandstop.edit.evaluation.accuracies import accuracies, over_forgot, worst_class_drop
from bandstop.edit.evaluation.bn_reestimate import bn_reestimate_acc
from bandstop.edit.evaluation.cka import cka, cka_to
from bandstop.edit.evaluation.confidence_attacks import mia_entropy, mia_svc, mia_svc_balanced
from bandstop.edit.evaluation.divergence import activation_distance, js_div, zrf
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.neighbours import cmia_auc, neighbour_auc, neighbour_tv
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.evaluation.probe import probe
from bandstop.edit.evaluation.prototypes import prototype_acc
from bandstop.edit.evaluation.relearn import relearn_epochs
from bandstop.edit.evaluation.retain_tune import retain_tune_acc
from bandstop.edit.evaluation.tow import tow, tow_mia
from bandstop.edit.images import ImageSet
from bandstop.edit.request import ForgetRequest

Reference = Literal["original", "retrained"]
Pack = Literal["cheap", "full"]


@dataclass(frozen=True, slots=True)
class World:
    """What the measurements of one evaluation share.

    Attributes:
        case: what the networks are asked.
        train: all training images, with those that were to be forgotten.
        ratio: retained training images for each one to forget, in all the data.
        references: the networks to compare with, as far as they are there.
        untrained: gives what networks with random weights answer to the images to forget; asked
            once, and only where a measurement needs it.
        relearn_cap: epochs of relearning at most.
    """

    case: Case
    train: ImageSet
    ratio: float
    references: Mapping[Reference, Subject]
    untrained: Callable[[], Sequence[Answers]]
    relearn_cap: int = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What measurements of one network gave.

    Attributes:
        measures: by metric.
        relearnt: accuracy on what was forgotten, before relearning and after each epoch.
        alike: reference -> layer -> similarity of the layer's outputs.
    """

    measures: Mapping[str, Measure] = field(default_factory=dict)
    relearnt: tuple[float, ...] = ()
    alike: Mapping[Reference, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A measurement.

    Attributes:
        name: as the command line has it.
        run: measures a network.
        pack: cheap ones take seconds, the full pack minutes.
        needs: the reference networks without which it is not defined.
        either: whether it needs one of them, whichever is there.
        classes_only: whether it is defined for forgotten classes only, not for single images.
    """

    name: str
    run: Callable[[Subject, World], Found]
    pack: Pack = "cheap"
    needs: frozenset[Reference] = frozenset()
    either: bool = False
    classes_only: bool = False

    def lacks(self, references: Collection[str], request: ForgetRequest) -> str:
        """Return what is missing to measure this of any network; empty where nothing is."""
        if self.classes_only and not request.classes:
            return "forgotten classes, got single images"
        missing = sorted(self.needs.difference(references))
        if missing:
            return f"the {' and the '.join(missing)} network"
        return "" if references or not self.either else "the original or the retrained network"

    def applies(self, subject: str, world: World) -> bool:
        """Return whether this can be measured of a network; retrained has no gap to itself."""
        if subject == "retrained" and "retrained" in self.needs:
            return False
        return not self.lacks(world.references, world.case.request)


def _accuracy(subject: Subject, world: World) -> Found:
    return Found(accuracies(subject, world.case))


def _loss(subject: Subject, world: World) -> Found:
    original = world.references["original"]
    return Found(
        {
            "retain_drop": over_forgot(subject, original, world.case),
            "worst_class_drop": worst_class_drop(subject, original, world.case),
        }
    )


def _zrf(subject: Subject, world: World) -> Found:
    return Found({"zrf": zrf(subject, world.untrained())})


def _divergence(subject: Subject, world: World) -> Found:
    retrained = world.references["retrained"]
    return Found(
        {
            "js_div": js_div(subject, retrained),
            "activation_distance": activation_distance(subject, retrained),
        }
    )


def _confidence(subject: Subject, world: World) -> Found:
    plain = mia_svc(subject, world.case, ratio=world.ratio)
    balanced = mia_svc_balanced(subject, world.case, ratio=world.ratio)
    return Found({"mia_svc": plain, "mia_svc_balanced": balanced})


def _entropy(subject: Subject, world: World) -> Found:
    return Found({"mia_entropy": mia_entropy(subject, world.case)})


def _neighbours(subject: Subject, world: World) -> Found:
    return Found({"cmia_auc": cmia_auc(subject, world.case)})


def _routes(subject: Subject, world: World) -> Found:
    retrained = world.references["retrained"]
    return Found(
        {
            "neighbour_tv": neighbour_tv(subject, retrained, world.case),
            "neighbour_auc": neighbour_auc(subject, retrained, world.case),
        }
    )


def _probe(subject: Subject, world: World) -> Found:
    return Found(probe(subject, world.case))


def _prototypes(subject: Subject, world: World) -> Found:
    return Found({"prototype_acc": prototype_acc(subject, world.case)})


def _features(subject: Subject, world: World) -> Found:
    # the original stands at 1 from itself, which the others are read against
    others = {
        n: r for n, r in world.references.items() if (n, subject.name) != ("retrained", "retrained")
    }
    return Found(
        {f"cka_{name}": cka_to(subject, other, world.case) for name, other in others.items()},
        alike={name: cka(subject, other, world.case) for name, other in others.items()},
    )


def _batchnorm(subject: Subject, world: World) -> Found:
    given = subject.given or subject.model
    return Found({"bn_reestimate_acc": bn_reestimate_acc(given, world.case.retain, world.case)})


def _tug_of_war(subject: Subject, world: World) -> Found:
    retrained = world.references["retrained"]
    both = {"tow": tow, "tow_mia": tow_mia}
    return Found({key: score(subject, retrained, world.case) for key, score in both.items()})


def _relearn(subject: Subject, world: World) -> Found:
    original = world.references["original"]
    again = relearn_epochs(subject, original, world.train, world.case, cap=world.relearn_cap)
    return Found({"relearn_epochs": again.measure}, relearnt=again.curve)


def _tune(subject: Subject, world: World) -> Found:
    return Found({"retain_tune_acc": retain_tune_acc(subject, world.case.retain, world.case)})


_ORIGINAL: frozenset[Reference] = frozenset({"original"})
_RETRAINED: frozenset[Reference] = frozenset({"retrained"})
TASKS: tuple[Task, ...] = (
    Task("accuracy", _accuracy),
    Task("loss", _loss, needs=_ORIGINAL),
    Task("probe", _probe, classes_only=True),
    Task("prototypes", _prototypes, classes_only=True),
    Task("cka", _features, either=True),
    Task("bn-reestimate", _batchnorm),
    Task("mia-svc", _confidence, classes_only=True),
    Task("mia-entropy", _entropy),
    Task("cmia", _neighbours, classes_only=True),
    Task("neighbours", _routes, needs=_RETRAINED, classes_only=True),
    Task("zrf", _zrf),
    Task("divergence", _divergence, needs=_RETRAINED),
    Task("tow", _tug_of_war, needs=_RETRAINED),
    Task("relearn", _relearn, "full", _ORIGINAL),
    Task("retain-tune", _tune, "full"),
)
