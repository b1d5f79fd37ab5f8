"""Statements: of one edit, about no person, signed, and each bound to the one before."""

import base64
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.record_parts import AskedRecord
from bandstop.edit.evaluation.records import read_metrics, write_metrics
from bandstop.edit.manifest import params_of
from bandstop.edit.svd import SVD
from bandstop.export.errors import SignatureInvalid, SpecError, VerifyFailed
from bandstop.export.record import record_bytes
from bandstop.export.record_files import read_record
from bandstop.export.sign import sign_release
from bandstop.export.sign_envelope import canonical
from bandstop.export.sign_keys import seal
from bandstop.export.statement import opaque
from bandstop.export.statement_make import Evidence, write_statement
from bandstop.export.verify import Wanted, verify
from bandstop.export.verify_checks import Report
from bandstop.export.verify_signature import Trust
from tests.evaluations import NAMES
from tests.papers import papers
from tests.releases import CLASSES

WHEN = "2026-01-31T12:00:00Z"
GATE = "rules: [{metric: test_forget_acc, max: 0.01}, {metric: zrf, min: 0.9}]"


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return papers(tmp_path)


def payload(file: Path) -> dict[str, object]:
    content = json.loads(base64.b64decode(json.loads(file.read_bytes())["payload"]))
    assert isinstance(content, dict)
    return content


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def misfits(report: Report) -> list[str]:
    return [f"{check}: {misfit}" for check, misfit in report.misfits]


def test_a_statement_is_what_auditors_tools_read(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    out = tmp_path / "statement.json"
    write_statement(evidence, key, out, issued=WHEN)
    envelope = json.loads(out.read_bytes())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    body = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(body), body)
    key.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    content = payload(out)
    assert content.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["subject"] == [
        {"name": "model.onnx", "digest": {"sha256": digest(evidence.release / "model.onnx")}}
    ]
    assert content["predicateType"] == "urn:bandstop:unlearning-statement:v1"


def test_a_statement_tells_procedure_and_effect(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    (tmp_path / "gate.yaml").write_text(GATE)
    evidence = replace(evidence, gate=tmp_path / "gate.yaml", requests=["r-1", "r-2"])
    said = write_statement(evidence, key, tmp_path / "s.json", issued=WHEN).predicate
    assert said.claim == "measured unlearning: evidence of procedure and effect"
    assert (said.issued, said.requests, said.model, said.mode, said.previous) == (
        *(WHEN, ["r-1", "r-2"], "digits", "baked"),
        None,
    )
    run = said.procedure
    assert (run.method, run.seed, run.stand_in, run.split_seed) == ("svd", 0, None, None)
    assert run.params == params_of(SVD())
    assert (run.forgotten.classes, run.forgotten.instances) == (1, 0)
    assert run.versions.keys() == {"bandstop", "python", "torch"}
    materials = said.materials
    assert materials.parent == "b" * 64
    assert materials.artifact == digest(evidence.artifact / "manifest.json")
    files = {"model.safetensors": digest(evidence.artifact / "model.safetensors")}
    assert materials.files == files
    assert materials.release == digest(evidence.release / "release.json")
    assert materials.metrics == digest(evidence.evaluation / "metrics.json")
    measured = read_metrics(evidence.evaluation).subjects
    assert said.measured.figures.keys() == {"original", "edited", "retrained", "logit-mask"}
    assert {
        subject: {key: (f.value, f.ci95, f.n) for key, f in figures.items()}
        for subject, figures in said.measured.figures.items()
    } == {
        subject: {key: (m.value, m.ci95, m.n) for key, m in figures.items()}
        for subject, figures in measured.items()
    }
    assert said.measured.images == {"test": 10000, "forget": 4500, "retain": 5000}
    result = said.measured.gate
    assert result is not None
    assert (result.sha256, result.passed) == (digest(tmp_path / "gate.yaml"), False)
    assert [(r.metric, r.outcome) for r in result.rules] == [
        ("test_forget_acc", "passed"),
        ("zrf", "missed"),
    ]


def test_a_statement_names_no_class_no_path_and_no_data(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)
    text = json.dumps(payload(tmp_path / "s.json"))
    for told in (*NAMES, *CLASSES, str(tmp_path), "cifar10", "out/", "--"):
        assert f'"{told}' not in text
        assert f" {told}" not in text


@pytest.mark.parametrize("request_id", ["r-2041", "3f2b", "0" * 64, "A_1"])
def test_an_opaque_identifier_is_taken(request_id: str) -> None:
    assert opaque(request_id) == request_id


@pytest.mark.parametrize(
    "request_id",
    [
        *("jane@example.org", "Jane Doe 7", "jane-doe", "j1", "-r1", "1" * 65, "", "7.doe", "é123"),
        *("r-1\n", "r/1"),
    ],
)
def test_an_identifier_that_may_tell_somebody_is_refused_and_not_repeated(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey, request_id: str
) -> None:
    asked = replace(evidence, requests=["r-1", request_id])
    with pytest.raises(SpecError, match="request-id: expected 3 to 64") as caught:
        write_statement(asked, key, tmp_path / "s.json", issued=WHEN)
    assert not request_id.strip() or request_id not in str(caught.value)
    assert not (tmp_path / "s.json").exists()


def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    out = tmp_path / "s.json"
    evaluation = read_metrics(evidence.evaluation)
    other = evaluation.artifact.model_copy(update={"files": {"model.safetensors": "0" * 64}})
    file = tmp_path / "other.json"
    write_metrics(file, evaluation.model_copy(update={"artifact": other}))
    with pytest.raises(SpecError, match=r"^statement: the evaluation is of another artifact"):
        write_statement(replace(evidence, evaluation=file), key, out, issued=WHEN)
    record = read_record(evidence.release / "release.json")
    record = record.model_copy(update={"artifact_sha256": "0" * 64})
    (evidence.release / "release.json").write_bytes(record_bytes(record))
    with pytest.raises(SpecError, match=r"^statement: the release was not exported from this"):
        write_statement(evidence, key, out, issued=WHEN)
    with pytest.raises(SpecError, match="at least one"):
        write_statement(replace(evidence, requests=[]), key, out, issued=WHEN)
    assert not out.exists()
    out.write_text("")
    with pytest.raises(InputError, match="exists"):
        write_statement(evidence, key, out, issued=WHEN)


@pytest.mark.parametrize(
    ("asked", "forgets"),
    [
        (AskedRecord(classes=["bird"]), [1]),
        (AskedRecord(classes=["automobile"]), [1, 2]),
        (AskedRecord(classes=["automobile", "bird"]), [1]),
        (AskedRecord(instances=3), [1]),
        (AskedRecord(instances=3), []),
    ],
    ids=str,
)
def test_figures_of_another_class_are_refused(
    tmp_path: Path,
    evidence: Evidence,
    key: Ed25519PrivateKey,
    asked: AskedRecord,
    forgets: list[int],
) -> None:
    evaluation = read_metrics(evidence.evaluation)
    other = evaluation.artifact.model_copy(update={"request": asked})
    write_metrics(
        evidence.evaluation / "metrics.json", evaluation.model_copy(update={"artifact": other})
    )
    record = read_record(evidence.release / "release.json")
    forget = record.forget.model_copy(update={"classes": forgets})
    changed = record.model_copy(update={"forget": forget})
    (evidence.release / "release.json").write_bytes(record_bytes(changed))
    with pytest.raises(SpecError, match="evaluation is of other classes or images"):
        write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)
    gated = changed.model_copy(update={"mode": "gated"})  # requests choose
    (evidence.release / "release.json").write_bytes(record_bytes(gated))
    write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)


def test_a_rule_of_what_was_not_measured_is_skipped_as_the_gate_does(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    evaluation = read_metrics(evidence.evaluation)
    subjects = {
        n: {k: m for k, m in of.items() if k != "zrf"} for n, of in evaluation.subjects.items()
    }
    metrics = {k: m for k, m in evaluation.metrics.items() if k != "zrf"}
    less = evaluation.model_copy(update={"subjects": subjects, "metrics": metrics})
    write_metrics(evidence.evaluation / "metrics.json", less)
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        "rules: [{metric: test_forget_acc, max: 0.01}, {metric: zrf, min: 0.9, required: false}]"
    )
    said = write_statement(
        replace(evidence, gate=gate), key, tmp_path / "s.json", issued=WHEN
    ).predicate.measured.gate
    assert said is not None
    assert [r.outcome for r in said.rules] == ["passed", "skipped"]
    gate.write_text(GATE.replace("zrf", "no_such"))
    with pytest.raises(InputError, match="no_such"):
        write_statement(replace(evidence, gate=gate), key, tmp_path / "t.json", issued=WHEN)


def test_a_name_that_a_stranger_signed_is_not_told(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    sign_release(evidence.release, Ed25519PrivateKey.generate(), model="somebody_else")
    with pytest.raises(SignatureInvalid, match=r"signature\.json: signed by key"):
        write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)
    (evidence.release / "signature.json").unlink()
    sign_release(evidence.release, key)
    record = read_record(evidence.release / "release.json")
    later = record.model_copy(update={"versions": {"torch": "9"}})
    (evidence.release / "release.json").write_bytes(record_bytes(later))
    with pytest.raises(SignatureInvalid, match=r"release\.json: signed with digest"):
        write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)
    assert not (tmp_path / "s.json").exists()


def test_a_date_of_another_form_is_refused(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    with pytest.raises(SpecError, match=r"statement: predicate\.issued"):
        write_statement(evidence, key, tmp_path / "s.json", issued="today")


def test_the_model_is_named_as_it_was_signed(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    sign_release(evidence.release, key, model="pets")
    said = write_statement(evidence, key, tmp_path / "s.json", issued=WHEN)
    assert said.predicate.model == "pets"


def chain(tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey) -> list[Path]:
    """Write three statements, each after the one before."""
    files: list[Path] = []
    for number in range(3):
        files.append(tmp_path / f"s{number}.json")
        previous = files[-2] if number else None
        asked = replace(evidence, previous=previous, requests=[f"r-{number}"])
        write_statement(asked, key, files[-1], issued=WHEN)
    return files


def test_statements_are_chained(tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey) -> None:
    first, second, third = chain(tmp_path, evidence, key)
    predicate = payload(third)["predicate"]
    assert isinstance(predicate, dict)
    assert predicate["previous"] == digest(second)
    trust = Trust(key.public_key())
    whole = verify(third, Wanted(trust, previous=[first, second]))
    assert misfits(whole) == []
    assert [(c.name, c.outcome) for c in whole.checks] == [
        ("statement", "passed"),
        ("signature", "passed"),
        ("chain", "passed"),
    ]
    alone = verify(third)
    assert [(c.name, c.outcome) for c in alone.checks][1:] == [
        ("signature", "skipped"),
        ("chain", "skipped"),
    ]
    assert verify(first, Wanted(trust)).checks[2].note == "the first statement"


def test_a_broken_chain_is_told(tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey) -> None:
    first, second, third = chain(tmp_path, evidence, key)
    stranger = tmp_path / "stranger.json"
    write_statement(replace(evidence, requests=["r-9"]), key, stranger, issued=WHEN)
    missing = f"chain: statement {digest(first)[:12]}... is before it and was not given"
    odd = f"chain: statement {digest(stranger)[:12]}... is no part of the chain"
    forged = tmp_path / "forged.json"
    content = payload(second)
    forged.write_bytes(
        seal("application/vnd.in-toto+json", canonical(content), Ed25519PrivateKey.generate())
    )
    os.mkfifo(tmp_path / "pipe")
    trust = Trust(key.public_key())
    for at, previous, said in (
        (third, [second], [missing]),
        (third, [first, second, stranger], [odd]),
        (first, [stranger], [odd]),
        (third, [first], [f"chain: statement {digest(second)[:12]}... is before it and was not"]),
        (third, [first, forged], [f"chain: {forged}: signed by key", "chain: statement"]),
        (second, [first, tmp_path / "pipe"], ["chain: 'pipe': expected a regular file"]),
    ):
        report = verify(at, Wanted(trust, previous=previous))
        assert report.exit_code == 5
        for line, start in zip(misfits(report), said, strict=True):
            assert line.startswith(start)


def test_a_previous_statement_must_be_ones_own(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    first = tmp_path / "s.json"
    write_statement(evidence, Ed25519PrivateKey.generate(), first, issued=WHEN)
    for previous, error, said in (
        (first, SignatureInvalid, "signed by key"),
        (evidence.release / "release.json", SignatureInvalid, "no signed envelope"),
        (tmp_path / "none", SpecError, "no such file"),
    ):
        with pytest.raises(error, match=said):
            write_statement(
                replace(evidence, previous=previous), key, tmp_path / "next.json", issued=WHEN
            )
    assert not (tmp_path / "next.json").exists()


def test_a_statement_that_was_touched_is_refused(
    tmp_path: Path, evidence: Evidence, key: Ed25519PrivateKey
) -> None:
    out = tmp_path / "s.json"
    write_statement(evidence, key, out, issued=WHEN)
    good, trust = out.read_bytes(), Trust(key.public_key())
    content = payload(out)
    predicate = content["predicate"]
    assert isinstance(predicate, dict)

    def sealed(changed: dict[str, object], by: Ed25519PrivateKey = key) -> bytes:
        return seal("application/vnd.in-toto+json", canonical(changed), by)

    envelope = json.loads(good)
    swapped = base64.b64encode(canonical({**content, "predicate": {**predicate, "issued": WHEN}}))
    later = {**predicate, "issued": "2027-01-31T12:00:00Z"}
    named = {**predicate, "requests": ["jane@example.org"]}
    claimed = {**predicate, "claim": "deleted"}
    moved = base64.b64encode(canonical({**content, "predicate": later})).decode()
    assert swapped.decode() == envelope["payload"]
    for data, said in (
        (b"", "statement: 's.json': empty"),
        (good[: len(good) // 2], "statement: 's.json': no signed envelope"),
        (b"\xff", "statement: 's.json': no signed envelope"),
        (json.dumps({**envelope, "payload": moved}).encode(), "does not fit what is signed"),
        (json.dumps({**envelope, "signatures": []}).encode(), "holds no signature"),
        (sealed(content, Ed25519PrivateKey.generate()), "signature: 's.json': signed by key"),
        (sealed({**content, "predicate": named}), r"predicate\.requests\.0"),
        (sealed({**content, "predicate": claimed}), r"predicate\.claim"),
        (sealed({**content, "subject": []}), "subject"),
        (sealed({**content, "_type": "https://in-toto.io/Statement/v0.1"}), "_type"),
        (sealed({**content, "predicateType": "urn:other"}), "predicateType"),
        (sealed({**content, "more": 1}), "more: Extra"),
        (seal("text/plain", canonical(content), key), "expected an envelope of application/vnd.in"),
    ):
        out.write_bytes(data)
        report = verify(out, Wanted(trust))
        assert report.kind == "statement"
        assert report.exit_code == 5
        with pytest.raises(VerifyFailed, match=said):
            report.refuse_misfits()
