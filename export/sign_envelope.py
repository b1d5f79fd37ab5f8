"""DSSE envelopes: a payload, what kind of payload it is, and signatures over both.

secure-systems-lab/dsse, version 1.0.2. What is read from an envelope are the very bytes that were
signed, so nothing has to be spelled in one way to be checked; nothing here needs cryptography.
"""

import base64
import binascii
import json

from pydantic import BaseModel, ConfigDict, ValidationError

from bandstop.export.errors import SignatureInvalid, schema_misfits


class EnvelopePart(BaseModel):
    """A part of an envelope; fields that we do not know are no concern of ours (protocol.md)."""

    model_config = ConfigDict(frozen=True, strict=True)


class Signed(EnvelopePart):
    """A signature, in base64; `keyid` is a hint and not signed."""

    keyid: str = ""
    sig: str


class Envelope(EnvelopePart):
    """What an envelope file holds; `payload` is in base64."""

    payload: str
    payloadType: str  # noqa: N815  # DSSE names it so
    signatures: list[Signed]


def pae(kind: str, payload: bytes) -> bytes:
    """Return what is signed: the pre-authentication encoding of a payload and its type."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def canonical(value: object) -> bytes:
    """Return `value` as JSON with one spelling, without a line break at the end.

    RFC 8785 where it holds no floats, integers below 2^53, and keys of the Basic Multilingual
    Plane: code points and UTF-16 units then sort alike.
    """
    separators = (",", ":")
    text = json.dumps(
        value, sort_keys=True, separators=separators, ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def envelope_bytes(kind: str, payload: bytes, keyid: str, signature: bytes) -> bytes:
    """Return the envelope of a payload with one signature."""
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(),
        payloadType=kind,
        signatures=[Signed(keyid=keyid, sig=base64.b64encode(signature).decode())],
    )
    return canonical(envelope.model_dump()) + b"\n"


def read_envelope(data: bytes, kind: str, where: str) -> tuple[Envelope, bytes]:
    """Return an envelope and its payload; no signature is checked.

    Args:
        data: the content of the file.
        kind: the type that the payload must have.
        where: the file's name, for messages.

    Raises:
        SignatureInvalid: empty, truncated, or of another kind.
    """
    if not data.strip():
        raise SignatureInvalid(f"{where}: empty; sign again")
    try:
        envelope = Envelope.model_validate_json(data)
    except ValidationError as error:
        told = schema_misfits(error, "file", most=1)
        raise SignatureInvalid(f"{where}: no signed envelope: {told}") from error
    if envelope.payloadType != kind:
        raise SignatureInvalid(
            f"{where}: expected an envelope of {kind}, got {envelope.payloadType!r:.80}"
        )
    return envelope, decoded(envelope.payload, f"{where}: payload")


def decoded(text: str, where: str) -> bytes:
    """Return the bytes that `text` spells in base64.

    Raises:
        SignatureInvalid: it is no base64; `where` is named.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureInvalid(f"{where}: not base64, {len(text)} characters") from error
