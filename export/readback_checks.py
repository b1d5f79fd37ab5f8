"""Where what a server says differs from what was to be served; nothing is asked in here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.client.wire import DTYPES, InferReply, InferRequest, encode
from bandstop.export.canary import feeds
from bandstop.export.readback_calls import READY, State
from bandstop.export.record import MODEL, ReleaseRecord, TensorRecord

_ROUNDING = 1e-6  # of a logit: it is recorded with seven digits


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one question to a version.

    Attributes:
        misses: where the answer is not the recorded one.
        max_abs: largest difference of a logit; None where none is recorded, or none came.
    """

    misses: tuple[str, ...]
    max_abs: float | None = None


def state_misses(states: Mapping[int, State], served: Mapping[int, object]) -> Iterator[str]:
    """Tell which versions are not ready but should be, and the other way round."""
    for version in sorted(served):
        state = states.get(version, State("UNKNOWN", ""))
        if state.name != READY:
            why = f" ({state.reason[:200]})" if state.reason else ""
            yield f"version {version} is {state.name or 'not loaded'}{why}, expected READY"
    for version in sorted(states.keys() - served.keys()):
        if states[version].name == READY:
            yield f"version {version} is READY too"


def config_misses(
    config: triton.ModelConfig, served: Mapping[int, ReleaseRecord], versions: Sequence[int]
) -> Iterator[str]:
    """Tell where a served configuration names other releases than `versions` of `served`."""
    for version in versions:
        expected = served[version].files[MODEL].sha256
        got = config.parameters[f"digest.{version}"].string_value
        if got != expected:
            yield (
                f"the served config's digest of version {version} is "
                f"{got[:12] + '...' if got else 'missing'}, expected {expected[:12]}..."
            )


def policy_misses(
    config: triton.ModelConfig, versions: tuple[str, ...], served: Mapping[int, object]
) -> list[str]:
    """Tell where policy or metadata name other versions than `served`."""
    wanted = sorted(served)
    misses = []
    named = sorted(config.version_policy.specific.versions)
    if named != wanted:
        misses.append(f"the served version_policy names {named or 'none'}, expected {wanted}")
    if sorted(versions) != sorted(map(str, wanted)):
        misses.append(f"the metadata names versions {sorted(versions)}, expected {wanted}")
    return misses


def questions(model: str, version: str, record: ReleaseRecord, most: int) -> list[InferRequest]:
    """Return what to ask a version: the rows of its canary, or one row where it has none.

    Args:
        model: the model's name.
        version: "" leaves the choice to the server.
        record: of the release.
        most: rows in one request.
    """
    fed = feeds(record.inputs, _rows(record))
    outputs = tuple(tensor.name for tensor in record.outputs)
    types = {tensor.name: tensor.dtype for tensor in record.inputs}
    return [
        InferRequest(
            model,
            version,
            tuple(encode(name, rows[i : i + most], types[name]) for name, rows in fed.items()),
            outputs,
        )
        for i in range(0, len(_rows(record)), most)
    ]


def compare(replies: Sequence[InferReply], version: int, record: ReleaseRecord) -> Compared:
    """Return how the `replies` to `questions` compare with what `record` says of `version`."""
    others = sorted({reply.version for reply in replies} - {str(version)})
    if others:
        return Compared((f"answered by version {', '.join(others)}, expected {version}",))
    rows = _rows(record)
    found: dict[str, NDArray[np.generic]] = {}
    for tensor in record.outputs:
        parts = [_array(reply, tensor) for reply in replies]
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts) or sum(map(len, whole)) != len(rows):
            return Compared((f"output {tensor.name} is missing or of another type or shape",))
        found[tensor.name] = np.concatenate(whole)
    logits, *echo = found.values()
    misses: list[str] = []
    for asked, applied in zip(rows, echo[0].tolist() if echo else [], strict=False):
        if asked != applied:
            misses.append(f"asked for forget_class {asked} it applied {applied}")
            break
    wrong, largest = _difference(np.asarray(logits, np.float64), record)
    return Compared((*misses, *wrong), largest)


def _rows(record: ReleaseRecord) -> list[list[int]]:
    if record.canary is not None:
        return record.canary.forget
    return [[0] * record.forget.slots]


def _array(reply: InferReply, wanted: TensorRecord) -> NDArray[np.generic] | None:
    """Return an output (rows, ...), or None where it is not there or not what it should be."""
    kind = np.dtype(DTYPES[wanted.dtype])
    for tensor in reply.outputs:
        fits = (tensor.datatype, tensor.shape[1:]) == (wanted.dtype, tuple(wanted.shape))
        size = math.prod(tensor.shape) * kind.itemsize
        if tensor.name == wanted.name and fits and len(tensor.data) == size:
            return np.frombuffer(tensor.data, kind).reshape(tensor.shape)
    return None


def _difference(
    logits: NDArray[np.float64], record: ReleaseRecord
) -> tuple[list[str], float | None]:
    """Return what is wrong with `logits` (rows, classes), and their largest difference."""
    if not np.isfinite(logits).all():
        return ["a logit is no finite number"], None
    if record.canary is None:
        return [], None
    expected = np.array(record.canary.logits)
    if expected.shape != logits.shape:
        return [f"logits {logits.shape}, the release recorded {expected.shape}"], None
    gap = np.abs(logits - expected)
    largest = float(gap.max())
    tolerance = record.canary.tolerance
    over = gap > tolerance + _ROUNDING * np.abs(expected)
    if not over.any():
        return [], largest
    row = int(over.any(axis=1).argmax())
    asked = f" (forget_class {record.canary.forget[row]})" if record.canary.forget[row] else ""
    rows = int(over.any(axis=1).sum())
    return [
        f"canary: {rows} of {len(over)} rows are not as recorded, the first is row {row}{asked}; "
        f"a logit differs by {largest:.3g}, expected <= {tolerance:g}"
    ], largest
