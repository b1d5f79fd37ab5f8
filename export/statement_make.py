"""Make the unlearning statement of a release from its artifact and its evaluation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from bandstop.edit.evaluation.catalogue import METRICS as CATALOGUE
from bandstop.edit.evaluation.gate import judge, passed
from bandstop.edit.evaluation.gate_rules import read_gate
from bandstop.edit.evaluation.records import METRICS, Evaluation, read_metrics
from bandstop.edit.manifest import Manifest, artifact_sha256, read_manifest
from bandstop.edit.origin import instances_of
from bandstop.edit.storage import refuse_existing, sha256, write_file
from bandstop.export.errors import SignatureInvalid, SpecError, schema_misfits
from bandstop.export.record import MODEL, RECORD, SIGNATURE, ReleaseRecord
from bandstop.export.record_files import read_files
from bandstop.export.sign_envelope import canonical
from bandstop.export.sign_keys import check_seal, seal
from bandstop.export.sign_record import other_than, read_signature, signed_release
from bandstop.export.statement import (
    CLAIM,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_LIMIT,
    STATEMENT_TYPE,
    GateResult,
    Ruling,
    Statement,
    opaque,
    read_statement,
)
from bandstop.export.verify_files import read_regular


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a statement is made of.

    Attributes:
        release: the release folder.
        artifact: the artifact that it was exported from.
        evaluation: the folder of the evaluation of that artifact, or its metrics.json.
        requests: opaque identifiers of the requests that are met.
        gate: YAML with the rules of a gate; None holds the evaluation against none.
        previous: the statement before this one; None for the first.
    """

    release: Path
    artifact: Path
    evaluation: Path
    requests: Sequence[str]
    gate: Path | None = None
    previous: Path | None = None


def write_statement(
    evidence: Evidence, key: Ed25519PrivateKey, out: Path, *, issued: str
) -> Statement:
    """Write the signed statement `out`, which appears whole or not at all; return what it says.

    Args:
        evidence: what it is made of; all of it must be of the same edit.
        key: signs; the previous statement must be by it too.
        out: the file to write; must not exist.
        issued: date and time in UTC, as 2026-01-31T12:00:00Z.

    Raises:
        InputError: `out` exists, or a file is not there.
        SpecError: artifact, evaluation and release do not belong together, or an identifier is
            not opaque.
        ArtifactError, ReleaseError: one of them is corrupt.
        SignatureInvalid: the release or the previous statement is not signed by this key.
    """
    refuse_existing(out)
    _refuse_telling(evidence.requests)
    record, files = read_files(evidence.release)
    manifest = read_manifest(evidence.artifact)
    evaluation = read_metrics(evidence.evaluation)
    _refuse_strangers(record, manifest, evaluation)
    metrics = evidence.evaluation
    content = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": MODEL, "digest": {"sha256": record.files[MODEL].sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "claim": CLAIM,
            "issued": issued,
            "requests": list(evidence.requests),
            "model": _served_as(record, files, key.public_key()),
            "mode": record.mode,
            "procedure": _procedure(record, manifest),
            "materials": {
                "parent": record.parent_sha256,
                "artifact": record.artifact_sha256,
                "files": {str(name): known.sha256 for name, known in manifest.files.items()},
                "release": sha256(files[RECORD]),
                "metrics": sha256(
                    (metrics / METRICS if metrics.is_dir() else metrics).read_bytes()
                ),
            },
            "measured": _measured(evaluation, evidence.gate),
            "previous": _previous(evidence.previous, key),
        },
    }
    payload = canonical(content)
    try:
        statement = Statement.model_validate_json(payload)
    except ValidationError as error:
        raise SpecError(f"statement: {schema_misfits(error, 'payload', most=1)}") from error
    write_file(out, seal(PAYLOAD_TYPE, payload, key))
    return statement


def _refuse_telling(requests: Sequence[str]) -> None:
    if not requests:
        raise SpecError("request-id: expected at least one, got none")
    for request in requests:
        try:
            opaque(request)
        except ValueError as error:
            # what was given is not repeated: it may be somebody's name or address
            raise SpecError(f"request-id: {error}") from None


def _refuse_strangers(record: ReleaseRecord, manifest: Manifest, evaluation: Evaluation) -> None:
    """Refuse papers that are not of one and the same edit."""
    wrong = []
    if record.artifact_sha256 != artifact_sha256(manifest):
        wrong.append("the release was not exported from this artifact")
    files = {str(name): known.sha256 for name, known in manifest.files.items()}
    if evaluation.artifact.files != files:
        wrong.append("the evaluation is of another artifact")
    elif not _of_what_is_forgotten(record, manifest, evaluation):
        wrong.append("the evaluation is of other classes or images than the release forgets")
    if wrong:
        raise SpecError(f"statement: {' and '.join(wrong)}; give what belongs together")


def _of_what_is_forgotten(
    record: ReleaseRecord, manifest: Manifest, evaluation: Evaluation
) -> bool:
    """Return whether the figures are of what `record` has in its weights.

    One artifact of gates can be baked for one class and evaluated for another.
    """
    asked, names = evaluation.artifact.request, dict(enumerate(evaluation.class_names))
    if record.mode != "baked":
        return True  # requests choose a row, and an evaluation looks at one
    if not record.forget.classes:  # images; an evaluation may look at them as a whole class
        return asked.instances in (0, len(instances_of(manifest)))
    wanted = {names.get(c) for c in record.forget.classes}
    before = {names.get(c) for c in manifest.forgotten_before}
    return bool(asked.classes) and {*asked.classes} <= wanted <= {*asked.classes, *before}


def _served_as(record: ReleaseRecord, files: dict[str, bytes], key: Ed25519PublicKey) -> str:
    """Return the name under which the release is served: the signed one, else its own."""
    if SIGNATURE not in files:
        return record.name
    signed, envelope, payload = read_signature(files[SIGNATURE], SIGNATURE)
    check_seal(envelope, payload, key, SIGNATURE)
    other = other_than(signed, signed_release(record, files[RECORD], signed.model))
    if other:
        raise SignatureInvalid(f"{SIGNATURE}: {'; '.join(other)}; sign the release anew")
    return signed.model


def _procedure(record: ReleaseRecord, manifest: Manifest) -> dict[str, object]:
    baked = record.mode == "baked"
    forgotten = record.forget.classes if baked else manifest.request.classes
    return {
        "method": manifest.method,
        "params": manifest.params,
        "seed": manifest.seed,
        "forgotten": {"classes": len(forgotten), "instances": record.forget.instances},
        "stand_in": manifest.stand_in,
        "split_seed": manifest.split_seed,
        "versions": manifest.versions,
    }


def _measured(evaluation: Evaluation, gate: Path | None) -> dict[str, object]:
    """Return figures without their notes, which are free text."""
    data = evaluation.data
    return {
        "images": {"test": data.test, "forget": data.forget, "retain": data.retain},
        "figures": {
            subject: {
                key: {"value": m.value, "ci95": m.ci95, "n": m.n} for key, m in figures.items()
            }
            for subject, figures in evaluation.subjects.items()
        },
        "gate": None if gate is None else _gate(evaluation, gate).model_dump(),
        "versions": evaluation.versions,
    }


def _gate(evaluation: Evaluation, file: Path) -> GateResult:
    rules = read_gate(file, CATALOGUE.keys() | evaluation.metrics.keys())
    verdicts = judge(rules, {str(n): figures for n, figures in evaluation.subjects.items()})
    return GateResult(
        sha256=sha256(file.read_bytes()),
        passed=passed(verdicts),
        rules=[Ruling(metric=v.rule.metric, outcome=v.outcome) for v in verdicts],
    )


def _previous(file: Path | None, key: Ed25519PrivateKey) -> str | None:
    if file is None:
        return None
    if not os.path.lexists(file):
        raise SpecError(f"previous {file}: no such file")
    data = read_regular(file, limit=STATEMENT_LIMIT)
    _, envelope, payload = read_statement(data, str(file))
    check_seal(envelope, payload, key.public_key(), str(file))
    return sha256(data)
