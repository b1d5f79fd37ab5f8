"""Keys, envelopes and signatures: what is signed, what is refused, and that it travels along."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from bandstop.edit.errors import InputError
from bandstop.export.errors import (
    ReleaseError,
    RollbackRefused,
    SignatureInvalid,
    SpecError,
    VerifyFailed,
)
from bandstop.export.record_files import load_release
from bandstop.export.repository import publish
from bandstop.export.sign import Succession, newest_known, sign_release
from bandstop.export.sign_envelope import canonical, pae, read_envelope
from bandstop.export.sign_keys import (
    check_seal,
    fingerprint,
    load_private_key,
    load_public_key,
    make_keys,
    seal,
)
from bandstop.export.verify import Wanted, verify
from bandstop.export.verify_checks import Report
from bandstop.export.verify_signature import Trust
from tests.whole_releases import keys, whole_release

Private = ed25519.Ed25519PrivateKey


@pytest.fixture
def key(tmp_path: Path) -> Private:
    return load_private_key(keys(tmp_path)[0])


def trusting(key: Private, after: Path | None = None, model: str | None = None) -> Wanted:
    return Wanted(Trust(key.public_key(), model, after))


def misfits(report: Report) -> list[str]:
    return [f"{check}: {misfit}" for check, misfit in report.misfits]


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_is_signed_is_the_encoding_of_the_specification() -> None:
    said = pae("http://example.com/HelloWorld", b"hello world")
    assert said == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_json_has_one_spelling() -> None:
    value = {"b": [1, True, None], "a": 'é"\\\n\x0f</', "A": {}}
    assert canonical(value) == b'{"A":{},"a":"\xc3\xa9\\"\\\\\\n\\u000f</","b":[1,true,null]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_an_envelope_can_be_checked_without_us(key: Private) -> None:
    envelope = json.loads(seal("text/plain", b"hello", key))
    assert envelope["payloadType"] == "text/plain"
    assert base64.b64decode(envelope["payload"]) == b"hello"
    (signed,) = envelope["signatures"]
    assert signed["keyid"] == fingerprint(key.public_key())
    key.public_key().verify(base64.b64decode(signed["sig"]), b"DSSEv1 10 text/plain 5 hello")


def test_a_fingerprint_is_the_digest_of_the_public_key() -> None:
    # RFC 8032, 7.1, test 1; the prefix is the algorithm's in SubjectPublicKeyInfo (RFC 8410)
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    known = hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + public).hexdigest()
    assert fingerprint(ed25519.Ed25519PublicKey.from_public_bytes(public)) == known


def test_keys_belong_together_and_to_their_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = make_keys(tmp_path / "k.pem")
    finally:
        os.umask(before)
    assert public == tmp_path / "k.pem.pub"
    assert [oct(f.stat().st_mode & 0o777) for f in (tmp_path / "k.pem", public)] == [
        "0o600",
        "0o644",
    ]
    private = load_private_key(tmp_path / "k.pem")
    assert fingerprint(private.public_key()) == fingerprint(load_public_key(public))
    for there in ("k.pem", "k.pem.pub"):
        (tmp_path / "other").mkdir(exist_ok=True)
        shutil.copy(tmp_path / there, tmp_path / "other" / there)
        with pytest.raises(SpecError, match=f"{there}: exists"):
            make_keys(tmp_path / "other" / "k.pem")
        (tmp_path / "other" / there).unlink()
    with pytest.raises(SpecError, match="its folder does not exist"):
        make_keys(tmp_path / "none" / "k.pem")


PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
OtherKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed448.Ed448PrivateKey
OTHER_KEYS: dict[str, Callable[[], OtherKey]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "EC secp256r1": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.mark.parametrize("kind", OTHER_KEYS)
def test_another_kind_of_key_is_named(tmp_path: Path, kind: str) -> None:
    other = OTHER_KEYS[kind]()
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_bytes(other.private_bytes(PEM, PKCS8, PLAIN))
    with pytest.raises(SpecError, match=f"expected an Ed25519 private key, got {kind}$"):
        load_private_key(tmp_path / "key")
    (tmp_path / "pub").write_bytes(other.public_key().public_bytes(PEM, SPKI))
    with pytest.raises(SpecError, match=f"expected an Ed25519 public key, got {kind}$"):
        load_public_key(tmp_path / "pub")


def test_a_key_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    with pytest.raises(SpecError, match="expected a private key, got a public one"):
        load_private_key(public)
    with pytest.raises(SpecError, match="expected a public key, got a private one"):
        load_public_key(private)
    private.chmod(0o640)
    with pytest.raises(SpecError, match=r"others may read it \(mode 0640\); chmod 600 it"):
        load_private_key(private)
    (tmp_path / "locked").touch(0o600)
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(Private.generate().private_bytes(PEM, PKCS8, locked))
    with pytest.raises(SpecError, match="expected a key without a password"):
        load_private_key(tmp_path / "locked")
    (tmp_path / "big").write_bytes(b"x" * (1 << 17))
    for name, said in {"none": "no such file", "big": "so no key"}.items():
        for load in (load_private_key, load_public_key):
            with pytest.raises(SpecError, match=said):
                load(tmp_path / name)
    (tmp_path / "text").write_text("-----BEGIN NOTHING-----\n")
    with pytest.raises(SpecError, match="expected an Ed25519 private key in PEM"):
        load_private_key(tmp_path / "text")
    with pytest.raises(SpecError, match="expected an Ed25519 public key in PEM"):
        load_public_key(tmp_path / "text")


def test_a_signed_release_says_what_it_is(tmp_path: Path, key: Private) -> None:
    release = whole_release(tmp_path / "release")
    signed = sign_release(release, key, model="pets")
    record = load_release(release).record  # still one
    assert (signed.model, signed.mode, signed.sequence) == ("pets", "baked", 1)
    assert (signed.parent, signed.revoked) == (None, [])
    assert signed.forget == record.forget
    assert {name: known.sha256 for name, known in signed.files.items()} == {
        name: digest(release / name)
        for name in ("model.onnx", "config.pbtxt", "labels.txt", "release.json")
    }
    class_map = canonical(record.class_names)
    assert signed.class_map_sha256 == hashlib.sha256(class_map).hexdigest()
    envelope, payload = read_envelope(
        (release / "signature.json").read_bytes(),
        "application/vnd.bandstop.release+json",
        "signature.json",
    )
    check_seal(envelope, payload, key.public_key(), "signature.json")
    assert payload == canonical(json.loads(payload))
    assert json.loads(payload) == signed.model_dump(mode="json")
    assert misfits(verify(release, trusting(key))) == []
    assert misfits(verify(release)) == []


def test_the_same_release_gets_the_same_signature(tmp_path: Path, key: Private) -> None:
    for name in ("one", "two"):
        sign_release(whole_release(tmp_path / name), key)
    one, two = (tmp_path / name / "signature.json" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_release_is_signed_once(tmp_path: Path, key: Private) -> None:
    release = whole_release(tmp_path / "release")
    sign_release(release, key)
    with pytest.raises(InputError, match="exists"):
        sign_release(release, key)


def test_a_corrupt_release_is_not_signed(tmp_path: Path, key: Private) -> None:
    release = whole_release(tmp_path / "release")
    (release / "labels.txt").write_text("x")
    with pytest.raises(ReleaseError, match="expected"):
        sign_release(release, key)
    assert not (release / "signature.json").exists()


def test_the_signature_travels_into_the_repository(tmp_path: Path, key: Private) -> None:
    release, repo = whole_release(tmp_path / "release"), tmp_path / "models"
    sign_release(release, key)
    publish(release, repo)
    version = repo / "digits" / "1"
    assert (version / "signature.json").read_bytes() == (release / "signature.json").read_bytes()
    report = verify(version, trusting(key))
    assert misfits(report) == []
    assert {c.name: c.note for c in report.checks}["signature"] == "model digits, sequence 1"


def test_a_release_is_published_only_as_what_it_is_signed_for(tmp_path: Path, key: Private) -> None:
    release, repo = whole_release(tmp_path / "release"), tmp_path / "models"
    sign_release(release, key, model="pets")
    with pytest.raises(SpecError, match="signed for pets; publish it as that"):
        publish(release, repo)
    assert not repo.exists()
    assert publish(release, repo, "pets") == 1
    (release / "signature.json").write_text("x")
    with pytest.raises(SignatureInvalid, match="no signed envelope"):
        publish(release, repo, "pets")


@pytest.mark.parametrize("case", ["link", "large"])
def test_a_signature_that_is_none_is_not_published(tmp_path: Path, key: Private, case: str) -> None:
    release = whole_release(tmp_path / "release")
    sign_release(release, key)
    if case == "link":
        (release / "signature.json").rename(tmp_path / "moved")
        (release / "signature.json").symlink_to(tmp_path / "moved")
    else:
        with (release / "signature.json").open("ab") as file:
            file.write(b" " * (1 << 20))
    with pytest.raises(ReleaseError, match=r"regular file|larger than"):
        publish(release, tmp_path / "models")


def edited(file: Path, key: Private, **changes: object) -> None:
    """Change what is signed and sign it anew, as somebody with the key could."""
    envelope = json.loads(file.read_bytes())
    content = {**json.loads(base64.b64decode(envelope["payload"])), **changes}
    file.write_bytes(seal(envelope["payloadType"], canonical(content), key))


POLICY = {"classes": [2], "instances": 0, "always": [], "slots": 0, "allow_none": False}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mode": "original"}, "signed for mode original, this is baked"),
        ({"forget": POLICY}, r"signed for forget policy .*\[2\].*, this is .*\[1\]"),
        ({"class_map_sha256": "0" * 64}, "signed for class map 000000000000..., this is"),
        ({"format": "bandstop-signature/2"}, "no signed release: format"),
        ({"more": 1}, "no signed release: more: Extra"),
        ({"sequence": 0}, "no signed release: sequence"),
        ({"files": {}}, "files: model.onnx is missing"),
    ],
)
def test_a_good_signature_of_something_else_is_refused(
    tmp_path: Path, key: Private, changes: dict[str, object], said: str
) -> None:
    release = whole_release(tmp_path / "release")
    sign_release(release, key)
    edited(release / "signature.json", key, **changes)
    for wanted in (trusting(key), None):  # also where nobody is trusted
        with pytest.raises(VerifyFailed, match=f"signature: 'signature.json': .*{said}"):
            verify(release, wanted).refuse_misfits()


def test_a_signature_of_other_files_is_refused(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    sign_release(one, key)
    shutil.copy(one / "signature.json", two / "signature.json")
    report = verify(two, trusting(key))
    assert sorted(line.split(": ")[2] for line in misfits(report)) == [
        "config.pbtxt",
        "model.onnx",
        "release.json",
    ]
    edited(two / "signature.json", key, files={"model.onnx": {"size": 1, "sha256": "0" * 64}})
    assert "release.json is missing" in misfits(verify(two, trusting(key)))[0]


def resealed(file: Path, **changes: object) -> None:
    """Change the envelope around what is signed."""
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


def test_broken_envelopes_are_told(tmp_path: Path, key: Private) -> None:
    release = whole_release(tmp_path / "release")
    sign_release(release, key)
    file = release / "signature.json"
    good = file.read_bytes()
    signed = json.loads(good)["signatures"][0]
    sig = signed["sig"]
    for changes, said in (
        ({"signatures": []}, "holds no signature"),
        ({"signatures": [{"sig": ""}]}, "signature of 0 bytes, expected 64"),
        ({"signatures": [{"sig": sig[:40]}]}, "signature of 30 bytes, expected 64"),
        ({"signatures": [{"sig": sig[:-3]}]}, "signature: not base64, 85 characters"),
        ({"signatures": [{**signed, "sig": "AAAA" + sig[4:]}]}, "does not fit what is signed"),
        (
            {"signatures": [{"keyid": "ab", "sig": "AAAA" + sig[4:]}]},
            r"signed by key ab\.\.\., not",
        ),
        ({"payloadType": "text/plain"}, "expected an envelope of application/vnd.bandstop"),
        ({"payload": "!"}, "payload: not base64"),
        ({"payload": ""}, "no signed release: payload: Invalid JSON"),
    ):
        file.write_bytes(good)
        resealed(file, **changes)
        with pytest.raises(VerifyFailed, match=f"signature: 'signature.json': .*{said}"):
            verify(release, trusting(key)).refuse_misfits()
    both = [{"sig": base64.b64encode(b"x" * 64).decode()}, {"sig": sig}]
    resealed_with_both = {**json.loads(good), "signatures": both, "more": 1}
    file.write_text(json.dumps(resealed_with_both))
    assert misfits(verify(release, trusting(key))) == []  # one of them is good


def succeeding(tmp_path: Path, key: Private) -> tuple[Path, Path]:
    """Return two signed releases, the second the successor of the first."""
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    sign_release(one, key, succession=Succession(sequence=7))
    sign_release(two, key, succession=Succession(parent=one))
    return one, two


def test_a_successor_names_its_parent_and_counts_on(tmp_path: Path, key: Private) -> None:
    one, two = succeeding(tmp_path, key)
    signed = newest_known(two, key.public_key())
    assert (signed.sequence, signed.parent) == (8, digest(one / "release.json"))
    publish(one, tmp_path / "models")
    three = whole_release(tmp_path / "three", weight=0.75)
    version = tmp_path / "models" / "digits" / "1"
    again = sign_release(three, key, succession=Succession(parent=version, sequence=20))
    assert (again.sequence, again.parent) == (20, signed.parent)


def test_revocations_are_handed_down(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    sign_release(one, key, succession=Succession(revoked=["b" * 64, "a" * 64, "b" * 64]))
    signed = sign_release(two, key, succession=Succession(parent=one, revoked=["c" * 64]))
    assert signed.revoked == ["a" * 64, "b" * 64, "c" * 64]


def test_an_unsigned_parent_is_named_all_the_same(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    signed = sign_release(two, key, succession=Succession(parent=one))
    assert (signed.sequence, signed.parent) == (1, digest(one / "release.json"))


def test_a_release_made_anew_follows_its_own_first_signing(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two")
    first = sign_release(one, key)
    again = sign_release(two, key, succession=Succession(parent=one))
    assert first.release_sha256 == again.release_sha256 == again.parent
    assert (first.sequence, again.sequence) == (1, 2)


def test_an_unsigned_parent_is_a_release_of_the_same_model(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    with pytest.raises(SpecError, match=r"two: is this release itself; give the one before"):
        sign_release(two, key, succession=Succession(parent=two))
    publish(one, tmp_path / "models", "pets")
    version = tmp_path / "models" / "pets" / "1"
    content = json.loads((one / "release.json").read_bytes())
    for folder, named in ((one, "cars"), (version, "pets")):
        (folder / "release.json").write_text(json.dumps({**content, "name": "cars"}))
        with pytest.raises(SpecError, match=f"a release of {named}, this is one of digits"):
            sign_release(two, key, succession=Succession(parent=folder))
    (one / "release.json").write_text('{"x": 1}')
    with pytest.raises(ReleaseError, match=r"^parent .*one: not a valid release record"):
        sign_release(two, key, succession=Succession(parent=one))
    assert not (two / "signature.json").exists()
    signed = sign_release(two, key, model="pets", succession=Succession(parent=version))
    assert signed.parent == digest(version / "release.json")


def test_what_cannot_succeed_is_refused(tmp_path: Path, key: Private) -> None:
    one, two = whole_release(tmp_path / "one"), whole_release(tmp_path / "two", weight=0.25)
    sign_release(one, key, succession=Succession(sequence=7))
    other = Private.generate()
    own = digest(two / "model.onnx")
    for succession, model, said in (
        (Succession(sequence=7, parent=one), None, "sequence: expected at least 8, got 7"),
        (Succession(sequence=0), None, "sequence: expected at least 1, got 0"),
        (Succession(sequence=2**53), None, "sequence: expected 1.."),
        (Succession(revoked=["ABC"]), None, "revoke: expected digests of 64 lower-case"),
        (Succession(revoked=[own]), None, "revoke: .* is this release's own digest"),
        (Succession(revoked=[digest(two / "release.json")]), None, "own digest"),
        (Succession(parent=one), "pets", "parent: is a release of digits, this is one of pets"),
        (Succession(), "A b", "model name: expected"),
    ):
        with pytest.raises(SpecError, match=said):
            sign_release(two, key, model=model, succession=succession)
    with pytest.raises(SignatureInvalid, match=r"signed by key .*, not by the key"):
        sign_release(two, other, succession=Succession(parent=one))
    with pytest.raises(ReleaseError, match="missing"):
        sign_release(two, key, succession=Succession(parent=tmp_path / "none"))
    (one / "release.json").write_text("{}")
    with pytest.raises(ReleaseError, match="is not the one that was signed"):
        sign_release(two, key, succession=Succession(parent=one))
    assert not (two / "signature.json").exists()


def test_the_newest_known_is_allowed_and_what_follows(tmp_path: Path, key: Private) -> None:
    one, two = succeeding(tmp_path, key)
    shutil.copy(one / "signature.json", tmp_path / "last-seen.json")
    for release in (one, two):
        for after in (one, tmp_path / "last-seen.json"):
            assert misfits(verify(release, trusting(key, after))) == []


def test_what_was_replaced_is_refused(tmp_path: Path, key: Private) -> None:
    one, two = succeeding(tmp_path, key)
    report = verify(one, trusting(key, two))
    assert misfits(report) == ["order: sequence 7, but 8 is known already"]
    with pytest.raises(RollbackRefused, match="sequence 7"):
        report.refuse_misfits()
    assert report.exit_code == 7
    rival = whole_release(tmp_path / "rival", weight=0.75)
    sign_release(rival, key, succession=Succession(sequence=8))
    assert misfits(verify(rival, trusting(key, two))) == [
        "order: sequence 8 is that of another release"
    ]
    (one / "more").write_text("")  # what is not whole is told first
    assert verify(one, trusting(key, two)).exit_code == 5


@pytest.mark.parametrize("file", ["release.json", "model.onnx"])
def test_what_was_revoked_is_refused(tmp_path: Path, key: Private, file: str) -> None:
    bad, newest = whole_release(tmp_path / "bad"), whole_release(tmp_path / "new", weight=0.25)
    sign_release(newest, key, succession=Succession(revoked=[digest(bad / file)]))
    sign_release(bad, key, succession=Succession(sequence=9))
    report = verify(bad, trusting(key, newest))
    assert misfits(report) == [
        f"order: digest {digest(bad / file)[:12]}... is revoked by release 1"
    ]
    assert report.exit_code == 7


def test_the_newest_known_must_be_known_for_good(tmp_path: Path, key: Private) -> None:
    one, two = succeeding(tmp_path, key)
    shutil.copy(two / "signature.json", tmp_path / "seen.json")
    edited(tmp_path / "seen.json", Private.generate(), sequence=1)
    pets = whole_release(tmp_path / "pets", weight=0.75)
    sign_release(pets, key, model="pets")
    for after, said in (
        (tmp_path / "seen.json", "signed by key"),
        (tmp_path / "none", "missing"),
        (whole_release(tmp_path / "unsigned"), "'signature.json': missing"),
        (pets, "signed for model digits, the newest is of pets"),
    ):
        report = verify(one, trusting(key, after))
        assert report.exit_code == 5
        with pytest.raises(VerifyFailed, match=f"order: .*{said}"):
            report.refuse_misfits()
