"""The unlearning statement: what an auditor gets of a release, signed, one chained to the next.

An in-toto Statement (version 1) in a DSSE envelope. Its subject is the served model.onnx; its
predicate tells the procedure and what was measured. It names no class, no image, no path and no
person: a request is an opaque number that only the one who keeps the requests can resolve.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from bandstop.export.errors import SignatureInvalid, schema_misfits
from bandstop.export.record import NAME_PATTERN
from bandstop.export.record_strict import Sha256, Strict
from bandstop.export.sign_envelope import Envelope, read_envelope

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:bandstop:unlearning-statement:v1"
CLAIM = "measured unlearning: evidence of procedure and effect"
STATEMENT_LIMIT = 16 << 20  # bytes
REQUEST_PATTERN = r"(?=.*[0-9])[A-Za-z0-9][A-Za-z0-9_-]{2,63}"


def opaque(request_id: str) -> str:
    """Return a request's identifier, which must not be readable as a name or an address.

    Raises:
        ValueError: no letters, digits, `-` and `_` with a digit among them.
    """
    if not re.fullmatch(REQUEST_PATTERN, request_id):
        raise ValueError(
            "expected 3 to 64 letters, digits, - and _, a digit among them: an identifier that "
            "tells nothing about a person"
        )
    return request_id


RequestId = Annotated[str, AfterValidator(opaque)]


class Subject(Strict):
    """What the statement is about: a file by its digest."""

    name: str
    digest: dict[Literal["sha256"], Sha256]


class Forgotten(Strict):
    """How much was to be forgotten; which classes or images is not told."""

    classes: int
    instances: int


class Procedure(Strict):
    """What was run.

    Attributes:
        params: the settings of the method.
        stand_in: what stood in for the training images; None where they were at hand.
        split_seed: divided the data; None where nothing says so.
    """

    method: str
    params: dict[str, JsonValue]
    seed: int
    forgotten: Forgotten
    stand_in: str | None
    split_seed: int | None
    versions: dict[str, str]


class Materials(Strict):
    """What went in and came out, by digest.

    Attributes:
        parent: the weights that the edit started from.
        artifact: the artifact's manifest.
        files: of the artifact.
        release: the release's release.json.
        metrics: the evaluation's metrics.json.
    """

    parent: Sha256
    artifact: Sha256
    files: dict[str, Sha256]
    release: Sha256
    metrics: Sha256


class Figure(Strict):
    """A measured number, its 95 % interval, and over how many it is."""

    value: float
    ci95: tuple[float, float] | None
    n: int


class Ruling(Strict):
    """What became of a rule of the gate."""

    metric: str
    outcome: Literal["passed", "missed", "skipped"]


class GateResult(Strict):
    """The gate that the evaluation was held against, by its file's digest, and the result."""

    sha256: Sha256
    passed: bool
    rules: list[Ruling]


class Measured(Strict):
    """What was measured: network -> metric -> figure, and over how many images.

    Attributes:
        images: of the test, of what is to be forgotten, of the rest.
        gate: None where none was given.
        versions: of the libraries that measured.
    """

    images: dict[Literal["test", "forget", "retain"], int]
    figures: dict[str, dict[str, Figure]]
    gate: GateResult | None
    versions: dict[str, str]


class Predicate(Strict):
    """What the statement says.

    Attributes:
        issued: date and time, as whoever signed saw it; the order is told by `previous` alone.
        requests: that were met, by opaque identifiers.
        model: the name under which the release is served.
        mode: gated or baked.
        previous: digest of the file of the statement before; None for the first.
    """

    claim: Literal["measured unlearning: evidence of procedure and effect"]
    issued: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    requests: Annotated[list[RequestId], Field(min_length=1)]
    model: Annotated[str, Field(pattern=NAME_PATTERN)]
    mode: Literal["gated", "baked"]
    procedure: Procedure
    materials: Materials
    measured: Measured
    previous: Sha256 | None


class Statement(Strict):
    """An in-toto Statement with our predicate."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicateType: Literal["urn:bandstop:unlearning-statement:v1"]  # noqa: N815  # in-toto's name
    predicate: Predicate


def read_statement(data: bytes, where: str) -> tuple[Statement, Envelope, bytes]:
    """Return a statement, its envelope and the payload; no signature is checked.

    Raises:
        SignatureInvalid: empty, truncated, or something else.
    """
    envelope, payload = read_envelope(data, PAYLOAD_TYPE, where)
    try:
        return Statement.model_validate_json(payload), envelope, payload
    except ValidationError as error:
        told = schema_misfits(error, "payload", most=4)
        raise SignatureInvalid(f"{where}: no unlearning statement: {told}") from error


def chain_misfits(first: Statement, earlier: Mapping[str, Statement]) -> Sequence[str]:
    """Return where the chain from `first` back through `earlier` (digest -> statement) breaks."""
    left, at = dict(earlier), first
    while at.predicate.previous in left:
        at = left.pop(at.predicate.previous)
    if at.predicate.previous is not None:
        return [f"statement {at.predicate.previous[:12]}... is before it and was not given"]
    return [f"statement {digest[:12]}... is no part of the chain" for digest in left]
