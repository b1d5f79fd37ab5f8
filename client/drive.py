"""Drives steps over a blocking transport: one conversation, or several at the same time."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from bandstop.client.errors import DeadlineExceeded
from bandstop.client.exchange import (
    Ask,
    Decode,
    Description,
    Learn,
    Ready,
    Result,
    Step,
    Steps,
    Together,
    Wait,
)
from bandstop.client.images import decode
from bandstop.client.limit import Limit
from bandstop.client.transport import Pending, Transport

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    """A conversation among several: it waits for an inference, for a time, or is over."""

    steps: Steps[T]
    until: float
    pending: Pending | None = None
    wake: float | None = None
    done: bool = False
    value: T | None = None
    error: Exception | None = None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        found: T = self.value  # type: ignore[assignment]  # it is set when `done`
        return found


class Driver:
    """Drives conversations about one model; safe for threads."""

    def __init__(self, transport: Transport, model: str, version: str, limit: Limit) -> None:
        """Talk to `transport` about `version` of `model`, each conversation within `limit`."""
        self._transport, self._limit = transport, limit
        self._model, self._version = model, version

    def run(self, steps: Steps[T], in_flight: int) -> T:
        """Return what `steps` come to, with at most `in_flight` inferences at the same time."""
        return self._run(steps, self._limit.until(), in_flight)

    def window(self, parts: Iterable[Steps[T]], in_flight: int) -> Iterator[T]:
        """Yield what each of `parts` comes to, in order, while the next ones are under way.

        No more than `in_flight` are begun before the first of them is taken; each has the whole
        deadline, and the time that the caller takes does not count.
        """
        return self._window(iter(parts), None, in_flight)

    def _run(self, steps: Steps[T], until: float, in_flight: int) -> T:
        try:
            step = next(steps)
            while True:
                try:
                    result = self._perform(step, until, in_flight)
                except Exception as error:  # the steps decide what to make of it
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            found: T = done.value
            return found

    def _perform(self, step: Step, until: float, in_flight: int) -> Result:
        if isinstance(step, Decode):
            return decode(step.images, step.preprocess, step.first)
        if isinstance(step, Together):
            return list(self._window(step.parts, until, in_flight))
        left = self._limit.left(until)
        if isinstance(step, Wait):
            if step.seconds >= left:
                raise self._limit.late()
            time.sleep(step.seconds)
            return None
        try:
            return self._send(step, until, left)
        except DeadlineExceeded as error:
            raise self._limit.late() from error

    def _send(self, step: Ask | Learn | Ready, until: float, left: float) -> Result:
        if isinstance(step, Ask):
            return self._transport.infer(step.request, left)
        if isinstance(step, Ready):
            return self._transport.ready(self._model, self._version, left)
        metadata = self._transport.metadata(self._model, self._version, left)
        left = self._limit.left(until)
        return Description(metadata, self._transport.config(self._model, self._version, left))

    def _window(
        self, parts: Iterator[Steps[T]], until: float | None, in_flight: int
    ) -> Iterator[T]:
        flights: deque[_Flight[T]] = deque()
        landed: SimpleQueue[_Flight[T]] = SimpleQueue()
        try:
            while True:
                for steps in islice(parts, in_flight - len(flights)):
                    flight = _Flight(steps, until or self._limit.until())
                    flights.append(flight)
                    self._advance(flight, landed)
                if not flights:
                    return
                while not flights[0].done:
                    self._next(flights, landed)
                found = flights.popleft().result()
                given = time.monotonic()
                yield found
                for flight in flights:
                    flight.until += time.monotonic() - given
        finally:
            for flight in flights:
                if flight.pending is not None:
                    flight.pending.cancel()
                flight.steps.close()

    def _next(self, flights: deque[_Flight[T]], landed: SimpleQueue[_Flight[T]]) -> None:
        """Wait until one of `flights` can go on, and let it."""
        wakes = [flight for flight in flights if flight.wake is not None]
        first = min(wakes, key=lambda flight: flight.wake or 0.0, default=None)
        try:
            if first is None or first.wake is None:
                flight = landed.get()
            else:
                flight = landed.get(timeout=max(0.0, first.wake - time.monotonic()))
        except Empty:
            assert first is not None
            flight = first
        self._advance(flight, landed)

    def _advance(self, flight: _Flight[T], landed: SimpleQueue[_Flight[T]]) -> None:
        """Go on with `flight` to where it has to wait, or to its end."""
        result: Result = None
        error: Exception | None = None
        if flight.pending is not None:
            pending, flight.pending = flight.pending, None
            try:
                result = pending.result()
            except DeadlineExceeded:
                error = self._limit.late()
            except Exception as failure:  # the steps decide what to make of it
                error = failure
        flight.wake = None
        try:
            while True:
                step = flight.steps.send(result) if error is None else flight.steps.throw(error)
                result, error = None, None
                try:
                    left = self._limit.left(flight.until)
                    if isinstance(step, Ask):
                        flight.pending = self._transport.start(step.request, left)
                        flight.pending.when_done(lambda: landed.put(flight))
                        return
                    if isinstance(step, Wait):
                        if step.seconds >= left:
                            raise self._limit.late()
                        flight.wake = time.monotonic() + step.seconds
                        return
                    result = self._perform(step, flight.until, 1)
                except Exception as failure:
                    error = failure
        except StopIteration as done:
            flight.value, flight.done = done.value, True
        except Exception as failure:
            flight.error, flight.done = failure, True
