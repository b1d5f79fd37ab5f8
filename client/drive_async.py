"""Drives steps over an asyncio transport: one conversation, or several at the same time."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from typing import TypeVar

from bandstop.client.aio import AsyncTransport
from bandstop.client.errors import DeadlineExceeded
from bandstop.client.exchange import (
    Ask,
    Decode,
    Description,
    Learn,
    Ready,
    Result,
    Steps,
    Together,
    Wait,
)
from bandstop.client.images import decode
from bandstop.client.limit import Limit

T = TypeVar("T")
# Batches of one call under way: enough to hide the way there and back, few enough to hold.
BATCHES = 4


class AsyncDriver:
    """Drives conversations about one model; for one event loop."""

    def __init__(
        self, transport: AsyncTransport, model: str, version: str, limit: Limit, in_flight: int
    ) -> None:
        """Talk to `transport` about `version` of `model`, each conversation within `limit`.

        Args:
            transport: that carries the calls.
            model: that they are about.
            version: of it, "" for the server's choice.
            limit: of the time.
            in_flight: inferences at the same time, over all conversations; others wait for a slot.
        """
        self._transport, self._limit = transport, limit
        self._model, self._version = model, version
        self._slots, self._batches = asyncio.Semaphore(in_flight), min(in_flight, BATCHES)

    async def run(self, steps: Steps[T]) -> T:
        """Return what `steps` come to."""
        return await self._run(steps, self._limit.until())

    async def window(
        self, parts: AsyncIterable[Steps[T]], until: float | None = None
    ) -> AsyncGenerator[T, None]:
        """Yield what each of `parts` comes to, in order, while the next ones are under way.

        Each has the whole deadline, unless they have to end `until` then. What is under way when
        the iterator is closed is cancelled.
        """
        source = aiter(parts)
        tasks: deque[asyncio.Task[T]] = deque()
        more = True
        try:
            while True:
                while more and len(tasks) < self._batches:
                    try:
                        steps = await anext(source)
                    except StopAsyncIteration:
                        more = False
                    else:
                        whole = self._run(steps, until or self._limit.until())
                        tasks.append(asyncio.create_task(whole))
                if not tasks:
                    return
                found = await tasks[0]
                tasks.popleft()
                yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, steps: Steps[T], until: float) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, Ask):  # nearly always
                        result = await self._ask(step, until)
                    else:
                        result = await self._perform(step, until)
                except Exception as error:  # the steps decide what to make of it
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            found: T = done.value
            return found

    async def _ask(self, step: Ask, until: float) -> Result:
        left = self._limit.left(until)
        try:
            if self._slots.locked():
                return await self._in_turn(step, until, left)
            async with self._slots:
                return await self._transport.infer(step.request, left)
        except (DeadlineExceeded, TimeoutError) as error:
            raise self._limit.late() from error

    async def _perform(
        self, step: Learn | Ready | Decode | Wait | Together, until: float
    ) -> Result:
        if isinstance(step, Decode):  # would keep the loop waiting
            return await asyncio.to_thread(decode, step.images, step.preprocess, step.first)
        if isinstance(step, Together):
            return [answer async for answer in self.window(_each(step.parts), until)]
        left = self._limit.left(until)
        if isinstance(step, Wait):
            if step.seconds >= left:
                raise self._limit.late()
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._send(step, until, left)
        except (DeadlineExceeded, TimeoutError) as error:
            raise self._limit.late() from error

    async def _send(self, step: Learn | Ready, until: float, left: float) -> Result:
        if isinstance(step, Ready):
            return await self._transport.ready(self._model, self._version, left)
        metadata = await self._transport.metadata(self._model, self._version, left)
        left = self._limit.left(until)
        return Description(metadata, await self._transport.config(self._model, self._version, left))

    async def _in_turn(self, step: Ask, until: float, left: float) -> Result:
        async with asyncio.timeout(left):
            await self._slots.acquire()
        try:
            return await self._transport.infer(step.request, self._limit.left(until))
        finally:
            self._slots.release()


async def _each(parts: Iterator[T]) -> AsyncIterator[T]:
    for part in parts:
        yield part
