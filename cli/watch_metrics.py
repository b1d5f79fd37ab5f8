"""Triton's metrics port: the few numbers in it that gRPC does not tell."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

PENDING = "nv_inference_pending_request_count"
# counted by our backend `onnxruntime`; another one does not tell
FORGOTTEN = "bandstop_images_by_forget_class"
# Prometheus' text format: name{label="value",...} number
_SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)(?: \d+)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the port tells, by (model, version).

    Attributes:
        pending: requests that wait for the model at this moment.
        forgotten: images by what was forgotten for them: an index, or `refused`.
    """

    pending: Mapping[tuple[str, str], int]
    forgotten: Mapping[tuple[str, str], Mapping[str, int]]


def read_metrics(text: str) -> Metrics:
    """Return the metrics in `text`; raises ValueError where a number is none."""
    pending: dict[tuple[str, str], int] = {}
    forgotten: dict[tuple[str, str], dict[str, int]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample[1] not in (PENDING, FORGOTTEN):
            continue
        labels = dict(_LABEL.findall(sample[2]))
        key, value = (labels.get("model", ""), labels.get("version", "")), int(float(sample[3]))
        if sample[1] == PENDING:
            pending[key] = value
        else:
            forgotten.setdefault(key, {})[labels.get("forget_class", "")] = value
    return Metrics(pending, forgotten)
