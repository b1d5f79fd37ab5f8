"""What a client can ask about one model, as steps; it knows nothing of blocking or of asyncio."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandstop.client.describe import read_model
from bandstop.client.errors import (
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
    listed,
)
from bandstop.client.exchange import (
    Decode,
    Description,
    Learn,
    OutdatedError,
    Patience,
    Ready,
    Steps,
    Together,
    answer,
    persist,
)
from bandstop.client.forget import Entry, Forget, forget_rows
from bandstop.client.images import Decoded, ImageLike, decode, named
from bandstop.client.predictions import Prediction, checked_top_k, predictions
from bandstop.client.replies import Answer
from bandstop.client.requests import batch, batch_size, batches
from bandstop.client.retry import RetryBudget
from bandstop.client.served import ServedModel, VersionSpec
from bandstop.client.wire import InferRequest

Outcome: TypeAlias = Prediction | InvalidImage


class Call(NamedTuple):
    """What one call wants.

    Attributes:
        images: to be classified together.
        forget: for these images.
        top_k: classes to return for each; None for all.
        first: position of the first image among all that the caller gave.
        lenient: whether images that cannot be used are left out rather than refused.
    """

    images: Sequence[ImageLike]
    forget: Forget
    top_k: SupportsIndex | None = None
    first: int = 0
    lenient: bool = False


class Found(NamedTuple):
    """What came of a call: answers to the images that could be used, in their order."""

    spec: VersionSpec
    answers: list[Answer]
    decoded: Decoded


class Questions:
    """Keeps what was learned of the model, and what retries may still cost; safe for threads."""

    def __init__(self, model: str, version: str, always: Entry) -> None:
        """Ask about `version` of `model`, "" for the server's choice; forget `always` each time."""
        self._name, self._version, self._always = model, version, always
        self._known: ServedModel | None = None
        self._patience = Patience(RetryBudget(), Random())

    def learn(self) -> Steps[ServedModel]:
        """Return what the server says of the model; one that never answered gets one try."""
        known = self._known is not None
        found = (yield from persist(Learn(), self._patience)) if known else (yield Learn())
        assert isinstance(found, Description)
        self._known = read_model(self._name, found.metadata, found.config)
        return self._known

    def ready(self) -> Steps[bool]:
        """Return whether the model can be asked; a server that cannot tell is not ready."""
        try:
            return bool((yield Ready()))
        except (Unavailable, Overloaded, NotFound, DeadlineExceeded):
            return False

    def classes(self) -> Steps[tuple[str, ...]]:
        """Return the class names by index."""
        model = self._known or (yield from self.learn())
        return model.spec(self._version).labels

    def portion(self) -> Steps[int]:
        """Return how many images of a stream are best sent together."""
        model = self._known or (yield from self.learn())
        return batch_size(model, self._version)

    def logits(self, call: Call) -> Steps[NDArray[np.float32]]:
        """Return the logits (n, classes) of n images."""
        found = yield from self._ask(call)
        if len(found.answers) == 1:
            return found.answers[0].logits.copy()  # a reply's bytes cannot be written to
        return np.concatenate([one.logits for one in found.answers])

    def classify(self, call: Call) -> Steps[list[Prediction]]:
        """Return a prediction for each image."""
        found = yield from self._ask(call)
        return predictions(found.answers, found.spec.labels, call.top_k)

    def outcomes(self, call: Call) -> Steps[list[Outcome]]:
        """Return for each image a prediction, or why there is none."""
        found = yield from self._ask(call)
        good = iter(predictions(found.answers, found.spec.labels, call.top_k))
        reasons = found.decoded.reasons
        return [
            InvalidImage(reasons[row], {call.first + row: reasons[row]})
            if row in reasons
            else next(good)
            for row in range(len(call.images))
        ]

    def _ask(self, call: Call) -> Steps[Found]:
        """Return what comes of `call`, all of it read by one table of labels.

        When the model changes under way (another version, with other labels or pixels) it is
        learned anew and everything is asked again. A server that never answered is reported at
        once; one that did is asked again until the deadline.
        """
        model = self._known or (yield from self.learn())
        while True:
            try:
                return (yield from self._answers(call, model))
            except OutdatedError as outdated:
                fresh = yield from self.learn()
                if fresh == model:
                    raise outdated.error from outdated.error.__cause__
                model = fresh

    def _answers(self, call: Call, model: ServedModel) -> Steps[Found]:
        try:
            spec = model.spec(self._version)
            rows = forget_rows(call.forget, len(call.images), spec, model.slots, self._always)
            checked_top_k(call.top_k, len(spec.labels))
        except (InvalidInput, NotFound) as error:
            raise OutdatedError(error) from error
        decoded = yield from _decoded(call, spec)
        if decoded.reasons and not call.lenient:
            reasons = decoded.reasons
            raise InvalidImage(listed(list(reasons.values())), reasons)
        kept = list(decoded.images)
        if rows is not None and decoded.reasons:
            rows = rows[kept]
        if not kept:
            return Found(spec, [], decoded)
        if len(kept) == 1 or len(kept) <= batch_size(model, self._version):
            request = batch(model, self._version, list(decoded.images.values()), rows)
            return Found(spec, [(yield from self._part(call, kept, request, model))], decoded)
        answers = yield Together(self._parts(call, model, decoded, rows))
        assert isinstance(answers, list)
        return Found(spec, answers, decoded)

    def _parts(
        self, call: Call, model: ServedModel, decoded: Decoded, rows: NDArray[np.int64] | None
    ) -> Iterator[Steps[Answer]]:
        """Yield a conversation for each request that the usable images need."""
        kept, prepared = list(decoded.images), list(decoded.images.values())
        done = 0
        for request in batches(model, self._version, prepared, rows):
            part = kept[done : done + request.inputs[0].shape[0]]
            done += len(part)
            yield self._part(call, part, request, model)

    def _part(
        self, call: Call, part: list[int], request: InferRequest, model: ServedModel
    ) -> Steps[Answer]:
        """Return the answer to `request` for the images of `call` at the positions `part`."""

        def name(row: int) -> str:
            return named(call.images[part[row]], call.first + part[row])

        return answer(request, name, model, self._patience)


def _decoded(call: Call, spec: VersionSpec) -> Steps[Decoded]:
    if all(isinstance(image, np.ndarray) for image in call.images):
        return decode(call.images, spec.preprocess, call.first)
    decoded = yield Decode(call.images, spec.preprocess, call.first)
    assert isinstance(decoded, Decoded)
    return decoded
