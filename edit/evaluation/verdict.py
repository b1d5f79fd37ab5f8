"""What an evaluation comes to, in three figures and a few plain sentences."""

from dataclasses import dataclass

from bandstop.edit.evaluation.distance import counted, distance, gap
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.wording import (
    CLAIM,
    difference,
    interval,
    listed,
    shown,
    signed,
    things,
)

_FURTHEST = 3


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure that matters.

    Attributes:
        value: as it is shown.
        label: what it is.
        detail: what it has to be read against.
    """

    value: str
    label: str
    detail: str


def question(e: Evaluation) -> str:
    """Return in words what was asked."""
    kind = "gated network" if e.artifact.kind == "gates" else "network"
    return (
        f"A {kind} of {len(e.class_names)} classes was to forget {things(e.artifact.request)}. "
        f"This page says what {e.artifact.method} left of that, and what it cost."
    )


def headlines(e: Evaluation) -> list[Headline]:
    """Return the three figures; those that were not measured are left out."""
    return [h for h in (_forgotten(e), _rest(e), _nearness(e)) if h is not None]


def sentences(e: Evaluation) -> list[str]:
    """Return the verdict, one sentence each; it claims no more than was measured."""
    asked, kept = _forgotten_key(e), _rest_key(e)
    said = []
    if asked:
        after, before = e.subjects["edited"][asked], _value(e, "original", asked)
        was = "" if before is None else f" (the original: {shown(before, 'share')})"
        said.append(
            f"The edited network is right on {shown(after.value, 'share')} of "
            f"{_images(e, asked)}{was}."
        )
    if kept and (before := _value(e, "original", kept)) is not None:
        change = e.subjects["edited"][kept].value - before
        said.append(f"On everything else its accuracy is {signed(change)} against the original's.")
    return [*said, *_against_retrained(e), CLAIM]


def _against_retrained(e: Evaluation) -> list[str]:
    if "retrained" not in e.subjects:
        return ["No retrained network was given, so nothing here says how near the edit comes."]
    keys = counted([e])
    own, mask = (distance(e, name, keys) for name in ("edited", "logit-mask"))
    if own is None:
        return []
    said = []
    if mask is not None and mask <= own:
        said.append(
            "The logit mask, which forgets nothing, is as near to the retrained network: "
            "these figures do not show that anything was forgotten."
        )
    ranked = sorted(keys, key=lambda key: -(gap(e, "edited", key) or 0) / e.metrics[key].scale)
    far = [key for key in ranked[:_FURTHEST] if (gap(e, "edited", key) or 0) > 0]
    if far:
        named = [_by_how_much(e, key) for key in far]
        said.append(f"It differs most from the retrained network in {_joined(named)}.")
    return said


def _by_how_much(e: Evaluation, key: str) -> str:
    metric = e.metrics[key]
    return f"{metric.title} ({difference(gap(e, 'edited', key) or 0, metric.unit)})"


def _forgotten(e: Evaluation) -> Headline | None:
    key = _forgotten_key(e)
    if not key:
        return None
    measure = e.subjects["edited"][key]
    against = [
        f"{word} {shown(value, 'share')}"
        for word, name in (("before", "original"), ("retrained", "retrained"))
        if (value := _value(e, name, key)) is not None
    ]
    sure = interval(measure.ci95, "share")
    detail = [*against, f"95 % interval {sure}"] if sure else against
    return Headline(shown(measure.value, "share"), f"right on {_images(e, key)}", _line(detail))


def _rest(e: Evaluation) -> Headline | None:
    key = _rest_key(e)
    if not key:
        return None
    after, before = e.subjects["edited"][key].value, _value(e, "original", key)
    if before is None:
        return Headline(shown(after, "share"), "right on everything else", "")
    detail = f"{shown(after, 'share')} after, {shown(before, 'share')} before"
    return Headline(signed(after - before), "on everything else, against the original", detail)


def _nearness(e: Evaluation) -> Headline | None:
    keys = counted([e])
    own = distance(e, "edited", keys)
    if own is None:
        return None
    against = [
        f"{word} {value:.3f}"
        for word, name in (("original", "original"), ("logit mask", "logit-mask"))
        if (value := distance(e, name, keys)) is not None
    ]
    label = "mean distance to the retrained network, 0 is no difference"
    return Headline(f"{own:.3f}", label, _line([*against, f"over {len(keys)} metrics"]))


def _forgotten_key(e: Evaluation) -> str:
    keys = ("forget_acc",) if e.artifact.request.instances else ("test_forget_acc", "forget_acc")
    return next((key for key in keys if key in e.subjects["edited"]), "")


def _rest_key(e: Evaluation) -> str:
    keys = ("test_retain_acc", "retain_acc")
    return next((key for key in keys if key in e.subjects["edited"]), "")


def _images(e: Evaluation, key: str) -> str:
    if e.artifact.request.instances:
        return "the training images to forget"
    kind = "test" if key.startswith("test_") else "training"
    return f"the {kind} images of {listed(e.artifact.request.classes)}"


def _value(e: Evaluation, subject: str, key: str) -> float | None:
    measure = e.subjects.get(subject, {}).get(key)
    return None if measure is None else measure.value


def _line(parts: list[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def _joined(parts: list[str]) -> str:
    return " and ".join(p for p in (", ".join(parts[:-1]), parts[-1]) if p)
