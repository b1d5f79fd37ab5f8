"""A request with its largest input in shared memory, as steps that both transports take.

Memory that a server may still read is never written to: it is used again only after an answer. In
all other cases (cancelled, late, failed) it is dropped, and the server asked to let go of it later.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from bandstop.client.errors import (
    BackendError,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
)
from bandstop.client.regions import Region, Regions
from bandstop.client.wire import InferReply, InferRequest, Place

SMALLEST = 1 << 16  # bytes of a tensor; less goes as fast by the wire


class Share(NamedTuple):
    """Tell the server of a region."""

    region: Region


class Leave(NamedTuple):
    """Ask the server to let go of a region, which it does unless it reads it."""

    name: str


class Send(NamedTuple):
    """Send an inference; the result is an InferReply."""

    request: InferRequest


T = TypeVar("T")
Step: TypeAlias = Share | Leave | Send
Steps: TypeAlias = Generator[Step, InferReply | None, T]


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The end of a conversation, and what it came to."""

    value: T


def resume(
    steps: Steps[T], result: InferReply | None = None, error: BaseException | None = None
) -> Step | Done[T]:
    """Return what comes after the last step, which had `result` or failed with `error`."""
    try:
        return steps.send(result) if error is None else steps.throw(error)
    except StopIteration as done:
        return Done(done.value)


def conversation(request: InferRequest, regions: Regions) -> Steps[InferReply]:
    """Return the reply to `request`, its largest input in shared memory where that can be.

    Closed before its end, it drops the region that it uses.
    """
    size = max(len(tensor.data) for tensor in request.inputs)
    region = None
    if size >= SMALLEST and not regions.off:
        region = regions.take(size) or (yield from _new(regions, size))
    if region is None:
        return _reply((yield Send(request)))
    try:
        reply = _reply((yield Send(_placed(request, region))))
    except (InvalidInput, NotFound, BackendError) as error:
        if region.name not in str(error):
            regions.drop(region)
            raise
        regions.lose(region)
    except BaseException:
        regions.drop(region)
        raise
    else:
        regions.give(region)
        return reply
    return _reply((yield Send(request)))


def _new(regions: Regions, size: int) -> Steps[Region | None]:
    """Return a region that the server has been told of, None where that cannot be."""
    yield from leave(regions)
    region = regions.new(size)
    if region is None:
        return None
    region.told = True
    try:
        yield Share(region)
    except ClientError as error:
        regions.drop(region)
        if not isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
            regions.stop()  # it is on another host, another user's, or wants a credential
        return None
    except BaseException:
        regions.drop(region)
        raise
    finally:
        region.unlink()  # the server has it mapped: nothing is left behind, whoever crashes
    return region


def leave(regions: Regions) -> Steps[bool]:
    """Have the server let go of what was dropped; return whether to try again, for it still reads.

    It refuses while a request that it has uses the region.
    """
    names = regions.leavings()
    held: list[str] = []
    try:
        while names:
            name = names.pop()
            held.append(name)
            try:
                yield Leave(name)
            except Unavailable:
                return False
            except ClientError:
                continue
            held.pop()
        return bool(held)
    finally:
        regions.put_back(held + names)


def _placed(request: InferRequest, region: Region) -> InferRequest:
    """Return `request` with its largest input written to `region`."""
    sizes = [len(tensor.data) for tensor in request.inputs]
    largest = sizes.index(max(sizes))
    region.memory[: sizes[largest]] = request.inputs[largest].data
    place = Place(region.name, sizes[largest])
    inputs = list(request.inputs)
    inputs[largest] = inputs[largest]._replace(data=b"", place=place)
    return request._replace(inputs=tuple(inputs))


def _reply(result: InferReply | None) -> InferReply:
    assert result is not None
    return result
