"""`bandstop keygen`, `sign`, `statement` and `verify`: exit codes and what is told where."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bandstop.cli.main import main
from tests.papers import papers
from tests.whole_releases import whole_release

Out = pytest.CaptureFixture[str]
PEM = serialization.Encoding.PEM
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def key(tmp_path: Path, capsys: Out) -> Path:
    assert run("keygen", tmp_path / "k.pem") == 0
    capsys.readouterr()
    return tmp_path / "k.pem"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("k.pem.pub")


def test_a_release_is_signed_published_and_verified(tmp_path: Path, capsys: Out) -> None:
    release, repo, key = whole_release(tmp_path / "r"), tmp_path / "models", tmp_path / "k.pem"
    assert run("keygen", key, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["private"], made["public"]) == (str(key), f"{key}.pub")
    assert run("sign", release, "--key", key, "--model", "pets", "--sequence", 4, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["sequence"], told["key"]) == ("pets", 4, made["fingerprint"])
    assert run("repo", "publish", release, repo, "--model", "pets") == 0
    capsys.readouterr()
    assert run("verify", repo / "pets" / "1", "--key", made["public"], "--after", release) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert [line.split() for line in shown.out.splitlines()] == [
        ["files", "passed", "3", "as", "listed"],
        ["graph", "passed", "2", "nodes"],
        ["classes", "passed"],
        ["config", "passed"],
        ["signature", "passed", "model", "pets,", "sequence", "4"],
        ["order", "passed"],
    ]


def test_every_misfit_is_a_line_and_the_exit_code_is_five(tmp_path: Path, capsys: Out) -> None:
    release = whole_release(tmp_path / "r")
    (release / "labels.txt").write_text("x")
    (release / "new\nline").write_text("")
    assert run("verify", release) == 5
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "error: files: 'labels.txt': 1 bytes, expected 24",
        r"error: files: 'new\nline': unlisted",
    ]
    assert told.out.splitlines()[0].split() == ["files", "failed", "2", "misfits"]
    assert run("verify", release, "--json") == 5
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["passed"], report["path"]) == ("release", False, str(release))
    assert report["checks"][0] == {
        "name": "files",
        "outcome": "failed",
        "note": "3 as listed",
        "misfits": ["'labels.txt': 1 bytes, expected 24", r"'new\nline': unlisted"],
    }
    (release / "new\nline").unlink()
    assert run("verify", release) == 5
    assert capsys.readouterr().out.splitlines()[0].split() == ["files", "failed", "1", "misfit"]


def test_a_release_that_does_not_verify_is_not_signed(
    tmp_path: Path, key: Path, capsys: Out
) -> None:
    release = whole_release(tmp_path / "r")
    (release / "more").write_text("")
    assert run("sign", release, "--key", key) == 5
    assert "'more': unlisted" in capsys.readouterr().err
    assert not (release / "signature.json").exists()


# Good files and a signature that does not make them good: what is done, exit code, what is told.
Attack = Callable[[Path, Path], list[object]]


def of_another_model(place: Path, key: Path) -> list[object]:
    """Replay a good signature by moving the release under another model's name."""
    assert run("sign", place / "one", "--key", key, "--model", "pets") == 0
    assert run("repo", "publish", place / "one", place / "models", "--model", "pets") == 0
    (place / "models" / "pets").rename(place / "models" / "cars")
    config = place / "models" / "cars" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "pets"', 'name: "cars"'))
    return [place / "models" / "cars" / "1"]


def of_an_unexpected_model(place: Path, key: Path) -> list[object]:
    assert run("sign", place / "one", "--key", key, "--model", "pets") == 0
    return [place / "one", "--model", "cars"]


def of_another_policy(place: Path, key: Path) -> list[object]:
    gated = whole_release(place / "gated", "gated")
    assert run("sign", gated, "--key", key) == 0
    shutil.copy(gated / "signature.json", place / "one" / "signature.json")
    return [place / "one"]


def of_another_release(place: Path, key: Path) -> list[object]:
    assert run("sign", place / "two", "--key", key) == 0
    shutil.copy(place / "two" / "signature.json", place / "one" / "signature.json")
    return [place / "one"]


def of_an_older_sequence(place: Path, key: Path) -> list[object]:
    assert run("sign", place / "one", "--key", key) == 0
    assert run("sign", place / "two", "--key", key, "--parent", place / "one") == 0
    return [place / "one", "--after", place / "two"]


def revoked(place: Path, key: Path) -> list[object]:
    assert run("sign", place / "one", "--key", key, "--sequence", 5) == 0
    record = json.loads((place / "one" / "release.json").read_bytes())
    gone = record["files"]["model.onnx"]["sha256"]
    assert run("sign", place / "two", "--key", key, "--revoke", gone) == 0
    return [place / "one", "--after", place / "two"]


def absent(place: Path, key: Path) -> list[object]:
    return [place / "one"]


def cut(size: int) -> Attack:
    def attack(place: Path, key: Path) -> list[object]:
        assert run("sign", place / "one", "--key", key) == 0
        os.truncate(place / "one" / "signature.json", size)
        return [place / "one"]

    return attack


def by_somebody_else(place: Path, key: Path) -> list[object]:
    assert run("keygen", place / "other.pem") == 0
    assert run("sign", place / "one", "--key", place / "other.pem") == 0
    return [place / "one"]


SIGNATURES: dict[str, tuple[Attack, int, str]] = {
    "of another model": (of_another_model, 5, "signed for model pets, this is cars"),
    "of an unexpected model": (of_an_unexpected_model, 5, "signed for model pets, this is cars"),
    "of another policy": (of_another_policy, 5, "signed for mode gated, this is baked"),
    "of another release": (of_another_release, 5, "model.onnx: signed with digest"),
    "of an older sequence": (of_an_older_sequence, 7, "order: sequence 1, but 2 is known already"),
    "revoked": (revoked, 7, "is revoked by release 1"),
    "absent": (absent, 5, "'signature.json': missing"),
    "empty": (cut(0), 5, "'signature.json': empty"),
    "truncated": (cut(99), 5, "'signature.json': no signed envelope"),
    "by somebody else": (by_somebody_else, 5, "'signature.json': signed by key"),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_a_signature_that_proves_nothing_is_refused(
    tmp_path: Path, key: Path, public: Path, capsys: Out, case: str
) -> None:
    whole_release(tmp_path / "one")
    whole_release(tmp_path / "two", weight=0.25)
    attack, code, said = SIGNATURES[case]
    arguments = attack(tmp_path, key)
    capsys.readouterr()
    assert run("verify", *arguments, "--key", public) == code
    assert said in capsys.readouterr().err


def other_key(place: Path, kind: str) -> tuple[Path, Path]:
    """Write a key pair of another kind."""
    made: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind == "RSA":
        made = rsa.generate_private_key(65537, 2048)
    else:
        made = ec.generate_private_key(ec.SECP256R1())
    private = made.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "other").touch(0o600)
    (place / "other").write_bytes(private)
    (place / "other.pub").write_bytes(made.public_key().public_bytes(PEM, SPKI))
    return place / "other", place / "other.pub"


@pytest.mark.parametrize("kind", ["RSA", "EC secp256r1"])
def test_a_key_of_another_kind_is_named(tmp_path: Path, key: Path, capsys: Out, kind: str) -> None:
    release = whole_release(tmp_path / "r")
    private, public = other_key(tmp_path, kind)
    assert run("sign", release, "--key", private) == 2
    assert f"expected an Ed25519 private key, got {kind}" in capsys.readouterr().err
    assert not (release / "signature.json").exists()
    assert run("sign", release, "--key", key) == 0
    assert run("verify", release, "--key", public) == 2
    assert f"expected an Ed25519 public key, got {kind}" in capsys.readouterr().err


def test_keys_are_not_mixed_up(tmp_path: Path, key: Path, public: Path, capsys: Out) -> None:
    release = whole_release(tmp_path / "r")
    assert run("sign", release, "--key", public) == 2
    assert "expected a private key, got a public one" in capsys.readouterr().err
    assert run("sign", release, "--key", key) == 0
    assert run("verify", release, "--key", key) == 2
    assert "expected a public key, got a private one" in capsys.readouterr().err
    assert run("keygen", key) == 2
    assert run("verify", release, "--key", tmp_path / "none") == 2


def test_a_statement_is_written_and_verified(
    tmp_path: Path, key: Path, public: Path, capsys: Out
) -> None:
    made = papers(tmp_path)
    fixed = [made.release, "--artifact", made.artifact, "--evidence", made.evaluation, "--key", key]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert run("statement", *fixed, "--request-id", "r-1", "--out", first) == 0
    assert "gate_passed: None" in capsys.readouterr().out
    (tmp_path / "gate.yaml").write_text("rules: [{metric: test_forget_acc, max: 0.01}]")
    asked = ["--request-id", "r-2", "--request-id", "r-3", "--gate", tmp_path / "gate.yaml"]
    assert run("statement", *fixed, *asked, "--previous", first, "--out", second, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["requests"], told["gate_passed"]) == (["r-2", "r-3"], True)
    assert told["previous"] is not None
    assert run("verify", second, "--key", public, "--previous", first) == 0
    first.write_bytes(first.read_bytes() + b" ")
    assert run("verify", second, "--key", public, "--previous", first) == 5
    assert "is before it and was not given" in capsys.readouterr().err
    out = ["--out", tmp_path / "third.json"]
    assert run("statement", *fixed, "--request-id", "jane@example.org", *out) == 2
    assert run("statement", *fixed, *out) == 2
    assert not (tmp_path / "third.json").exists()


def test_a_path_that_is_nothing_is_usage(tmp_path: Path, capsys: Out) -> None:
    assert run("verify", tmp_path / "none") == 2
    (tmp_path / "folder").mkdir()
    assert run("verify", tmp_path / "folder") == 5
    assert "expected an artifact, a release or a version" in capsys.readouterr().err
