"""Several evaluations side by side, nearest to the retrained network first."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy.special import stdtrit  # type: ignore[import-untyped]  # SciPy ships no hints

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.distance import counted, distance
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.record_parts import AskedRecord, MeasureRecord, MetricRecord
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.wording import HIDES

Named = tuple[str, Evaluation]
_REFERENCES = ("retrained", "original", "logit-mask")

_CONTROLS = ("logit-mask", "svd-head")  # methods that leave what the head reads as it is


@dataclass(frozen=True, slots=True)
class Line:
    """A method, or a network that methods are read against.

    Attributes:
        name: the method, with those settings that differ between runs of it; or the network.
        subject: `edited` for a method, else the network.
        seeds: of the method's runs; empty for a network.
        runs: the names of the evaluations.
        distance: to the retrained network; None where it is not known.
        measures: metric -> over the runs their mean with Student's interval, of one run its own.
        repeated: the metrics whose n is a number of runs.
        flag: what must not be overlooked.
    """

    name: str
    subject: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    distance: Measure | None
    measures: Mapping[str, Measure]
    repeated: tuple[str, ...]
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        request: what all of them were to forget.
        class_names: of the original.
        data: where the images came from.
        lines: nearest to the retrained network first.
        metrics: how to read those that were measured.
        counted: the metrics that the distance is made of.
    """

    request: AskedRecord
    class_names: tuple[str, ...]
    data: str
    lines: tuple[Line, ...]
    metrics: Mapping[str, MetricRecord]
    counted: tuple[str, ...]


def compare(evaluations: Sequence[Named]) -> Comparison:
    """Return one line a method and one a reference, sorted by distance to the retrained network.

    Runs of one method with the same settings and different seeds become one line. The distance is
    that of `distance.distance`, over the metrics that were measured of every network in every
    evaluation; of several runs it is the mean of their distances.

    Args:
        evaluations: (name, evaluation), of the same data, request and original.

    Raises:
        InputError: none are given, one is given twice, or two are not of the same.
    """
    if not evaluations:
        raise InputError("nothing to compare: give the folders of at least one evaluation")
    for i, other in enumerate(evaluations):
        for one in evaluations[:i]:
            _refuse_other(one, other)
    keys = counted([e for _, e in evaluations])
    lines = [_of_method(runs, keys, evaluations) for runs in _methods(evaluations)]
    lines += [line for name in _REFERENCES if (line := _of_network(name, evaluations, keys))]
    first = evaluations[0][1]
    described = {key: metric for _, e in evaluations for key, metric in e.metrics.items()}
    measured = {key for line in lines for key in line.measures}
    return Comparison(
        first.artifact.request,
        tuple(first.class_names),
        first.data.spec,
        tuple(sorted(lines, key=_nearness)),
        {key: metric for key, metric in described.items() if key in measured},
        keys,
    )


def over_runs(values: Sequence[float]) -> Measure:
    """Return the mean of `values`, one a run, with Student's 95 % interval (Student 1908)."""
    n = len(values)
    if n == 1:
        return Measure(values[0], None, 1)
    half = float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)
    value = fmean(values)
    return Measure(value, (value - half, value + half), n)


def _refuse_other(one: Named, other: Named) -> None:
    (name_a, a), (name_b, b) = one, other
    # of one original and one request the same data gives the same number of images
    facts = (
        ("class names", a.class_names, b.class_names),
        ("request", a.artifact.request, b.artifact.request),
        ("original", a.artifact.parent_sha256, b.artifact.parent_sha256),
        ("data", a.data, b.data),
    )
    for what, x, y in facts:
        if x != y:
            raise InputError(
                f"{name_a} and {name_b} are of different {what}: {_brief(x)} and {_brief(y)}; "
                "compare evaluations of the same data, request and original"
            )
    shared = [key for key in a.metrics if key in b.metrics]
    for key in shared:
        if a.metrics[key] != b.metrics[key]:
            raise InputError(f"{name_a} and {name_b} define {key} differently; evaluate both anew")
    if a.artifact == b.artifact:
        raise InputError(f"{name_a} and {name_b} are of the same artifact; leave one out")


def _brief(fact: object) -> str:
    text = str(fact)
    return text if len(text) <= 80 else text[:79] + "\N{HORIZONTAL ELLIPSIS}"


def _methods(evaluations: Sequence[Named]) -> list[list[Named]]:
    """Return the evaluations that differ in nothing but the seed, together."""
    groups: dict[str, list[Named]] = {}
    for name, e in evaluations:
        same = json.dumps([e.artifact.method, e.artifact.kind, e.artifact.params], sort_keys=True)
        groups.setdefault(same, []).append((name, e))
    return list(groups.values())


def _of_method(runs: Sequence[Named], keys: Sequence[str], among: Sequence[Named]) -> Line:
    artifact = runs[0][1].artifact
    rivals = [e.artifact.params for _, e in among if e.artifact.method == artifact.method]
    special = [
        f"{name}={json.dumps(value)}"
        for name, value in artifact.params.items()
        if any(params.get(name) != value for params in rivals)
    ]
    found = [d for _, e in runs if (d := distance(e, "edited", keys)) is not None]
    return Line(
        artifact.method + (f" ({', '.join(special)})" if special else ""),
        "edited",
        tuple(e.artifact.seed for _, e in runs),
        tuple(name for name, _ in runs),
        over_runs(found) if found else None,
        *_merged([e.subjects["edited"] for _, e in runs]),
        HIDES if artifact.method in _CONTROLS else "",
    )


def _of_network(name: str, evaluations: Sequence[Named], keys: Sequence[str]) -> Line | None:
    seen = [(run, e) for run, e in evaluations if name in e.subjects]
    if not seen:
        return None
    found = {d for _, e in seen if (d := distance(e, name, keys)) is not None}
    different: list[Mapping[str, MeasureRecord]] = []
    for _, e in seen:
        # the same network looked at in each evaluation is one run, not several
        if e.subjects[name] not in different:
            different.append(e.subjects[name])
    return Line(
        name,
        name,
        (),
        tuple(run for run, _ in seen),
        over_runs(sorted(found)) if found else None,
        *_merged(different),
        HIDES if name == "logit-mask" else "",
    )


def _merged(
    runs: Sequence[Mapping[str, MeasureRecord]],
) -> tuple[dict[str, Measure], tuple[str, ...]]:
    """Return one measure a metric, and which of them are means of several runs."""
    seen = {
        key: [measures[key] for measures in runs if key in measures]
        for key in dict.fromkeys(key for measures in runs for key in measures)
    }
    repeated = tuple(key for key, own in seen.items() if len(own) > 1)
    return {key: _one(own) for key, own in seen.items()}, repeated


def _one(own: Sequence[MeasureRecord]) -> Measure:
    if len(own) == 1:
        return Measure(own[0].value, own[0].ci95, own[0].n, own[0].note)
    notes = dict.fromkeys(m.note for m in own if m.note)
    return replace(over_runs([m.value for m in own]), note="; ".join(notes))


def _nearness(line: Line) -> tuple[float, bool]:
    return (math.inf if line.distance is None else line.distance.value, line.subject != "retrained")
