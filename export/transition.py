"""Take a model from one state to the next, proved by its server, or leave it where it was."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bandstop.export.ensemble import check_batch, ensemble_of, move_on
from bandstop.export.ensemble_config import Ensemble
from bandstop.export.errors import ExportError, NotServed
from bandstop.export.history import event
from bandstop.export.layout import stage_of
from bandstop.export.model_folder import ModelFolder, after
from bandstop.export.place import Place
from bandstop.export.stage import first, replace_files, take_out


def carry_out(
    place: Place,
    before: ModelFolder | None,
    states: Sequence[ModelFolder],
    added: Mapping[str, bytes] | None = None,
) -> None:
    """Take the model through `states`, the last of which it keeps, and its ensemble with it.

    Args:
        place: where.
        before: what the model is now; None for a first publish.
        states: each is proved by the server before the next begins.
        added: the files of the version that the first of them adds.

    Raises:
        SpecError: a version that the model's ensemble cannot be moved on to.
        NotServed: the server did not take one up, or cannot prove it; tells whether the old state
            is back.
        OSError: a file could not be changed; the old state is back.
    """
    ensemble = ensemble_of(place.root, before.path.name) if before else None
    if ensemble and before:
        states = _bridged(ensemble, before, states)
    moved, now, done = ensemble, before, 0
    try:
        for state in states:
            target = max(state.served)
            if moved and now and moved.version not in state.served and target in now.served:
                moved = move_on(place, moved, target, state.records, now.served)
            _write(place, before, state, added if state is states[0] else None)
            now = state
            done += 1
            _serve(place, state)
            if moved and moved.version not in state.served:  # it did not answer before either
                moved = move_on(place, moved, target, state.records, state.served)
    except BaseException as error:
        told = _go_back(place, before, states[done - 1], added is not None) if done else ""
        if moved and before and ensemble and moved != ensemble:
            told += _move_back(place, ensemble, moved, before)
        if told and isinstance(error, NotServed | OSError):
            raise NotServed(f"{' '.join(str(error).split())}; {told.lstrip('; ')}") from error
        raise


def _bridged(
    ensemble: Ensemble, before: ModelFolder, states: Sequence[ModelFolder]
) -> list[ModelFolder]:
    """Return `states` with one more wherever the ensemble needs both versions to move on."""
    found: list[ModelFolder] = []
    now, answering = before, ensemble.version
    for state in states:
        if answering in state.served or answering not in now.served:
            found.append(state)
        else:
            target, change = max(state.served), state.history.events[-1]
            check_batch(ensemble, state.records[target])
            if target not in now.served:
                both = (now.served, (answering, target))
                record = state.records[target]
                meanwhile = event("canary", target, record, both, change.override)
                now = after(now, state.path, meanwhile, record)
                found.append(now)
            found.append(replace(state, history=now.history.and_then(change)))
            answering = target
        now = found[-1]
    return found


def _move_back(place: Place, ensemble: Ensemble, moved: Ensemble, before: ModelFolder) -> str:
    """Have the ensemble answer with what it did before; return what became of it, in words."""
    try:
        move_on(place, moved, ensemble.version, before.records, before.served)
    except (OSError, ExportError) as error:
        return f"; its ensemble was not brought back: {error}"
    return ""


def _write(
    place: Place,
    before: ModelFolder | None,
    state: ModelFolder,
    added: Mapping[str, bytes] | None,
) -> None:
    """Commit `state`; the model is as it was if that fails."""
    version = state.history.events[-1].version if added is not None else 0
    stage = stage_of(place.root, state.path.name, version, place.disk)
    if before is None and added is not None and stage.parent != state.path:
        first(state.path, state.files, added, stage, place.disk)
    else:
        replace_files(state.path, state.files, stage, place.disk, added=added)


def _serve(place: Place, state: ModelFolder) -> None:
    if place.server is not None:
        place.server.load(state.path.name)
        place.server.prove(state.path.name, state.served_records())


def _go_back(place: Place, before: ModelFolder | None, failed: ModelFolder, added: bool) -> str:
    """Bring back what was before `failed`; return what became of it, in words."""
    try:
        if before is None:
            return _forget_model(place, failed)
        last = failed.history.events[-1]
        taken = event(
            "restore",
            last.version,
            failed.records.get(last.version),
            (failed.served, before.served),
        )
        state = replace(before, history=before.history.and_then(taken))
        stage = stage_of(place.root, before.path.name, 0, place.disk)
        removed = last.version if added else None
        replace_files(before.path, state.files, stage, place.disk, removed=removed)
    except (OSError, ExportError) as error:
        return f"what was served before could not be put back either: {error}"
    told = f"version {' and '.join(map(str, before.served))}"
    try:
        _serve(place, state)
    except ExportError as error:
        return f"the files are back to {told}, but the server was not brought back to it: {error}"
    return f"{told} is served as before"


def _forget_model(place: Place, failed: ModelFolder) -> str:
    """Take a first publish back; a server that cannot be told loses the files all the same."""
    told = ""
    try:
        if place.server is not None:
            place.server.unload(failed.path.name)
    except NotServed as error:
        told = f", but the server was not told: {error}"
    stage = stage_of(place.root, failed.path.name, 1, place.disk)
    take_out(failed.path, stage, place.disk)
    return f"the model is not in the repository, as before{told}"
