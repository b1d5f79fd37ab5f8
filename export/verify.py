"""Verify an artifact, a release, a version in a repository, or an unlearning statement."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bandstop.edit.artifact import load_artifact
from bandstop.edit.errors import EditError, InputError
from bandstop.edit.manifest import MANIFEST, Manifest
from bandstop.edit.records import misfits as schema_misfits
from bandstop.export.errors import ReleaseError, SignatureInvalid, SpecError
from bandstop.export.record import CONFIG, NAME_PATTERN, RECORD, RECORD_LIMIT
from bandstop.export.sign_keys import check_seal
from bandstop.export.statement import STATEMENT_LIMIT, Statement, chain_misfits, read_statement
from bandstop.export.verify_checks import Check, Report
from bandstop.export.verify_files import read_listed, read_regular, refuse_twice, unlisted
from bandstop.export.verify_release import verify_release
from bandstop.export.verify_signature import Trust

_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to hold something against.

    Attributes:
        trust: whose signature, and what is known already.
        previous: statements before this one, in any order.
        trust_factory: whether an artifact may import the user's own module.
    """

    trust: Trust = field(default_factory=Trust)
    previous: Sequence[Path] = ()
    trust_factory: bool = False


def verify(path: Path, wanted: Wanted | None = None) -> Report:
    """Return every check of what is at `path`; it is changed by none.

    Raises:
        SpecError: nothing is there, `wanted` is of another kind of thing, or an artifact needs the
            user's own module, which is not trusted or not there.
        ReleaseError: it is none of the four.
    """
    wanted = wanted or Wanted()
    # its name may be a version's; not resolved where it has one, since a link is not what it names
    path = path.resolve() if path.name in ("", "..") else path.absolute()
    if not os.path.lexists(path):
        raise SpecError(f"{path}: no such file or folder")
    if path.is_symlink():
        raise ReleaseError(f"{path}: a link; give the folder or file itself")
    if path.is_file():
        _refuse_options(path, wanted, after=True, model=True)
        return _verify_statement(path, wanted)
    if not path.is_dir():
        raise ReleaseError(f"{path}: neither a folder nor a regular file")
    if os.path.lexists(path / MANIFEST):
        _refuse_options(path, wanted, after=True, model=True, previous=True, key=True)
        return _verify_artifact(path, wanted)
    if not os.path.lexists(path / RECORD):
        raise ReleaseError(
            f"{path}: holds neither {MANIFEST} nor {RECORD}; expected an artifact, a release or "
            "a version in a repository"
        )
    is_version = _VERSION.fullmatch(path.name) and os.path.lexists(path.parent / CONFIG)
    # a version must be signed for the name of its model's folder, so that none is expected
    _refuse_options(path, wanted, model=bool(is_version), previous=True)
    return verify_release(path, int(path.name) if is_version else None, wanted.trust)


def _refuse_options(
    path: Path,
    wanted: Wanted,
    *,
    after: bool = False,
    model: bool = False,
    previous: bool = False,
    key: bool = False,
) -> None:
    """Refuse those of the named options that were given: they mean nothing here."""
    trust = wanted.trust
    unfit = [
        *(["after"] if after and trust.after is not None else []),
        *(["model"] if model and trust.model is not None else []),
        *(["previous"] if previous and wanted.previous else []),
        *(["key"] if key and trust.key is not None else []),
    ]
    if unfit:
        raise SpecError(f"{path}: {', '.join(unfit)}: means nothing here; leave it out")
    if trust.after is not None and trust.key is None:
        raise SpecError("after: needs a key, for whoever can forge a number can forge any")
    if trust.model is not None and not re.fullmatch(NAME_PATTERN, trust.model):
        raise SpecError(f"model: expected {NAME_PATTERN}, got {trust.model!r:.80}")
    if trust.model is not None and trust.key is None:
        raise SpecError("model: needs a key, for whoever can forge a release can name it")


def _verify_artifact(path: Path, wanted: Wanted) -> Report:
    """Check files and digests; only when all fit are the tensors read."""
    try:
        content = read_regular(path / MANIFEST, limit=RECORD_LIMIT)
        manifest = Manifest.model_validate_json(content)
        refuse_twice(content, MANIFEST)
    except (ReleaseError, ValidationError) as error:
        said = schema_misfits(error) if isinstance(error, ValidationError) else error
        wrong = [f"{MANIFEST!r}: {said}" if isinstance(error, ValidationError) else str(error)]
        skipped = Check("tensors", note=f"{MANIFEST} is unreadable", skipped=True)
        return Report(path, "artifact", (Check("files", wrong), skipped))
    listed = {str(name): known for name, known in manifest.files.items()}
    _, misfits = read_listed(path, listed)
    misfits += unlisted(path, {MANIFEST, *listed})
    if misfits:
        skipped = Check("tensors", note="files do not fit", skipped=True)
        return Report(path, "artifact", (Check("files", misfits), skipped))
    files = Check("files", note=f"{len(listed) + 1} as listed")
    try:
        load_artifact(path, trust_factory=wanted.trust_factory)
    except EditError as error:
        if isinstance(error, InputError) and _is_own(manifest.arch.name):
            # nothing is wrong with the artifact: its network is not trusted, or not installed here
            raise SpecError(f"{path}: {error}") from error
        return Report(path, "artifact", (files, Check("tensors", [str(error)])))
    return Report(path, "artifact", (files, Check("tensors")))


def _is_own(arch: str) -> bool:
    """Return whether `arch` is a user's own function, of a module that must be imported."""
    module, _, function = arch.partition(":")
    return bool(module and function) and module not in ("bandstop", "torchvision", "timm")


def _verify_statement(path: Path, wanted: Wanted) -> Report:
    try:
        data = read_regular(path, limit=STATEMENT_LIMIT)
        statement, envelope, payload = read_statement(data, repr(path.name))
    except (ReleaseError, SignatureInvalid) as error:
        checks = [Check("statement", [str(error)])]
        return Report(path, "statement", checks)
    predicate = statement.predicate
    signature = Check("signature", note="by whom was not checked: give a key", skipped=True)
    if wanted.trust.key is not None:
        try:
            check_seal(envelope, payload, wanted.trust.key, repr(path.name))
            signature = Check("signature")
        except SignatureInvalid as error:
            signature = Check("signature", [str(error)])
    note = f"model {predicate.model}, {len(predicate.requests)} requests"
    return Report(
        path, "statement", (Check("statement", note=note), signature, _chain(statement, wanted))
    )


def _chain(statement: Statement, wanted: Wanted) -> Check:
    """Check that every earlier statement is there, unchanged, and by the same key."""
    if statement.predicate.previous is None and not wanted.previous:
        return Check("chain", note="the first statement")
    if not wanted.previous:
        return Check("chain", note="earlier statements were not given", skipped=True)
    earlier, wrong = {}, []
    for file in wanted.previous:
        try:
            data = read_regular(file, limit=STATEMENT_LIMIT)
            before, envelope, payload = read_statement(data, str(file))
            if wanted.trust.key is not None:
                check_seal(envelope, payload, wanted.trust.key, str(file))
            earlier[hashlib.sha256(data).hexdigest()] = before
        except (ReleaseError, SignatureInvalid) as error:
            wrong.append(str(error))
    return Check("chain", [*wrong, *chain_misfits(statement, earlier)], f"{len(earlier)} earlier")
