"""Verify a release folder, or a model version in a repository."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no hints

from bandstop.export.config import labels_text, served_versions
from bandstop.export.errors import ReleaseError
from bandstop.export.forget_sets import set_misfits
from bandstop.export.parent import in_parent_form
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    RECORD,
    RECORD_LIMIT,
    SIGNATURE,
    ReleaseRecord,
)
from bandstop.export.record_files import parse_record
from bandstop.export.rules import violations
from bandstop.export.verify_checks import Check, Kind, Report
from bandstop.export.verify_config import config_misfits
from bandstop.export.verify_files import read_listed, read_regular, refuse_twice, unlisted
from bandstop.export.verify_measured import measured_checks
from bandstop.export.verify_signature import Trust, signature_checks


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a release lies; `version` is None in a release folder."""

    folder: Path
    version: int | None

    @property
    def model(self) -> Path:
        """The folder with the config.pbtxt."""
        return self.folder if self.version is None else self.folder.parent


def verify_release(path: Path, version: int | None, trust: Trust) -> Report:
    """Return what was found out about a release; nothing that does not fit its digest is parsed.

    Args:
        path: the folder.
        version: its number in a repository, whose model's folder is one level up; None for a
            release folder.
        trust: whom to trust.
    """
    place = _Place(path, version)
    served_as = None if version is None else place.model.name
    kind: Kind = "release" if version is None else "version"
    try:
        content = read_regular(path / RECORD, limit=RECORD_LIMIT)
        record = _record(content)
    except ReleaseError as error:
        wrong = [str(error), *_strangers(place)]
        return Report(path, kind, (Check("files", wrong), *_skipped("release.json is unreadable")))
    files, misfits = _read(place, record)
    checks = [
        Check("files", [*misfits, *_strangers(place)], f"{len(files) + 1} as listed"),
        _graph(files.get(MODEL), record),
        Check("classes", list(_classes(record, files.get(LABELS)))),
        *measured_checks(record),
        _config(place, record, files.get(CONFIG)),
        *signature_checks(path, record, content, trust, served_as),
    ]
    return Report(path, kind, tuple(checks))


def _skipped(why: str) -> Iterator[Check]:
    return (Check(n, note=why, skipped=True) for n in ("graph", "classes", "config", "signature"))


def _record(content: bytes) -> ReleaseRecord:
    record = parse_record(content, repr(RECORD))
    refuse_twice(content, RECORD)
    if missing := {MODEL, CONFIG, LABELS} - set(record.files):
        raise ReleaseError(f"{RECORD!r}: lists no {', '.join(sorted(missing))}")
    return record


def _read(place: _Place, record: ReleaseRecord) -> tuple[dict[str, bytes], list[str]]:
    listed = {str(name): known for name, known in record.files.items()}
    if place.version is not None:
        del listed[CONFIG]  # the model's own, one level up, made when it was published
    return read_listed(place.folder, listed)


def _strangers(place: _Place) -> list[str]:
    allowed = {MODEL, LABELS, RECORD, SIGNATURE} | ({CONFIG} if place.version is None else set())
    misfits = unlisted(place.folder, allowed)
    if place.version is not None and place.model.is_symlink():
        misfits.append(f"{place.model.name!r}: the model's folder is a link")
    return misfits


def _graph(file: bytes | None, record: ReleaseRecord) -> Check:
    if file is None:
        return Check("graph", note=f"{MODEL} does not fit its digest", skipped=True)
    try:
        model = onnx.load_model_from_string(file)
    except DecodeError as error:
        return Check("graph", [f"{MODEL!r}: not an ONNX file ({error})"])
    misfits = violations(model, record.inputs, record.outputs, record.told_precision)
    misfits = misfits or list(in_parent_form(model, record.parent_tensors or {}))
    return Check("graph", misfits, f"{len(model.graph.node)} nodes")


def _classes(record: ReleaseRecord, labels: bytes | None) -> Iterator[str]:
    """Tell where class map, forget policy and interface disagree."""
    names, forget, count = record.class_names, record.forget, len(record.class_names)
    outputs = {tensor.name: tensor.shape for tensor in record.outputs}
    inputs = {tensor.name: tensor.shape for tensor in record.inputs}
    if outputs.get("logits") != [count]:
        yield f"logits {outputs.get('logits')}, but the class map has {count} classes"
    if labels is not None and labels != labels_text(names).encode():
        yield f"{LABELS!r}: does not hold the names of the class map"
    for c in sorted({*forget.classes, *forget.always}):
        if not 0 <= c < count:
            yield f"forgets class {c}, expected 0..{count - 1}"
    if hidden := sorted({*forget.masked_logits} - {*forget.always}):
        yield f"masks the logits of {hidden}, which are not always forgotten"
    if forget.always and not forget.slots:
        yield f"always forgets {sorted(forget.always)}, but no request has a say"
    yield from set_misfits(forget.sets, names, forget.slots)
    forgotten = set(forget.classes) if record.mode == "baked" else set()
    named = [c for c in sorted(forgotten) if 0 <= c < count and names[c]]
    if named:
        yield f"forgotten classes {named} still have a name; export it again"
    if nameless := [c for c, name in enumerate(names) if not name and c not in forgotten]:
        yield f"classes {nameless} have no name and are not forgotten"
    slots = inputs.get("forget_class")
    if (record.mode == "gated") != (slots is not None) or (slots or [0]) != [forget.slots]:
        yield f"{record.mode} with {forget.slots} slots, but forget_class {slots}"


def _config(place: _Place, record: ReleaseRecord, own: bytes | None) -> Check:
    """Check config.pbtxt, and of the version that is served last the labels beside it."""
    if place.version is None:
        if own is None:
            return Check("config", note=f"{CONFIG} does not fit its digest", skipped=True)
        misfits, _ = config_misfits(own, record.name, 1, record)
        return Check("config", misfits)
    try:
        whole = read_regular(place.model / CONFIG, limit=RECORD_LIMIT)
        misfits, served = config_misfits(whole, place.model.name, place.version, record)
        if served and place.version == max(served_versions(whole.decode())):
            labels = read_regular(place.model / LABELS, limit=RECORD_LIMIT)
            if labels != labels_text(record.class_names).encode():
                misfits.append(f"{LABELS!r} of the model: not the names of version {place.version}")
    except ReleaseError as error:
        return Check("config", [f"in the model's folder: {error}"])
    return Check("config", misfits, "" if served else f"version {place.version} is not served")
