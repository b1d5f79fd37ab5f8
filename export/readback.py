"""What a running Triton has to do for a change of its repository, and the proof of what it serves.

`RepositoryModelLoad` may succeed and leave the old weights in place (Triton goes by the times of
files), so a change counts only when the server shows the new ones: which versions are ready, which
digests its configuration carries, and that each version answers the canary as recorded.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from bandstop.client.channel import Tls
from bandstop.client.errors import ClientError, InvalidInput, NotFound
from bandstop.client.wire import InferRequest
from bandstop.export.errors import NotServed
from bandstop.export.readback_calls import (
    READY,
    Calls,
    Headers,
    Patience,
    State,
    explained,
)
from bandstop.export.readback_proof import Proof, proof
from bandstop.export.record import ReleaseRecord

_NOBODY: Final = "bandstop.no-such-model"  # no model that we publish can have a dot in its name

log = logging.getLogger(__name__)


class TritonServer:
    """A Triton that serves a repository; implements `bandstop.export.serving.Server`."""

    def __init__(self, calls: Calls, patience: Patience) -> None:
        """Keep what reaches the server; use `server_at` instead."""
        self._calls, self._patience = calls, patience

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
        self._calls.close()

    def reach(self) -> None:
        """Refuse unless the server lives and lets us do all that a change asks of it.

        A model that does not exist is unloaded, and asked: that is refused in another way where
        the server takes no such calls from us, and changes nothing where it does.

        Raises:
            NotServed: no answer, models are not loaded by request, or a token is missing.
        """
        nobody = InferRequest(_NOBODY, "", (), ())
        with self._told():
            if not self._calls.live():
                raise NotServed(f"{self._calls.url}: the server says that it is not live")
            self._calls.states(_NOBODY)
            with _unknown():
                self._calls.unload(_NOBODY)
            with _unknown():
                self._calls.config(_NOBODY, "")
            with _unknown():
                self._calls.versions(_NOBODY)
            with _unknown():
                self._calls.infer(nobody)

    def load(self, model: str) -> None:
        """Make the server take up what the repository says of `model`; returns when it is done.

        Raises:
            NotServed: with the server's reason; it goes on with what it served before.
        """
        with self._told():
            self._calls.load(model)

    def unload(self, model: str) -> None:
        """Make the server let go of `model`; returns when no version of it answers any more.

        Raises:
            NotServed: the server does not, or not in time.
        """
        with self._told():
            self._calls.unload(model)
            until = time.monotonic() + self._patience.settle
            while held := _held(self._calls.states(model)):
                if time.monotonic() > until:
                    raise NotServed(
                        f"{self._calls.url}: model {model}: versions {held} are still held "
                        f"{self._patience.settle:g} s after the server was told to unload them"
                    )
                time.sleep(self._patience.pause)

    def prove(self, model: str, served: Mapping[int, ReleaseRecord]) -> None:
        """Refuse unless exactly the versions `served` are ready, and answer as recorded.

        Raises:
            NotServed: naming every miss.
        """
        seen = self.proof(model, served)
        log.info("model %s: versions %s proved in %.2f s", model, seen.versions, seen.seconds)

    def proof(self, model: str, served: Mapping[int, ReleaseRecord]) -> Proof:
        """Return what was seen where `prove` refuses nothing; raises NotServed as it does."""
        return proof(self._calls, self._patience, model, served)

    def prove_images(self, model: str, version: int, record: ReleaseRecord, top_k: int) -> None:
        """Refuse unless the ensemble of `model` answers with `version`; raises NotServed."""
        # Pillow is needed by those alone who have an ensemble
        from bandstop.export.ensemble_proof import prove_images

        prove_images(self._calls, self._patience, model, version, record, top_k)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise NotServed(explained(error, self._calls.headers)) from error


def server_at(
    url: str, tls: Tls | None = None, headers: Headers = (), patience: Patience | None = None
) -> TritonServer:
    """Return the server at `url`; leaving its `with` block lets go of the connection.

    Args:
        url: of its gRPC port, see `bandstop.client.channel.open_channel`.
        tls: how it is known.
        headers: sent with every call, such as the token of its restricted protocols.
        patience: how long is waited.

    Raises:
        InvalidInput: `url` is no address, or a file of `tls` cannot be used.
    """
    patience = patience or Patience()
    return TritonServer(Calls(url, tls, headers, patience), patience)


@contextmanager
def _unknown() -> Iterator[None]:
    """Let a refusal pass that says that there is no such model."""
    try:
        yield
    except (NotFound, InvalidInput):
        return


def _held(states: Mapping[int, State]) -> list[int]:
    return sorted(v for v, state in states.items() if state.name in (READY, "UNLOADING", "LOADING"))
