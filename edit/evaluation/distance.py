"""How far a network is from the one that was retrained without what is to be forgotten."""

from collections.abc import Sequence
from statistics import fmean

from bandstop.edit.evaluation.records import Evaluation


def gap(evaluation: Evaluation, subject: str, key: str) -> float | None:
    """Return |value - retrained value| of a metric, in its own unit; None where one is missing."""
    own, retrained = (evaluation.subjects.get(name, {}).get(key) for name in (subject, "retrained"))
    if own is None or retrained is None:
        return None
    return abs(own.value - retrained.value)


def counted(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Return the metrics that a distance is made of.

    They are those with target `retrained` that were measured of every network of every one of the
    evaluations, so that all distances are of the same metrics. There are none where an evaluation
    has no retrained network.
    """
    first = evaluations[0]
    return tuple(
        key
        for key, metric in first.metrics.items()
        if metric.target == "retrained"
        and all("retrained" in e.subjects for e in evaluations)
        and all(key in measures for e in evaluations for measures in e.subjects.values())
    )


def distance(evaluation: Evaluation, subject: str, keys: Sequence[str]) -> float | None:
    """Return the mean of |value - retrained value| / scale over the metrics `keys`.

    The scale is the metric's own: 1 for a share, so that a difference of all images counts as 1;
    for epochs of relearning the cap. 0 says that the networks agree in these metrics, not that
    they are the same network.

    Args:
        evaluation: what was measured.
        subject: the network; None is returned where it was not measured.
        keys: from `counted`; None is returned where there are none.
    """
    if not keys or subject not in evaluation.subjects:
        return None
    gaps = {key: gap(evaluation, subject, key) for key in keys}
    return fmean(
        value / evaluation.metrics[key].scale for key, value in gaps.items() if value is not None
    )
