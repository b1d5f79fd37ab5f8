"""What the signature of a release says, and whether it says it of the release at hand."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from bandstop.export.errors import SignatureInvalid, SpecError, schema_misfits
from bandstop.export.record import (
    MODEL,
    NAME_PATTERN,
    RECORD,
    FileRecord,
    ForgetRecord,
    ReleaseRecord,
)
from bandstop.export.record_strict import Sha256, Strict
from bandstop.export.sign_envelope import Envelope, canonical, read_envelope

PAYLOAD_TYPE = "application/vnd.bandstop.release+json"
_WHOLE = 2**53 - 1  # JSON numbers are exact up to here


class SignedRelease(Strict):
    """What is signed of a release.

    Attributes:
        model: the name under which it is served.
        mode: gated, baked or original.
        forget: the forget policy.
        class_map_sha256: digest of the class names by index.
        files: every file's size and digest, release.json among them.
        sequence: grows with every release of the model.
        parent: digest of the release that this one replaces; None for the first.
        revoked: digests of releases, or of their model.onnx, that must no longer be served.
    """

    format: Literal["bandstop-signature/1"]
    model: Annotated[str, Field(pattern=NAME_PATTERN)]
    mode: Literal["gated", "baked", "original"]
    forget: ForgetRecord
    class_map_sha256: Sha256
    files: dict[str, FileRecord]
    sequence: Annotated[int, Field(ge=1, le=_WHOLE)]
    parent: Sha256 | None
    revoked: list[Sha256]

    @property
    def release_sha256(self) -> str:
        """The release's digest: that of its release.json, which holds all others."""
        return self.files[RECORD].sha256

    @property
    def digests(self) -> tuple[str, str]:
        """By what it can be revoked: the release's digest and that of its model.onnx."""
        return self.release_sha256, self.files[MODEL].sha256


def signed_release(
    record: ReleaseRecord,
    content: bytes,
    model: str,
    *,
    sequence: int = 1,
    parent: str | None = None,
    revoked: Iterable[str] = (),
) -> SignedRelease:
    """Return what is to be signed.

    Args:
        record: of the release.
        content: of its release.json.
        model: the name under which it is served.
        sequence: grows with every release of the model.
        parent: digest of the release that it replaces.
        revoked: digests of what must no longer be served.

    Raises:
        SpecError: a name, number or digest of another form.
    """
    own = FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    wrong = [d for d in revoked if not re.fullmatch("[0-9a-f]{64}", d)]
    if wrong:
        raise SpecError(f"revoke: expected digests of 64 lower-case hex digits, got {wrong[0]!r}")
    if not re.fullmatch(NAME_PATTERN, model):
        raise SpecError(f"model name: expected {NAME_PATTERN}, got {model!r}")
    if not 1 <= sequence <= _WHOLE:
        raise SpecError(f"sequence: expected 1..{_WHOLE}, got {sequence}")
    return SignedRelease(
        format="bandstop-signature/1",
        model=model,
        mode=record.mode,
        forget=record.forget,
        class_map_sha256=hashlib.sha256(canonical(record.class_names)).hexdigest(),
        files={**{str(name): known for name, known in record.files.items()}, RECORD: own},
        sequence=sequence,
        parent=parent,
        revoked=sorted(set(revoked)),
    )


def read_signature(data: bytes, where: str) -> tuple[SignedRelease, Envelope, bytes]:
    """Return what a signature.json says, its envelope and the payload; nothing is verified.

    Raises:
        SignatureInvalid: empty, truncated, or the signature of something else.
    """
    envelope, payload = read_envelope(data, PAYLOAD_TYPE, where)
    try:
        signed = SignedRelease.model_validate_json(payload)
    except ValidationError as error:
        told = schema_misfits(error, "payload", most=1)
        raise SignatureInvalid(f"{where}: no signed release: {told}") from error
    if missing := {MODEL, RECORD} - signed.files.keys():
        raise SignatureInvalid(f"{where}: no signed release: files: {min(missing)} is missing")
    return signed, envelope, payload


def other_than(signed: SignedRelease, wanted: SignedRelease) -> list[str]:
    """Return how what was signed differs from the release at hand, a line each."""
    told = [
        f"signed for {what} {_short(getattr(signed, field))}, "
        f"this is {_short(getattr(wanted, field))}"
        for field, what in (
            ("model", "model"),
            ("mode", "mode"),
            ("forget", "forget policy"),
            ("class_map_sha256", "class map"),
        )
        if getattr(signed, field) != getattr(wanted, field)
    ]
    return told + _other_files(signed.files, wanted.files)


def _other_files(signed: Mapping[str, FileRecord], wanted: Mapping[str, FileRecord]) -> list[str]:
    told = []
    for name in sorted(signed.keys() | wanted.keys()):
        if name not in signed or name not in wanted:
            told.append(f"{name}: {'not ' if name not in signed else ''}signed, not expected so")
        elif signed[name] != wanted[name]:
            told.append(
                f"{name}: signed with digest {signed[name].sha256[:12]}..., "
                f"this has {wanted[name].sha256[:12]}..."
            )
    return told


def _short(value: object) -> str:
    if isinstance(value, ForgetRecord):
        return json.dumps(value.model_dump(), sort_keys=True)
    text = str(value)
    return f"{text[:12]}..." if re.fullmatch("[0-9a-f]{64}", text) else text
