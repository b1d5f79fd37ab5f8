"""Ed25519 keys (RFC 8032) in PEM files, made, read and used."""

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from bandstop.export.errors import SignatureInvalid, SpecError
from bandstop.export.sign_envelope import Envelope, decoded, envelope_bytes, pae

_KEY_LIMIT = 64 << 10  # bytes
_SIGNATURE_BYTES = 64


def make_keys(file: Path) -> Path:
    """Write a new private key to `file`, for its owner alone; return the public key's file.

    Raises:
        SpecError: one of both is there already, or the folder is not.
    """
    public_file = file.with_name(f"{file.name}.pub")
    for path in (file, public_file):
        if os.path.lexists(path):
            raise SpecError(f"key {path}: exists; choose another name")
    if not file.resolve().parent.is_dir():
        raise SpecError(f"key {file}: its folder does not exist; create it first")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(file, private, 0o600)
    _write_new(public_file, _public_bytes(key.public_key(), serialization.Encoding.PEM), 0o644)
    return public_file


def load_private_key(file: Path) -> Ed25519PrivateKey:
    """Return the private key in `file`.

    Raises:
        SpecError: no such file, another kind of key, or one that others may read.
    """
    data = _read(file)
    mode = stat.S_IMODE(file.stat().st_mode)
    if b"PUBLIC KEY-----" in data:
        raise SpecError(f"key {file}: expected a private key, got a public one")
    if b"PRIVATE KEY-----" in data and mode & 0o077:
        raise SpecError(f"key {file}: others may read it (mode {mode:04o}); chmod 600 it")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise SpecError(f"key {file}: expected a key without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SpecError(f"key {file}: expected an Ed25519 private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SpecError(f"key {file}: expected an Ed25519 private key, got {_kind(key)}")
    return key


def load_public_key(file: Path) -> Ed25519PublicKey:
    """Return the public key in `file`.

    Raises:
        SpecError: no such file, or another kind of key.
    """
    data = _read(file)
    if b"PRIVATE KEY-----" in data:
        raise SpecError(
            f"key {file}: expected a public key, got a private one; keep it to those who sign"
        )
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SpecError(f"key {file}: expected an Ed25519 public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SpecError(f"key {file}: expected an Ed25519 public key, got {_kind(key)}")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo, DER) in hex."""
    return hashlib.sha256(_public_bytes(key, serialization.Encoding.DER)).hexdigest()


def seal(kind: str, payload: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the envelope of a payload of type `kind`, signed with `key`."""
    return envelope_bytes(
        kind, payload, fingerprint(key.public_key()), key.sign(pae(kind, payload))
    )


def check_seal(envelope: Envelope, payload: bytes, key: Ed25519PublicKey, where: str) -> None:
    """Refuse an envelope that `key` has not signed.

    Args:
        envelope: as it was read.
        payload: its decoded payload.
        key: of whom to trust.
        where: the file's name, for messages.

    Raises:
        SignatureInvalid: no signature, or none that is good.
    """
    if not envelope.signatures:
        raise SignatureInvalid(f"{where}: holds no signature")
    message, reasons = pae(envelope.payloadType, payload), []
    for signed in envelope.signatures:
        signature = decoded(signed.sig, f"{where}: signature")
        if len(signature) != _SIGNATURE_BYTES:
            reasons.append(f"signature of {len(signature)} bytes, expected {_SIGNATURE_BYTES}")
            continue
        try:
            key.verify(signature, message)
        except InvalidSignature:
            reasons.append(_mismatch(signed.keyid, fingerprint(key)))
        else:
            return
    raise SignatureInvalid(f"{where}: {'; '.join(reasons[:4])}")


def _mismatch(keyid: str, own: str) -> str:
    if keyid == own:
        return f"the signature of key {own[:12]}... does not fit what is signed"
    return f"signed by key {keyid[:12]}..., not by the key {own[:12]}... that was given"


def _kind(key: object) -> str:
    """Return what kind of key it is, as `RSA` or `EC secp256r1`."""
    name = type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
    curve = getattr(getattr(key, "curve", None), "name", "")
    return f"{name} {curve}".strip()


def _public_bytes(key: Ed25519PublicKey, encoding: serialization.Encoding) -> bytes:
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(file: Path) -> bytes:
    if not file.is_file():
        raise SpecError(f"key {file}: no such file; make a pair with `bandstop keygen`")
    if file.stat().st_size > _KEY_LIMIT:
        raise SpecError(f"key {file}: larger than {_KEY_LIMIT} bytes, so no key")
    return file.read_bytes()


def _write_new(file: Path, content: bytes, mode: int) -> None:
    """Write a file that nobody else could open in between."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
