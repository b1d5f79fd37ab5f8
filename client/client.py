"""The blocking client."""

import os
from collections.abc import Generator
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from bandstop.client.channel import Tls
from bandstop.client.drive import Driver
from bandstop.client.errors import ClientError, InvalidImage
from bandstop.client.exchange import Steps
from bandstop.client.forget import Entry, Forget
from bandstop.client.headers import Headers
from bandstop.client.images import Images, as_list, each
from bandstop.client.limit import Limit
from bandstop.client.portions import Portions, cut
from bandstop.client.predictions import Prediction
from bandstop.client.questions import Call, Outcome, Questions
from bandstop.client.served import ServedModel
from bandstop.client.settings import check_settings
from bandstop.client.transport import GrpcTransport, Transport

T = TypeVar("T")


class Client:
    """Classifies images with one served model; safe for threads, to be made after a fork.

    The model's classes, image size and batch size are learned from the server at the first call.
    Every call ends within its deadline, retries included.

        with Client("127.0.0.1:8001", "digits") as client:
            best = client.classify("seven.png", forget="3", top_k=1)[0].names[0]
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str = "",
        deadline: float = 10.0,
        always_forget: Entry = None,
        in_flight: int = 4,
        tls: Tls | None = None,
        headers: Headers = (),
        shared_memory: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """Prepare to ask `model`; nothing is sent yet.

        Args:
            url: of the server's gRPC port: host:port, grpc://host:port, grpcs://host:port (TLS),
                unix:/path, or of several servers: dns:///host:port, ipv4:address:port,...
            model: as the server names it.
            version: a number to stay with; "" follows the server.
            deadline: seconds for each call, however many images it has; of a stream, for each
                batch.
            always_forget: classes of a gated model that every call forgets beside those that it
                names itself; no call can take them back. Needs a slot for each.
            in_flight: batches of one call that are sent before the first is answered.
            tls: authorities, certificate and key; None with grpcs:// trusts the system's.
            headers: sent with every request, such as a token: a mapping, or a function that
                returns one, asked for each request.
            shared_memory: hand large batches to a server of the same host in shared memory; where
                it does not take them so, they go by the wire.
            transport: used in place of gRPC, and closed with the client.

        Raises:
            InvalidInput: an argument out of its range.
        """
        check_settings(model, version, deadline, in_flight)
        if transport is None and shared_memory:
            from bandstop.client.shm import ShmTransport  # few want it

            transport = ShmTransport(url, tls, headers, in_flight)
        self._transport = GrpcTransport(url, tls, headers) if transport is None else transport
        self._questions = Questions(model, version, always_forget)
        self._driver = Driver(self._transport, model, version, Limit(deadline, url, model))
        self._in_flight, self._url, self._process = in_flight, url, os.getpid()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Let go of the connection; later calls fail. In a forked process nothing happens."""
        if os.getpid() == self._process:
            self._transport.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by index, of the version asked; the server is asked only once."""
        return self._run(self._questions.classes())

    def metadata(self) -> ServedModel:
        """Return what the server says of the model now."""
        return self._run(self._questions.learn())

    def ready(self) -> bool:
        """Return whether the server says that the model can be asked; False if nobody answers."""
        return self._run(self._questions.ready())

    def classify(
        self, images: Images, forget: Forget = None, top_k: SupportsIndex | None = None
    ) -> list[Prediction]:
        """Return a prediction for each image, in order; a list even for a single image.

        All are answered by versions that know the same classes, and all are held in memory:
        `stream` is for very many.

        Args:
            images: one or several: a path, encoded bytes, a PIL image, a uint8 array (h, w),
                (h, w, c) or (c, h, w), a float32 array of the model's size in [0, 1], (c, h, w)
                or (h, w, c), or an array of several of these.
            forget: for a gated model, what to forget: one class for all images (a name or an
                index) or the name of a set of the release; or a list of one entry an image; a
                tuple or set names several classes of a model that has the slots. None asks for
                nothing more than `always_forget`, which only some models allow to be nothing.
            top_k: how many classes to return, the most probable first; None for all.

        Raises:
            ClientError: as its tree says; no prediction is returned that failed a check.
        """
        return self._run(self._questions.classify(Call(as_list(images), forget, top_k)))

    def logits(self, images: Images, forget: Forget = None) -> NDArray[np.float32]:
        """Return the logits (n, classes) of n images; arguments and errors as for classify."""
        return self._run(self._questions.logits(Call(as_list(images), forget)))

    def stream(
        self, images: Images, forget: Forget = None, top_k: SupportsIndex | None = None
    ) -> Generator[Prediction, None, None]:
        """Yield a prediction for each image, in order; only a few batches are held in memory.

        Images are taken from an iterable of any length as they are needed. Each batch is read by
        the labels of the version that answered it. Arguments as for classify.

        Raises:
            InvalidImage: an image cannot be used; those before it have been answered.
            ClientError: as its tree says.
        """
        for outcome in self.outcomes(images, forget, top_k):
            if isinstance(outcome, InvalidImage):
                raise outcome
            yield outcome

    def outcomes(
        self, images: Images, forget: Forget = None, top_k: SupportsIndex | None = None
    ) -> Generator[Outcome, None, None]:
        """Yield for each image a prediction, or the error that says why it cannot be used.

        Otherwise as `stream`.
        """
        portions, source = Portions(forget, top_k), each(images)
        size = self._run(self._questions.portion())
        parts = map(self._questions.outcomes, cut(source, size, portions))
        for found in self._driver.window(parts, self._in_flight):
            yield from found

    def _run(self, steps: Steps[T]) -> T:
        if os.getpid() != self._process:
            raise ClientError(
                f"{self._url}: this client was made before a fork; make one in each process"
            )
        return self._driver.run(steps, self._in_flight)
