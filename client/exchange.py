"""A call as a sequence of steps, the same for every transport, blocking or not.

A generator yields what is to be done next (`Learn`, `Ask`, `Wait`) and is sent the result, or
thrown the error. It decides; whoever drives it does the input, the output and the sleeping.
"""

from collections.abc import Generator
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, TypeVar

from bandstop.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    ProtocolError,
)
from bandstop.client.forget import Forget, forget_rows
from bandstop.client.images import ImageLike, prepare
from bandstop.client.replies import Answer, check_source, read_reply
from bandstop.client.requests import batches
from bandstop.client.retry import RetryBudget, pause
from bandstop.client.served import ServedModel
from bandstop.client.wire import InferReply, InferRequest


@dataclass(frozen=True, slots=True)
class Learn:
    """Ask the server to describe the model; the result is a ServedModel."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send one inference; the result is an InferReply."""

    request: InferRequest


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so many seconds; the result is None."""

    seconds: float


Step: TypeAlias = Learn | Ask | Wait
Result: TypeAlias = ServedModel | InferReply | None
T = TypeVar("T")
Steps: TypeAlias = Generator[Step, Result, T]


@dataclass(frozen=True, slots=True)
class Call:
    """What one call wants; `version` "" leaves the choice to the server."""

    images: tuple[ImageLike, ...]
    forget: Forget
    version: str


def converse(
    call: Call, known: ServedModel | None, budget: RetryBudget, random: Random
) -> Steps[tuple[ServedModel, tuple[Answer, ...]]]:
    """Return the answers to `call`, in the order of its images, and the model that gave them.

    All answers are read by one table of labels. When the model changes under way (another
    version, with other labels or pixels) it is learned anew and everything is asked again.

    Raises:
        ClientError: as its tree says. A server that never answered is reported at once; one
            that did is asked again until the deadline.
    """
    model = known if known is not None else (yield from learn(False, budget, random))
    while True:
        try:
            return model, (yield from _answers(call, model, budget, random))
        except _OutdatedError as outdated:
            fresh = yield from learn(True, budget, random)
            if fresh == model:
                raise outdated.error from outdated.error.__cause__
            model = fresh


def learn(known: bool, budget: RetryBudget, random: Random) -> Steps[ServedModel]:
    """Return what the server says of the model; a server that is not `known` gets one try."""
    step = Learn()
    model = (yield from _persist(step, budget, random)) if known else (yield step)
    assert isinstance(model, ServedModel)
    return model


class _OutdatedError(Exception):
    """What we know of the model may no longer be true; if it is, then `error` is the failure."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(str(error))
        self.error = error


def _answers(
    call: Call, model: ServedModel, budget: RetryBudget, random: Random
) -> Steps[tuple[Answer, ...]]:
    try:
        spec = model.spec(call.version)
        forget = forget_rows(call.forget, len(call.images), spec, model.slots)
    except (InvalidInput, NotFound) as error:
        raise _OutdatedError(error) from error
    images = prepare(call.images, spec.preprocess)
    answers = []
    for request in batches(model, call.version, images, forget):
        try:
            reply = yield from _persist(Ask(request), budget, random)
        except InvalidInput as error:
            raise _OutdatedError(error) from error
        assert isinstance(reply, InferReply)
        check_source(reply, request)
        if model.versions.get(reply.version) != spec:
            raise _OutdatedError(
                ProtocolError(
                    f"model {model.name}: the reply comes from version {reply.version}, which "
                    f"the server does not describe as it does the version asked for"
                )
            )
        answers.append(read_reply(reply, request, len(spec.labels)))
    return tuple(answers)


def _persist(step: Step, budget: RetryBudget, random: Random) -> Steps[Result]:
    """Return the result of `step`, tried again while that may help and there is time."""
    attempt = 0
    while True:
        try:
            result = yield step
        except ClientError as error:
            if not budget.allows(error):
                raise
            failure = error
        else:
            budget.earn()
            return result
        try:
            yield Wait(pause(attempt, random))
        except DeadlineExceeded:
            raise failure from failure.__cause__
        attempt += 1
