"""Promote and roll back: which of a model's versions are served, within what it must forget."""

from dataclasses import dataclass
from pathlib import Path

from bandstop.export.disk import Disk
from bandstop.export.errors import SpecError
from bandstop.export.history import Action, event, stations
from bandstop.export.model_folder import ModelFolder, after, check_version, read_model, stable
from bandstop.export.policy import check_policy
from bandstop.export.publish_checks import refuse_interface
from bandstop.export.repository import changing
from bandstop.export.serving import Server
from bandstop.export.transition import carry_out


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to a model: the versions served before and after, ascending."""

    model: str
    version: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def promote(
    repo: Path,
    model: str,
    version: int,
    *,
    canary: bool = False,
    override: str | None = None,
    server: Server | None = None,
    disk: Disk | None = None,
) -> Change:
    """Serve `version` of `model` alone, or beside the present one.

    With a server both are served until the new one is proved. To promote the version that is
    served already makes the server load and prove it again.

    Args:
        repo: the model repository.
        model: its name.
        version: a version that is there whole.
        canary: serve it beside the version that is served now.
        override: why a version that forgets less than the model must is served all the same.
        server: takes the change up and proves it; else everything is as it was.
        disk: how files are changed.

    Raises:
        SpecError: no such model or version, or its weights were removed.
        ReleaseError: its files are corrupt.
        RefusedByPolicy: it would know again what the model was asked to forget.
        NotServed: the server does not serve it; what was served before is back.
        DiskError: the disk is full, broken or read-only.
    """
    with changing(repo, server, disk, there=True) as place:
        before = read_model(place.root / model)
        _check(before, version, override)
        beside = stable(before)
        pair = None if beside in (None, version) else (beside, version)
        if canary and pair is None:
            raise SpecError(f"model {model}: version {version} has none to be served beside")
        steps: list[tuple[Action, tuple[int, ...]]] = []
        if pair is not None and (canary or (server is not None and _known(before, pair))):
            steps.append(("canary", pair))
        if not canary:
            steps.append(("promote", (version,)))
        states, now = [], before
        for action, served in steps:
            change = event(action, version, before.records[version], (now.served, served), override)
            now = after(now, before.path, change)
            states.append(now)
        carry_out(place, before, states)
    return Change(model, version, before.served, now.served)


def rollback(
    repo: Path,
    model: str,
    version: int | None = None,
    *,
    override: str | None = None,
    server: Server | None = None,
    disk: Disk | None = None,
) -> Change:
    """Serve an earlier version of `model` alone.

    Args:
        repo: the model repository.
        model: its name.
        version: a version that is there whole; None for the last that was the only one served
            before the present one.
        override: why a version that forgets less than the model must is served all the same.
        server: takes the change up and proves it; else everything is as it was.
        disk: how files are changed.

    Raises:
        SpecError: nothing to go back to, or as `promote`.
        ReleaseError, RefusedByPolicy, NotServed, DiskError: as `promote`.
    """
    with changing(repo, server, disk, there=True) as place:
        before = read_model(place.root / model)
        target = _earlier(before) if version is None else version
        if before.served == (target,):
            raise SpecError(f"model {model}: version {target} is the one that is served")
        _check(before, target, override)
        change = event(
            "rollback", target, before.records[target], (before.served, (target,)), override
        )
        now = after(before, before.path, change)
        carry_out(place, before, [now])
    return Change(model, target, before.served, now.served)


def _check(model: ModelFolder, version: int, override: str | None) -> None:
    """Refuse a version that is not whole, or that policy does not let be served alone."""
    record = check_version(model, version)
    refuse_interface(model, record, f"version {version}")
    # dropping a canary changes nothing for those who are served the other version
    if version != stable(model):
        where = f"model {model.path.name}: version {version}"
        check_policy(where, record, model.history, override)


def _earlier(model: ModelFolder) -> int:
    way, now = stations(model.history), stable(model)
    if len(model.served) > 1 and now is not None:
        return now  # what the canary is served beside
    earlier = [version for version in way if version != now]
    if not earlier:
        raise SpecError(
            f"model {model.path.name}: no version was served before this one; name the version"
        )
    return earlier[-1]


def _known(model: ModelFolder, versions: tuple[int | None, ...]) -> bool:
    """Return whether all of `versions` are Bandstop's, so that they can be proved."""
    return {*versions} <= {*model.records}
