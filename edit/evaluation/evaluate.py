"""Measure several networks by several tasks; every result is kept, so that a run can go on."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.evaluation.divergence import untrained_twins
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.observed import (
    Answers,
    Case,
    Observed,
    Subject,
    answers,
    observe,
    subject_key,
)
from bandstop.edit.evaluation.record_parts import SubjectName
from bandstop.edit.evaluation.tasks import Found, Reference, Task, World
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import State, read_state, write_state
from bandstop.edit.progress import progress

REFERENCES: tuple[Reference, ...] = ("original", "retrained")


@dataclass(frozen=True, slots=True)
class Notes:
    """Where results are kept while the evaluation runs.

    Attributes:
        folder: made by the caller; None keeps nothing.
        settings: a digest of all that decides the results of a network but for the network.
    """

    folder: Path | None = None
    settings: str = ""

    def read(self, name: str) -> State | None:
        """Return what was kept as `name`; None where nothing was.

        Raises:
            InputError: it is of an evaluation with other settings.
            ArtifactError: it is corrupt.
        """
        file = None if self.folder is None else self.folder / name
        return None if file is None or not file.exists() else read_state(file, self.settings)

    def write_(self, name: str, state: State) -> None:
        """Keep `state` as `name`."""
        if self.folder is not None:
            write_state(self.folder / name, self.settings, state)


def subject_of(name: str, given: Classifier, case: Case, notes: Notes) -> Subject:
    """Return the network `given` with its answers to the images of `case`."""
    model = given if given.bn_folded else fold_batchnorm(given)
    file = f"{subject_key(name, given)}-answers"
    kept = notes.read(file)
    if kept is None:
        observed = observe(model, case)
        notes.write_(file, asdict(observed))
    else:
        observed = Observed(
            **{part: Answers(**kept[part]) for part in ("forget", "retain", "test")}
        )
    return Subject(name, model, observed, given)


def world_of(
    case: Case,
    train: ImageSet,
    subjects: Mapping[SubjectName, Subject],
    *,
    relearn_cap: int = 20,
    trust_factory: bool = False,
) -> World:
    """Return what the measurements of `subjects` share."""
    some = next(iter(subjects.values())).model
    twins = untrained_twins(some, seed=case.seed, trust_factory=trust_factory)
    forgotten = len(train.of_classes(case.classes)) if case.classes else len(case.forget)
    return World(
        case,
        train,
        ratio=(len(train) - forgotten) / forgotten,
        references={name: subjects[name] for name in REFERENCES if name in subjects},
        untrained=cache(lambda: tuple(answers(twin, case.forget) for twin in twins)),
        relearn_cap=relearn_cap,
    )


def evaluate(
    subjects: Mapping[SubjectName, Subject], world: World, tasks: Sequence[Task], notes: Notes
) -> dict[SubjectName, Found]:
    """Return what every task found out about every network that it applies to."""
    found = {name: Found() for name in subjects}
    wanted = [(s, t) for s in subjects for t in tasks if t.applies(s, world)]
    for name, task in progress(wanted, "evaluate"):
        file = f"{subjects[name].key}-{task.name}"
        kept = notes.read(file)
        result = task.run(subjects[name], world) if kept is None else _restored(kept)
        if kept is None:
            notes.write_(file, asdict(result))
        found[name] = _joined(found[name], result)
    return found


def _joined(one: Found, other: Found) -> Found:
    return replace(
        one,
        measures={**one.measures, **other.measures},
        relearnt=other.relearnt or one.relearnt,
        alike={**one.alike, **other.alike},
    )


def _restored(state: State) -> Found:
    measures = {key: Measure(**kept) for key, kept in state["measures"].items()}
    return Found(measures, state["relearnt"], state["alike"])
