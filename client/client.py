"""The blocking client: it drives the steps of exchange.py over a transport."""

import math
import re
import time
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from bandstop.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
)
from bandstop.client.exchange import Ask, Call, Result, Step, Steps, Wait, converse, learn
from bandstop.client.forget import Forget
from bandstop.client.images import ImageLike, as_list
from bandstop.client.predictions import Prediction, predictions
from bandstop.client.replies import Answer
from bandstop.client.retry import RetryBudget
from bandstop.client.served import VERSION, ServedModel, read_model
from bandstop.client.transport import GrpcTransport, Transport

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


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
        transport: Transport | None = None,
    ) -> None:
        """Prepare to ask `model`; nothing is sent yet.

        Args:
            url: of the server's gRPC port: host:port, grpc://host:port or unix:/path.
            model: as the server names it.
            version: a number to stay with; "" follows the server.
            deadline: seconds for each call, however many images it has.
            transport: used in place of gRPC, and closed with the client.

        Raises:
            InvalidInput: an argument out of its range.
        """
        if misfits := _misfits(model, version, deadline):
            raise InvalidInput("; ".join(misfits))
        self._url, self._name, self._version, self._deadline = url, model, version, deadline
        self._transport = GrpcTransport(url) if transport is None else transport
        self._model: ServedModel | None = None
        self._budget = RetryBudget()
        self._random = Random()

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
        """Let go of the connection; later calls fail."""
        self._transport.close()

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by index, of the version asked; the server is asked only once."""
        model = self._model or self.metadata()
        return model.spec(self._version).labels

    def metadata(self) -> ServedModel:
        """Return what the server says of the model now."""
        return self._drive(learn(self._model is not None, self._budget, self._random))

    def ready(self) -> bool:
        """Return whether the server says that the model can be asked; False if nobody answers."""
        until = time.monotonic() + self._deadline
        try:
            return self._transport.ready(self._name, self._version, self._left(until))
        except (Unavailable, Overloaded, NotFound, DeadlineExceeded):
            return False

    def classify(
        self,
        images: ImageLike | Sequence[ImageLike],
        forget: Forget = None,
        top_k: SupportsIndex | None = None,
    ) -> list[Prediction]:
        """Return a prediction for each image, in order; a list even for a single image.

        Args:
            images: one or a list: a path, encoded bytes, a PIL image, uint8 (h, w) or (h, w, c),
                float32 (c, h, w) in [0, 1] of the model's size, or an array of several of these.
                All are held in memory: give very many in portions.
            forget: for a gated model, what to forget: one class for all images (a name or an
                index), or a list of one entry an image; a tuple or set names several classes of
                a model that has the slots. None asks for nothing to be forgotten, which only
                some models allow.
            top_k: how many classes to return, the most probable first; None for all.

        Raises:
            ClientError: as its tree says; no prediction is returned that failed a check.
        """
        model, answers = self._ask(images, forget)
        return predictions(answers, model.spec(self._version).labels, top_k)

    def logits(
        self, images: ImageLike | Sequence[ImageLike], forget: Forget = None
    ) -> NDArray[np.float32]:
        """Return the logits (n, classes) of n images; arguments and errors as for classify."""
        _, answers = self._ask(images, forget)
        return np.concatenate([answer.logits for answer in answers])

    def _ask(
        self, images: ImageLike | Sequence[ImageLike], forget: Forget
    ) -> tuple[ServedModel, tuple[Answer, ...]]:
        call = Call(tuple(as_list(images)), forget, self._version)
        return self._drive(converse(call, self._model, self._budget, self._random))

    def _drive(self, steps: Steps[T]) -> T:
        """Return what `steps` come to, each step done within what is left of the deadline."""
        until = time.monotonic() + self._deadline
        try:
            step = next(steps)
            while True:
                try:
                    result = self._perform(step, until)
                except ClientError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            found: T = done.value
            return found

    def _perform(self, step: Step, until: float) -> Result:
        left = self._left(until)
        if isinstance(step, Wait):
            if step.seconds >= left:
                raise self._late()
            time.sleep(step.seconds)
            return None
        try:
            if isinstance(step, Ask):
                return self._transport.infer(step.request, left)
            metadata = self._transport.metadata(self._name, self._version, left)
            config = self._transport.config(self._name, self._version, self._left(until))
        except DeadlineExceeded as error:
            raise self._late() from error
        self._model = read_model(self._name, metadata, config)
        return self._model

    def _left(self, until: float) -> float:
        left = until - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{self._url}: no answer for model {self._name} within {self._deadline:g} s; "
            "give a longer deadline or fewer images"
        )


def _misfits(model: object, version: object, deadline: object) -> list[str]:
    misfits = []
    if not isinstance(model, str) or NAME.fullmatch(model) is None:
        misfits.append(f"model: expected a name that matches {NAME.pattern}, got {model!r}")
    if not isinstance(version, str) or (version and VERSION.fullmatch(version) is None):
        misfits.append(f"version: expected '' or a string of digits from 1 on, got {version!r}")
    seconds = deadline if isinstance(deadline, int | float) else math.nan
    if isinstance(deadline, bool) or not 0 < seconds < math.inf:
        misfits.append(f"deadline: expected seconds above 0, finite, got {deadline!r}")
    return misfits
