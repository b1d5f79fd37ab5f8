"""The files of an evaluation, in the shapes that DVC reads."""

from collections.abc import Mapping, Sequence

import yaml

from bandstop.edit.evaluation.records import METRICS, Evaluation, metrics_json
from bandstop.edit.evaluation.report import render
from bandstop.edit.storage import canonical_json

Records = list[dict[str, object]]


def files(evaluation: Evaluation) -> dict[str, bytes]:
    """Return name -> content of every file of the evaluation's folder.

    metrics.json   all that was measured; `dvc metrics show` reads its numbers
    params.yaml    method and settings, for `dvc params diff`
    plots/*.json   one list of flat records a chart, for `dvc plots`; charts without data have none
    report.html    the report
    """
    plots = {
        f"plots/{name}.json": canonical_json(records)
        for name, records in _records(evaluation).items()
        if records
    }
    return {
        METRICS: metrics_json(evaluation),
        "params.yaml": _params(evaluation),
        **plots,
        "report.html": render(evaluation).encode(),
    }


def _params(e: Evaluation) -> bytes:
    params = {
        "method": e.artifact.method,
        "seed": e.artifact.seed,
        "kind": e.artifact.kind,
        "forget": e.artifact.request.model_dump(mode="json"),
        "settings": e.artifact.params,
        "evaluation": {"seed": e.seed, "data": e.data.spec},
    }
    return yaml.safe_dump(params, sort_keys=False, allow_unicode=True).encode()


def _records(e: Evaluation) -> Mapping[str, Records]:
    return {
        "per_class": _by_class(e, e.per_class, "accuracy"),
        "destinations": _by_class(e, e.destinations, "share"),
        "relearn": [
            {"subject": subject, "epoch": epoch, "accuracy": value}
            for subject, curve in e.curves.relearn.items()
            for epoch, value in enumerate(curve)
        ],
        "cka": [
            {"reference": reference, "subject": subject, "layer": layer, "cka": value}
            for reference, subjects in e.curves.cka.items()
            for subject, layers in subjects.items()
            for layer, value in layers.items()
        ],
        "insertion": _insertion(e),
        "filters": [
            {"layer": layer, "class": name, "channel": f.channel, "closed": f.closed}
            for layer, classes in e.filters.items()
            for name, found in classes.items()
            for f in found
        ],
    }


def _by_class(e: Evaluation, values: Mapping[str, Sequence[float | None]], what: str) -> Records:
    return [
        {"subject": subject, "class": name, what: value}
        for subject, column in values.items()
        for name, value in zip(e.class_names, column, strict=True)
        if value is not None
    ]


def _insertion(e: Evaluation) -> Records:
    found = e.curves.insertion
    if found is None:
        return []
    curves = {
        "insertion": found.insertion,
        "deletion": found.deletion,
        "insertion_random": found.insertion_random,
        "deletion_random": found.deletion_random,
    }
    return [
        {"curve": name, "fraction": fraction, "confidence": value}
        for name, values in curves.items()
        for fraction, value in zip(found.fractions, values, strict=True)
    ]
