"""A call as a sequence of steps, the same for every transport, blocking or not.

A generator yields what is to be done next (`Learn`, `Ask`, `Wait` ...) and is sent the result,
or thrown the error. It decides; whoever drives it does the input, the output and the sleeping.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, TypeAlias, TypeVar

from bandstop.client.errors import ClientError, DeadlineExceeded, InvalidInput, ProtocolError
from bandstop.client.images import Decoded, ImageLike
from bandstop.client.replies import Answer, check_source, read_reply
from bandstop.client.retry import RetryBudget, pause
from bandstop.client.served import Preprocess, ServedModel
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata


@dataclass(frozen=True, slots=True)
class Learn:
    """Ask the server to describe the model; the result is a Description."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Ask the server whether the model can be asked; the result is a bool."""


class Decode(NamedTuple):
    """Read and decode images, which may take a while; the result is Decoded."""

    images: Sequence[ImageLike]
    preprocess: Preprocess
    first: int  # position of the first among all that the caller gave


class Ask(NamedTuple):
    """Send one inference; the result is an InferReply."""

    request: InferRequest


class Wait(NamedTuple):
    """Do nothing for so many seconds; the result is None."""

    seconds: float


class Together(NamedTuple):
    """Go through several conversations at the same time; the result is the list of theirs."""

    parts: "Iterator[Steps[Answer]]"


class Description(NamedTuple):
    """What a server says of a model."""

    metadata: Metadata
    config: Config


Step: TypeAlias = Learn | Ready | Decode | Ask | Wait | Together
Result: TypeAlias = Description | Decoded | InferReply | bool | list[Answer] | None
T = TypeVar("T")
Steps: TypeAlias = Generator[Step, Result, T]


class OutdatedError(Exception):
    """What we know of the model may no longer be true; if it is, then `error` is the failure."""

    def __init__(self, error: ClientError) -> None:
        """Keep `error`."""
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Patience:
    """What is tried again, and when; shared by all calls of a client."""

    budget: RetryBudget
    random: Random


def answer(
    request: InferRequest,
    name: Callable[[int], str],
    model: ServedModel,
    patience: Patience,
) -> Steps[Answer]:
    """Return the checked answer to `request`; `name` tells the image of a row.

    Raises:
        ClientError: as its tree says.
        OutdatedError: the server refused the request, or a version answered that `model` knows
            nothing of, or other things than of the version that was asked.
    """
    try:
        reply = yield from persist(Ask(request), patience)
    except InvalidInput as error:
        raise OutdatedError(error) from error
    assert isinstance(reply, InferReply)
    check_source(reply, request)
    spec = model.spec(request.version)
    if model.versions.get(reply.version) != spec:
        raise OutdatedError(
            ProtocolError(
                f"model {model.name}: the reply comes from version {reply.version}, which "
                f"the server does not describe as it does the version asked for"
            )
        )
    return read_reply(reply, request, len(spec.labels), name)


def persist(step: Step, patience: Patience) -> Steps[Result]:
    """Return the result of `step`, tried again while that may help and there is time."""
    attempt = 0
    while True:
        try:
            result = yield step
        except ClientError as error:
            if not patience.budget.allows(error):
                raise
            failure = error
        else:
            patience.budget.earn()
            return result
        try:
            yield Wait(pause(attempt, patience.random))
        except DeadlineExceeded:
            raise failure from failure.__cause__
        attempt += 1
