"""What metrics.json holds, put together from what was measured."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch

from bandstop.edit.evaluation.accuracies import destinations, per_class
from bandstop.edit.evaluation.catalogue import metrics
from bandstop.edit.evaluation.filter_map import most_closed
from bandstop.edit.evaluation.insertion import Curves
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.observed import Answers, Subject
from bandstop.edit.evaluation.record_parts import (
    ArtifactRecord,
    AskedRecord,
    CurvesRecord,
    DataRecord,
    InsertionRecord,
    MetricRecord,
    RuntimeRecord,
    SubjectName,
    record_of,
)
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.tasks import Found, Reference, World
from bandstop.edit.judge import OVER_FORGOT
from bandstop.edit.manifest import Manifest
from bandstop.edit.storage import library_versions


@dataclass(frozen=True, slots=True)
class About:
    """What is known of an evaluation before anything is measured.

    Attributes:
        manifest: of the artifact.
        class_names: of the networks.
        data: as the user named it.
        command: repeats the evaluation.
        runtime: what the edit and the evaluation cost.
        parity: of the exported file, where there is one.
    """

    manifest: Manifest
    class_names: tuple[str, ...]
    data: str
    command: str
    runtime: RuntimeRecord
    parity: Measure | None = None


def evaluation_of(
    about: About,
    subjects: Mapping[SubjectName, Subject],
    world: World,
    found: Mapping[SubjectName, Found],
    *,
    masks: Mapping[str, torch.Tensor] | None = None,
    curves: Curves | None = None,
) -> Evaluation:
    """Return the record of an evaluation.

    Args:
        about: what was known before.
        subjects: the networks.
        world: what the measurements shared.
        found: network -> what was measured.
        masks: of WF-Net, for its map of filters.
        curves: of insertion and deletion, where they were measured.
    """
    names, case = about.class_names, world.case
    measures = {name: dict(one.measures) for name, one in found.items()}
    if curves is not None:
        measures["edited"] |= curves.areas
    _add_costs_(measures["edited"], about.runtime)
    if about.parity is not None:
        measures["edited"]["parity_max_abs"] = about.parity
    known = metrics(len(names))
    keys = {key for of in measures.values() for key in of}
    return Evaluation(
        artifact=_artifact(about.manifest, world, names),
        data=DataRecord(
            spec=about.data,
            test=len(case.test),
            forget=len(case.forget),
            retain=len(case.retain),
        ),
        seed=case.seed,
        versions=library_versions(),
        command=about.command,
        class_names=list(names),
        subjects={
            name: {key: record_of(of[key]) for key in known if key in of}
            for name, of in measures.items()
        },
        metrics={
            key: MetricRecord(**asdict(metric)) for key, metric in known.items() if key in keys
        },
        per_class={name: _by_class(subject, len(names)) for name, subject in subjects.items()},
        destinations={
            name: destinations(_forgotten(subject, world), len(names)).tolist()
            for name, subject in subjects.items()
        },
        curves=_curves(found, curves),
        filters={} if masks is None else most_closed(masks, names),
        runtime=about.runtime,
        warnings=_warnings(subjects, measures["edited"]),
    )


def _artifact(manifest: Manifest, world: World, names: tuple[str, ...]) -> ArtifactRecord:
    request = world.case.request
    return ArtifactRecord(
        method=manifest.method,
        params=manifest.params,
        seed=manifest.seed,
        kind=manifest.kind,
        request=AskedRecord(
            classes=[names[c] for c in request.classes], instances=len(request.instances)
        ),
        parent_sha256=manifest.parent_sha256,
        files={name: record.sha256 for name, record in manifest.files.items()},
    )


def _add_costs_(measures: dict[str, Measure], runtime: RuntimeRecord) -> None:
    for key in ("unlearn_seconds", "peak_memory_mb"):
        value = getattr(runtime, key)
        if value is not None:
            measures[key] = Measure(value, None, 1)


def _by_class(subject: Subject, num_classes: int) -> list[float | None]:
    shares = per_class(subject.observed.test, num_classes)
    return [None if share is None else share.value for share in shares]


def _forgotten(subject: Subject, world: World) -> Answers:
    """Return the answers to the test images of forgotten classes, or to forgotten instances."""
    classes, seen = world.case.classes, subject.observed
    return seen.test.of_classes(classes) if classes else seen.forget


def _curves(found: Mapping[SubjectName, Found], curves: Curves | None) -> CurvesRecord:
    references: tuple[Reference, ...] = ("original", "retrained")
    alike = {
        reference: {
            n: dict(one.alike[reference]) for n, one in found.items() if reference in one.alike
        }
        for reference in references
    }
    return CurvesRecord(
        relearn={name: list(one.relearnt) for name, one in found.items() if one.relearnt},
        insertion=None if curves is None else _insertion(curves),
        cka={reference: layers for reference, layers in alike.items() if layers},
    )


def _insertion(curves: Curves) -> InsertionRecord:
    return InsertionRecord(
        fractions=list(curves.fractions),
        insertion=list(curves.insertion),
        deletion=list(curves.deletion),
        insertion_random=list(curves.insertion_random),
        deletion_random=list(curves.deletion_random),
    )


def _warnings(subjects: Collection[str], edited: Mapping[str, Measure]) -> list[str]:
    """Return what a reader must not miss."""
    told = []
    limits = {"retain_drop": OVER_FORGOT, "worst_class_drop": 2 * OVER_FORGOT}
    for key, what in (("retain_drop", "what should stay"), ("worst_class_drop", "a single class")):
        if key in edited and edited[key].value > limits[key]:
            points = 100 * edited[key].value
            told.append(f"Over-forgot: test accuracy on {what} fell by {points:.1f} points.")
    if "original" not in subjects:
        told.append("Without the original network nothing tells what the edit cost.")
    if "retrained" not in subjects:
        told.append(
            "Without a retrained network nothing tells forgotten from hidden: most figures "
            "are to be read against it."
        )
    return told
