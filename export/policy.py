"""What a model was asked to forget once, no later version may know again unasked."""

from collections.abc import Iterator
from dataclasses import dataclass

from bandstop.export.errors import RefusedByPolicy, SpecError
from bandstop.export.history import Event, Forgets, History, forgets_of
from bandstop.export.record import ReleaseRecord


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing that the model must go on forgetting.

    Attributes:
        what: the index of a class, or the digest of the artifact that forgot training images.
        images: how many these are; 0 for a class.
        since: the first version that was served alone and forgot it.
    """

    what: int | str
    images: int
    since: int


def duties(history: History) -> list[Duty]:
    """Return what the model must forget: whatever a version forgot that was served alone.

    A canary that was never promoted, and a change that was taken back, oblige to nothing.
    """
    found: dict[int | str, Duty] = {}
    for past in history.events:
        if past.alone:
            for what, images in _parts(past.forgets):
                found.setdefault(what, Duty(what, images, past.version))
    return list(found.values())


def neglected(forgets: Forgets, history: History) -> list[Duty]:
    """Return which duties a version that forgets `forgets` does not fulfil."""
    there = {what for what, _ in _parts(forgets)}
    return [duty for duty in duties(history) if duty.what not in there]


def check_policy(
    where: str, record: ReleaseRecord, history: History, override: str | None = None
) -> None:
    """Refuse a version that would know again what the model was asked to forget.

    Args:
        where: what is to be served, for the message.
        record: of that version.
        history: of the model.
        override: why it is served all the same; the duties stay.

    Raises:
        RefusedByPolicy: it would, and there is no reason given.
        SpecError: the reason is blank.
    """
    if override is not None and not 0 < len(override.strip()) <= 1000:
        raise SpecError("override: expected a reason of 1 to 1000 characters")
    missing = neglected(forgets_of(record), history)
    if missing and override is None:
        told = ", ".join(told_duty(duty, record) for duty in missing[:8])
        more = f" and {len(missing) - 8} more" if missing[8:] else ""
        raise RefusedByPolicy(
            f"{where} would recognise again what the model forgets: {told}{more}; publish a "
            "version that forgets all of it, or say why not with --override REASON"
        )


def told_duty(duty: Duty, record: ReleaseRecord | None) -> str:
    """Return a duty in words; a class by its name only where `record` itself still names it."""
    since = f"since version {duty.since}"
    if isinstance(duty.what, str):
        return f"{duty.images} training images ({since})"
    names = record.class_names if record else []
    name = names[duty.what] if duty.what < len(names) else ""
    return f"class {duty.what}{f' ({name})' if name else ''} ({since})"


def last_override(history: History, version: int) -> str | None:
    """Return the reason given when `version` was last put to be served."""
    serving = [e for e in history.events if version in e.after and e.version == version]
    chosen: Event | None = serving[-1] if serving else None
    return chosen.override if chosen else None


def _parts(forgets: Forgets) -> Iterator[tuple[int | str, int]]:
    yield from ((c, 0) for c in forgets.classes)
    if forgets.artifact_sha256 is not None:
        yield forgets.artifact_sha256, forgets.images
