"""Sign a release, and tell whether a signature is good and the release still allowed.

A signature alone does not stop anybody from serving the old release again, which stays signed for
ever: so each carries a sequence number and what it revokes, to be compared with the newest known.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bandstop.edit.storage import sha256, write_file
from bandstop.export.errors import ReleaseError, SignatureInvalid, SpecError
from bandstop.export.record import CONFIG, RECORD, RECORD_LIMIT, SIGNATURE, SIGNATURE_LIMIT
from bandstop.export.record_files import parse_record, read_files
from bandstop.export.sign_envelope import canonical
from bandstop.export.sign_keys import check_seal, seal
from bandstop.export.sign_record import PAYLOAD_TYPE, SignedRelease, read_signature, signed_release
from bandstop.export.verify_files import read_regular


@dataclass(frozen=True, slots=True)
class Succession:
    """How a release follows the one before.

    Attributes:
        sequence: its number; None is the parent's and one more, 1 without a parent.
        parent: the folder of the release that it replaces, or its version in a repository.
        revoked: digests of releases, or of their model.onnx, that must no longer be served.
    """

    sequence: int | None = None
    parent: Path | None = None
    revoked: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Parent:
    """The digest of a parent, the names that it may go by, and what is signed of it."""

    digest: str | None = None
    names: Sequence[str] = ()
    signed: SignedRelease | None = None


def sign_release(
    release: Path,
    key: Ed25519PrivateKey,
    *,
    model: str | None = None,
    succession: Succession | None = None,
) -> SignedRelease:
    """Write signature.json into the release folder `release`; return what was signed.

    Args:
        release: its digests are checked; nothing else of it is changed.
        key: signs.
        model: the name under which it will be served; None takes the release's own.
        succession: how it follows the one before.

    Raises:
        InputError: it is signed already.
        SpecError: a number that does not grow, a revoked digest or a parent that is its own.
        ReleaseError: the release or its parent is corrupt.
        SignatureInvalid: the parent's signature is not by this key.
    """
    follows = succession or Succession()
    record, files = read_files(release)
    parent = _parent(follows.parent, key.public_key())
    before = parent.signed
    if before is None and parent.digest == sha256(files[RECORD]):
        raise SpecError(f"parent {follows.parent}: is this release itself; give the one before")
    signed = signed_release(
        record,
        files[RECORD],
        record.name if model is None else model,
        sequence=_next(follows.sequence, before),
        parent=parent.digest,
        revoked=[*follows.revoked, *(before.revoked if before else ())],
    )
    own_names = {signed.model} if before else {signed.model, record.name}
    if parent.names and own_names.isdisjoint(parent.names):
        raise SpecError(
            f"parent: is a release of {parent.names[-1]}, this is one of {signed.model}"
        )
    if own := set(signed.digests).intersection(signed.revoked):
        raise SpecError(f"revoke: {min(own)[:12]}... is this release's own digest")
    payload = canonical(signed.model_dump(mode="json"))
    write_file(release / SIGNATURE, seal(PAYLOAD_TYPE, payload, key))
    return signed


def newest_known(path: Path, key: Ed25519PublicKey) -> SignedRelease:
    """Return what is signed of the newest release known: a folder, or its signature.json alone.

    Raises:
        ReleaseError: no such file, or not a regular one.
        SignatureInvalid: not signed by `key`.
    """
    file = path / SIGNATURE if path.is_dir() else path
    signed, envelope, payload = read_signature(read_regular(file, limit=SIGNATURE_LIMIT), str(file))
    check_seal(envelope, payload, key, str(file))
    return signed


def rollback(signed: SignedRelease, newest: SignedRelease) -> str | None:
    """Return why a release that was signed must not be served any more; None where it may.

    Raises:
        SignatureInvalid: they are of different models.
    """
    if signed.model != newest.model:
        raise SignatureInvalid(f"signed for model {signed.model}, the newest is of {newest.model}")
    for digest in signed.digests:
        if digest in newest.revoked:
            return f"digest {digest[:12]}... is revoked by release {newest.sequence}"
    if signed.sequence < newest.sequence:
        return f"sequence {signed.sequence}, but {newest.sequence} is known already"
    if signed.sequence == newest.sequence and signed.release_sha256 != newest.release_sha256:
        return f"sequence {signed.sequence} is that of another release"
    return None


def _parent(folder: Path | None, key: Ed25519PublicKey) -> _Parent:
    """Return what is known of the parent.

    Where it is not signed its name is that of its model's folder, or the one it would be given.
    """
    if folder is None:
        return _Parent()
    content = read_regular(folder / RECORD, limit=RECORD_LIMIT)
    digest = sha256(content)
    if not os.path.lexists(folder / SIGNATURE):
        record, above = parse_record(content, f"parent {folder}"), folder.resolve().parent
        return _Parent(digest, (record.name, *([above.name] if (above / CONFIG).exists() else [])))
    signed = newest_known(folder, key)
    if signed.release_sha256 != digest:
        raise ReleaseError(f"parent {folder}: {RECORD} is not the one that was signed")
    return _Parent(digest, (signed.model,), signed)


def _next(asked: int | None, before: SignedRelease | None) -> int:
    least = before.sequence + 1 if before else 1
    if asked is not None and asked < least:
        raise SpecError(f"sequence: expected at least {least}, got {asked}")
    return least if asked is None else asked
