"""Whether the signature of a release is good, of this release, and not of one that was replaced."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bandstop.export.errors import ReleaseError, SignatureInvalid, SpecError
from bandstop.export.record import SIGNATURE, SIGNATURE_LIMIT, ReleaseRecord
from bandstop.export.sign import newest_known, rollback
from bandstop.export.sign_keys import check_seal
from bandstop.export.sign_record import SignedRelease, other_than, read_signature, signed_release
from bandstop.export.verify_checks import Check
from bandstop.export.verify_files import read_regular


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom and what to trust beside the files themselves.

    Attributes:
        key: the signature must be by it; None checks no signature.
        model: the name under which it must be signed; a version's is that of its model's folder.
        after: the newest release known, a folder or a signature.json; older ones are refused.
    """

    key: Ed25519PublicKey | None = None
    model: str | None = None
    after: Path | None = None


def signature_checks(
    folder: Path, record: ReleaseRecord, content: bytes, trust: Trust, served_as: str | None
) -> Sequence[Check]:
    """Return the checks of the signature and, where a newest release is known, of the order.

    Args:
        folder: where signature.json lies.
        record: of the release.
        content: of its release.json.
        trust: whom to trust.
        served_as: the name of the model that it is a version of; None for a release folder.
    """
    if trust.key is None and not os.path.lexists(folder / SIGNATURE):
        return [Check("signature", note="not signed", skipped=True)]
    try:
        data = read_regular(folder / SIGNATURE, limit=SIGNATURE_LIMIT)
    except ReleaseError as error:
        return [Check("signature", [str(error)])]
    try:
        signed, envelope, payload = read_signature(data, repr(SIGNATURE))
        # a release folder has no name of its own but the one that the user expects
        name = next(n for n in (served_as, trust.model, signed.model) if n is not None)
        wanted = signed_release(record, content, name)
    except (SignatureInvalid, SpecError) as error:
        return [Check("signature", [str(error)])]
    misfits = [f"{SIGNATURE!r}: {told}" for told in other_than(signed, wanted)]
    if trust.key is None:
        note = "by whom was not checked: give a key"
        return [Check("signature", misfits, note, skipped=True)]
    try:
        check_seal(envelope, payload, trust.key, repr(SIGNATURE))
    except SignatureInvalid as error:
        misfits.append(str(error))
    note = f"model {signed.model}, sequence {signed.sequence}"
    return [Check("signature", misfits, note), *_order(signed, trust.key, trust.after)]


def _order(signed: SignedRelease, key: Ed25519PublicKey, after: Path | None) -> Iterator[Check]:
    if after is None:
        return
    try:
        refused = rollback(signed, newest_known(after, key))
    except (ReleaseError, SignatureInvalid) as error:
        yield Check("order", [f"{after}: {error}"])
        return
    yield Check("order", [refused] if refused else [], policy=True)
