"""Whatever bytes are an ONNX file, the rules tell what is wrong with it or it may be served."""

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no hints

from bandstop.export.record import ReleaseRecord
from bandstop.export.rules import violations
from tests.releases import record
from tests.whole_releases import graph

RECORDS: dict[str, ReleaseRecord] = {mode: record(mode=mode) for mode in ("baked", "gated")}


def seeds() -> list[bytes]:
    return [graph(mode).SerializeToString() for mode in RECORDS]


def check(data: bytes) -> bool:
    """Return whether `data` is a graph that may be served, of either kind."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        return False
    found = [violations(model, r.inputs, r.outputs) for r in RECORDS.values()]
    for told in found:
        assert all(line.isprintable() and len(line) < 4000 for line in told), told
    return [] in found
