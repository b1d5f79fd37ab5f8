"""What a load has seen, and its summary."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bandstop.client import ClientError, Prediction

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(slots=True)
class Tally:
    """What was seen so far.

    Attributes:
        latencies: seconds of each request that was answered.
        lags: seconds by which each request of an open loop was sent too late.
        images: that were answered.
        failures: how often each kind of error came.
        examples: the first message of each kind.
        forgotten: images by what was forgotten for them, as the answers say.
        versions: images by the version that answered.
        seconds: from the start to the last answer.
    """

    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    lags: "array[float]" = field(default_factory=lambda: array("d"))
    images: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    forgotten: Counter[tuple[int, ...]] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def answered(self, found: Sequence[Prediction], latency: float) -> None:
        """Count a request that was answered after `latency` seconds."""
        self.latencies.append(latency)
        self.images += len(found)
        for one in found:
            self.forgotten[one.applied] += 1
            self.versions[one.version] += 1

    def failed(self, error: ClientError) -> None:
        """Count a request that was not answered."""
        kind = type(error).__name__
        self.failures[kind] += 1
        self.examples.setdefault(kind, " ".join(str(error).split())[:300])


def summary(tally: Tally, labels: Sequence[str]) -> dict[str, object]:
    """Return the figures; a class goes by its name, by its index where it has none of its own."""
    answered, seconds = len(tally.latencies), tally.seconds
    return {
        "seconds": round(seconds, 3),
        "answered": answered,
        "failed": tally.failures.total(),
        "failures": {
            kind: {"count": count, "example": tally.examples[kind]}
            for kind, count in tally.failures.most_common()
        },
        "requests_per_second": round(answered / seconds, 2) if seconds else None,
        "images_per_second": round(tally.images / seconds, 2) if seconds else None,
        "latency_ms": quantiles_ms(tally.latencies),
        "lag_ms": quantiles_ms(tally.lags) if tally.lags else None,
        "forgotten": {
            _classes(key, labels): count for key, count in sorted(tally.forgotten.items())
        },
        "versions": dict(sorted(tally.versions.items(), key=lambda pair: int(pair[0]))),
    }


def quantiles_ms(seconds: Sequence[float]) -> Mapping[str, float | None]:
    """Return quantiles in ms: the smallest value that so large a part does not exceed."""
    if not len(seconds):
        return dict.fromkeys(QUANTILES)
    found = np.quantile(np.asarray(seconds), list(QUANTILES.values()), method="inverted_cdf")
    return {name: round(1e3 * float(v), 3) for name, v in zip(QUANTILES, found, strict=True)}


def _classes(applied: tuple[int, ...], labels: Sequence[str]) -> str:
    return "+".join(_class(index, labels) for index in applied) or "baked"


def _class(index: int, labels: Sequence[str]) -> str:
    if index >= len(labels):
        return "nothing"
    name = labels[index]
    return name if name and labels.count(name) == 1 else f"#{index}"
