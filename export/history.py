"""What was done to a model in a repository: history.json, and what follows from it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from bandstop.export.errors import ReleaseError, schema_misfits
from bandstop.export.record import RECORD_LIMIT, ReleaseRecord
from bandstop.export.record_strict import Sha256, Strict

HISTORY: Final = "history.json"
Action = Literal["found", "publish", "canary", "promote", "rollback", "restore", "gc"]
Version = Annotated[int, Field(ge=1, le=999_999_999)]


class Forgets(Strict):
    """What a version forgets in every request.

    It is told here again, so that what a model was asked to forget is known without the version.

    Attributes:
        classes: by index, ascending.
        images: how many training images.
        artifact_sha256: tells one set of training images from another; None where there are none.
    """

    classes: list[int]
    images: int
    artifact_sha256: Sha256 | None


class Event(Strict):
    """One change.

    Attributes:
        action: found: was served though nothing said so; restore: a change to `version` was taken
            back, because no server could prove it; gc: its weights were removed.
        version: whom it is about.
        before: the versions that were served.
        after: the versions that are served from then on.
        forgets: what `version` forgets.
        override: why something forgotten was allowed to come back; None where nobody said so.
        date: in UTC, to be shown; nothing depends on it.
    """

    action: Action
    version: Version
    before: list[Version]
    after: list[Version]
    forgets: Forgets
    override: Annotated[str, Field(min_length=1, max_length=1000)] | None
    date: str

    @property
    def alone(self) -> bool:
        """Whether from then on `version` was the only one served."""
        return self.after == [self.version]


class History(Strict):
    """What history.json holds: every change, oldest first."""

    format: Literal["bandstop-history/1"] = "bandstop-history/1"
    events: list[Event]

    def and_then(self, *events: Event) -> "History":
        """Return the history that goes on with `events`."""
        return History(events=[*self.events, *events])


def event(
    action: Action,
    version: int,
    record: ReleaseRecord | None,
    change: tuple[Sequence[int], Sequence[int]],
    override: str | None = None,
) -> Event:
    """Return what happens now: the versions served before and after it are `change`."""
    before, after = (sorted(served) for served in change)
    return Event(
        action=action,
        version=version,
        before=before,
        after=after,
        forgets=forgets_of(record),
        override=override,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def forgets_of(record: ReleaseRecord | None) -> Forgets:
    """Return what a release forgets in every request; nothing where there is no record of it."""
    if record is None:
        return Forgets(classes=[], images=0, artifact_sha256=None)
    forget = record.forget
    return Forgets(
        classes=sorted({*forget.classes, *forget.always}),
        images=forget.instances,
        artifact_sha256=record.artifact_sha256 if forget.instances else None,
    )


def read_history(folder: Path) -> History | None:
    """Return the history in the model `folder`; None where there is none.

    Raises:
        ReleaseError: it is no history.
    """
    file = folder / HISTORY
    if not file.exists() and not file.is_symlink():
        return None
    if file.is_symlink() or not file.is_file() or file.stat().st_size > RECORD_LIMIT:
        raise ReleaseError(f"{file}: expected a regular file of at most {RECORD_LIMIT} bytes")
    try:
        return History.model_validate_json(file.read_bytes())
    except ValidationError as error:
        told = schema_misfits(error, "file", most=3)
        raise ReleaseError(f"{file}: not a history: {told}; bring it back from a copy") from error


def history_bytes(history: History) -> bytes:
    """Return `history` as the bytes of history.json."""
    return (history.model_dump_json(indent=1) + "\n").encode()


def stations(history: History) -> list[int]:
    """Return the versions on the way to the present one, each of which was the only one served.

    The last is the present one, or the one before a canary. Going back to a version takes those
    after it off the list, so that going back twice goes back further.
    """
    way: list[int] = []
    for past in history.events:
        if past.alone:
            way = way[: way.index(past.version)] if past.version in way else way
            way.append(past.version)
    return way


def never_served(history: History, version: int) -> bool:
    """Return whether `version` was put there, and nothing was done with it since."""
    about = [past for past in history.events if past.version == version]
    return [past.action for past in about] == ["publish"] and version not in about[0].after
