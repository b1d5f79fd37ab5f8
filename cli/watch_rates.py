"""Two looks at a server, told as rates and means."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bandstop.cli.watch_look import Counts, Look

READY = "READY"


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between two looks; None is what cannot be told.

    Attributes:
        requests_per_second: answered.
        images_per_second: that ran.
        failed_per_second: requests.
        latency_ms: mean of a request in the server.
        queue_ms: mean of its waiting.
        compute_ms: mean of the model's run that it was in.
        batch: mean images of a run.
        in_flight: mean number of requests in the server, by those that ended (Little's law).
    """

    requests_per_second: float | None = None
    images_per_second: float | None = None
    failed_per_second: float | None = None
    latency_ms: float | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    batch: float | None = None
    in_flight: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a model; None is what cannot be told.

    Attributes:
        model: its name.
        version: its number.
        state: READY, or what the server says instead.
        requests: answered since it was loaded.
        failed: requests that failed since it was loaded.
        pending: requests that wait at this moment, by the metrics port.
        forgotten: images since it was loaded by what was forgotten, by the metrics port.
        rates: since the last look.
    """

    model: str
    version: str
    state: str
    requests: int | None = None
    failed: int | None = None
    pending: int | None = None
    forgotten: Mapping[str, int] | None = None
    rates: Rates = Rates()


def rows(now: Look, before: Look | None) -> list[Row]:
    """Return a row for each version, by model and number."""
    keys = sorted({*now.counts, *now.states}, key=lambda key: (key[0], len(key[1]), key[1]))
    return [_row(key, now, before) for key in keys]


def record(row: Row) -> dict[str, object]:
    """Return what --json prints of `row`."""
    flat = asdict(row)
    flat |= flat.pop("rates")
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in flat.items()}


def _row(key: tuple[str, str], now: Look, before: Look | None) -> Row:
    counts, metrics = now.counts.get(key), now.metrics
    own: dict[str, int] | None = None
    if metrics is not None and key in metrics.forgotten:
        own = dict(sorted(metrics.forgotten[key].items(), key=lambda pair: (len(pair[0]), pair[0])))
    return Row(
        *key,
        state=now.states.get(key, READY),
        requests=counts.requests if counts else None,
        failed=counts.failed if counts else None,
        pending=metrics.pending.get(key) if metrics else None,
        forgotten=own,
        rates=_rates(key, counts, now, before),
    )


def _rates(key: tuple[str, str], counts: Counts | None, now: Look, before: Look | None) -> Rates:
    """Return what happened between the looks; nothing where the counts began anew meanwhile."""
    if counts is None or before is None or now.at <= before.at:
        return Rates()
    # a version that was not there has been loaded since: all that it counted is new
    last = before.counts.get(key) or Counts(0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
    if any(a < b for a, b in zip(asdict(counts).values(), asdict(last).values(), strict=True)):
        return Rates()
    seconds = now.at - before.at
    requests = counts.requests - last.requests
    runs, images = counts.runs - last.runs, counts.images - last.images
    spent = counts.time - last.time + counts.failed_time - last.failed_time
    return Rates(
        requests_per_second=requests / seconds,
        images_per_second=images / seconds,
        failed_per_second=(counts.failed - last.failed) / seconds,
        latency_ms=_mean_ms(counts.time - last.time, requests),
        queue_ms=_mean_ms(counts.queue - last.queue, requests),
        compute_ms=_mean_ms(counts.compute - last.compute, requests),
        batch=images / runs if runs else None,
        in_flight=spent / seconds,
    )


def _mean_ms(seconds: float, count: int) -> float | None:
    return 1e3 * seconds / count if count else None
