"""The client for asyncio: the same steps as the blocking one, driven in an event loop."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from contextlib import aclosing
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from bandstop.client.aio import AioTransport, AsyncTransport
from bandstop.client.channel import Tls
from bandstop.client.drive_async import AsyncDriver
from bandstop.client.errors import ClientError, InvalidImage
from bandstop.client.exchange import Steps
from bandstop.client.forget import Entry, Forget
from bandstop.client.headers import Headers
from bandstop.client.images import ImageLike, Images, as_list, each
from bandstop.client.limit import Limit
from bandstop.client.portions import Portions, as_async, cut_async
from bandstop.client.predictions import Prediction
from bandstop.client.questions import Call, Outcome, Questions
from bandstop.client.served import ServedModel
from bandstop.client.settings import check_settings

T = TypeVar("T")


class AsyncClient:
    """Classifies images with one served model from one event loop; what Client does, awaited.

    A call that is cancelled is cancelled at the server too, and its slot is free at once.

        async with AsyncClient("127.0.0.1:8001", "digits") as client:
            found = await client.classify("seven.png", forget="3", top_k=1)
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        version: str = "",
        deadline: float = 10.0,
        always_forget: Entry = None,
        in_flight: int = 32,
        tls: Tls | None = None,
        headers: Headers = (),
        shared_memory: bool = False,
        transport: AsyncTransport | None = None,
    ) -> None:
        """Prepare to ask `model`; nothing is sent yet.

        Args:
            url: as for Client.
            model: as for Client.
            version: as for Client.
            deadline: as for Client; the wait for a slot counts.
            always_forget: as for Client.
            in_flight: requests under way at the same time, over all calls; others wait.
            tls: as for Client.
            headers: as for Client.
            shared_memory: as for Client.
            transport: used in place of gRPC, and closed with the client.

        Raises:
            InvalidInput: an argument out of its range.
        """
        check_settings(model, version, deadline, in_flight)
        if transport is None and shared_memory:
            from bandstop.client.shm import AioShmTransport  # few want it

            transport = AioShmTransport(url, tls, headers, in_flight)
        self._transport = AioTransport(url, tls, headers) if transport is None else transport
        self._questions = Questions(model, version, always_forget)
        limit = Limit(deadline, url, model)
        self._driver = AsyncDriver(self._transport, model, version, limit, in_flight)
        self._url, self._process = url, os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; later calls fail. In a forked process nothing happens."""
        if os.getpid() == self._process:
            await self._transport.close()

    @property
    def classes(self) -> Awaitable[tuple[str, ...]]:
        """The class names by index, to be awaited; the server is asked only once."""
        return self._run(self._questions.classes())

    async def metadata(self) -> ServedModel:
        """Return what the server says of the model now."""
        return await self._run(self._questions.learn())

    async def ready(self) -> bool:
        """Return whether the server says that the model can be asked; False if nobody answers."""
        return await self._run(self._questions.ready())

    async def classify(
        self, images: Images, forget: Forget = None, top_k: SupportsIndex | None = None
    ) -> list[Prediction]:
        """Return a prediction for each image, in order; arguments and errors as for Client."""
        return await self._run(self._questions.classify(Call(as_list(images), forget, top_k)))

    async def logits(self, images: Images, forget: Forget = None) -> NDArray[np.float32]:
        """Return the logits (n, classes) of n images; arguments and errors as for Client."""
        return await self._run(self._questions.logits(Call(as_list(images), forget)))

    async def stream(
        self,
        images: "Images | AsyncIterable[ImageLike]",
        forget: Forget = None,
        top_k: SupportsIndex | None = None,
    ) -> AsyncGenerator[Prediction, None]:
        """Yield a prediction for each image, in order, as Client does; images may come async."""
        async with aclosing(self.outcomes(images, forget, top_k)) as outcomes:
            async for outcome in outcomes:
                if isinstance(outcome, InvalidImage):
                    raise outcome
                yield outcome

    async def outcomes(
        self,
        images: "Images | AsyncIterable[ImageLike]",
        forget: Forget = None,
        top_k: SupportsIndex | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Yield for each image a prediction, or the error that says why it cannot be used."""
        portions = Portions(forget, top_k)
        source = images if isinstance(images, AsyncIterable) else as_async(each(images))
        size = await self._run(self._questions.portion())
        parts = (self._questions.outcomes(call) async for call in cut_async(source, size, portions))
        async with aclosing(self._driver.window(parts)) as window:
            async for found in window:
                for outcome in found:
                    yield outcome

    async def _run(self, steps: Steps[T]) -> T:
        loop = asyncio.get_running_loop()
        if os.getpid() != self._process:
            raise ClientError(
                f"{self._url}: this client was made before a fork; make one in each process"
            )
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientError(
                f"{self._url}: this client belongs to another event loop; make one in each"
            )
        return await self._driver.run(steps)
