"""What a running server counts, looked at now."""

import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bandstop.cli.client_options import Connection
from bandstop.cli.watch_metrics import Metrics, read_metrics
from bandstop.client import ClientError, ProtocolError, Restricted, Unavailable
from bandstop.client.channel import open_channel
from bandstop.client.headers import sendable
from bandstop.client.status import failure

LONGEST_METRICS = 1 << 24  # bytes
Key = tuple[str, str]  # model, version


@dataclass(frozen=True, slots=True)
class Counts:
    """What Triton counts for one version since it was loaded; times in seconds, summed.

    Attributes:
        requests: that were answered.
        failed: requests that were not.
        images: that ran; `model_warmup` and the watchdog's probes are among them.
        runs: of the model, each with a batch of images.
        time: of answered requests in the server, from their arrival to their end.
        failed_time: the same of those that failed.
        queue: of it, waiting for the model.
        compute: of it, in the model.
    """

    requests: int
    failed: int
    images: int
    runs: int
    time: float
    failed_time: float
    queue: float
    compute: float


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment.

    Attributes:
        at: when, as time.monotonic() counts.
        counts: of each version that is ready.
        states: of each version, and why, where the server tells; else empty.
        metrics: of the metrics port, where one was named.
    """

    at: float
    counts: Mapping[Key, Counts]
    states: Mapping[Key, str] = field(default_factory=dict)
    metrics: Metrics | None = None


class Watched:
    """A server that is looked at again and again."""

    def __init__(self, to: Connection, metrics: str | None, timeout: float) -> None:
        """Prepare for the server; each call to it may take `timeout` seconds.

        Raises:
            InvalidInput: no address, or files of TLS that cannot be used.
        """
        self._url, self._metrics, self._timeout = to.url, metrics, timeout
        self._headers = sendable(to.headers)
        self._channel = open_channel(to.url, to.tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the connection."""
        self._channel.close()

    def look(self) -> Look:
        """Return what the server says now.

        Raises:
            ClientError: it does not answer, or not to us.
        """
        reply = self._call("ModelStatistics", service_pb2.ModelStatisticsRequest())
        at = time.monotonic()
        counts = {(one.name, one.version): counts_of(one) for one in reply.model_stats}
        metrics = None if self._metrics is None else fetch(self._metrics, self._timeout)
        return Look(at, counts, self._states(), metrics)

    def _states(self) -> dict[Key, str]:
        """Return the state of each version; nothing where the server wants a token for that."""
        try:
            reply = self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest())
        except Restricted:
            return {}
        return {
            (one.name, one.version): " ".join(f"{one.state} {one.reason}".split())
            for one in reply.models
        }

    def _call(self, name: str, request: object) -> "service_pb2.ModelStatisticsResponse":
        try:
            call = getattr(self._stub, name)
            return call(request, timeout=self._timeout, metadata=self._headers)
        except (grpc.RpcError, ValueError) as error:
            raise failure(error, self._url) from error


def counts_of(one: "service_pb2.ModelStatistics") -> Counts:
    """Return the counts in Triton's message."""
    stats = one.inference_stats
    return Counts(
        requests=stats.success.count,
        failed=stats.fail.count,
        images=one.inference_count,
        runs=one.execution_count,
        time=stats.success.ns / 1e9,
        failed_time=stats.fail.ns / 1e9,
        queue=stats.queue.ns / 1e9,
        compute=stats.compute_infer.ns / 1e9,
    )


def fetch(address: str, timeout: float) -> Metrics:
    """Return what the metrics port at `address`, host:port or an http URL, tells.

    Raises:
        Unavailable: nobody answers there.
        ProtocolError: it is no metrics port.
    """
    url = address if address.startswith(("http://", "https://")) else f"http://{address}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=timeout) as reply:
            text = reply.read(LONGEST_METRICS).decode()
        return read_metrics(text)
    except ClientError:
        raise
    except OSError as error:
        raise Unavailable(f"metrics {url}: no answer: {error}") from error
    except Exception as error:  # whatever answers there, it is not Triton
        raise ProtocolError(f"metrics {url}: not Triton's metrics: {error}") from error
