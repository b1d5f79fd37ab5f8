"""Clients that ask a server all the time, and judge every answer."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from bandstop.bench.serve_releases import CLASSES, IMAGES, TOLERANCE, Expected, images
from bandstop.client import Client
from bandstop.client.predictions import softmax

Said = tuple[str, str, NDArray[np.float64]]  # version, letter of the names, probabilities
Ask = Callable[[int, int], Said]
_DEADLINE_S = 10.0


@dataclass(slots=True)
class Seen:
    """What one client saw.

    Attributes:
        latencies: seconds of each call.
        errors: how often each kind of error came.
        wrong: answers that are not what their release says.
        sources: (version, letter) of the answers.
    """

    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)


class Load:
    """Clients at work for as long as the block runs: the first ours, `bare` more without retries.

    A swap must not need a retry, so those of Triton's own library may not fail either.
    """

    def __init__(
        self, url: str, expected: Sequence[Expected], *, ours: int, bare: int = 0, model: str
    ) -> None:
        """Prepare; nothing is asked yet."""
        self._expected = {e.names[0][0]: e for e in expected}
        self._stop = threading.Event()
        makers = [*[ask_ours] * ours, *[ask_bare] * bare]
        self.seen = [Seen() for _ in makers]
        self._threads = [
            threading.Thread(target=self._work, args=(maker(url, model, expected), seen, number))
            for number, (maker, seen) in enumerate(zip(makers, self.seen, strict=True))
        ]

    def __enter__(self) -> Self:
        """Start."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        """Calls made so far."""
        return sum(len(seen.latencies) for seen in self.seen)

    def results(self, versions: Mapping[int, Expected]) -> dict[str, object]:
        """Return the counts; `versions` is what each version number was published from."""
        letters = {str(number): e.names[0][0] for number, e in versions.items()}
        errors = sum((seen.errors for seen in self.seen), Counter[str]())
        astray = sum(
            count
            for seen in self.seen
            for (version, letter), count in seen.sources.items()
            if letters.get(version) != letter
        )
        latencies = [second for seen in self.seen for second in seen.latencies]
        median = statistics.median(latencies) if latencies else 0.0
        return {
            "requests": len(latencies),
            "failed": sum(errors.values()),
            "wrong": sum(seen.wrong for seen in self.seen) + astray,
            "errors": dict(errors.most_common(5)),
            "versions_answered": len({v for seen in self.seen for v, _ in seen.sources}),
            "median_ms": round(1e3 * median, 2),
            "max_ms": round(1e3 * max(latencies, default=0.0), 1),
            "max_bar_ms": round(1e3 * max(20 * median, 1.0), 1),
        }

    def _work(self, ask: Ask, seen: Seen, number: int) -> None:
        generator = np.random.default_rng(number)
        while not self._stop.is_set():
            image, forget = int(generator.integers(IMAGES)), int(generator.integers(CLASSES))
            started = time.perf_counter()
            try:
                version, letter, found = ask(image, forget)
            except Exception as error:  # whatever it is, the load goes on and tells
                seen.errors[f"{type(error).__name__}: {str(error)[:160]}"] += 1
            else:
                seen.sources[version, letter] += 1
                wanted = self._expected[letter].probabilities[image, forget]
                seen.wrong += bool(np.abs(found - wanted).max() > TOLERANCE)
            seen.latencies.append(time.perf_counter() - started)


def ask_ours(url: str, model: str, expected: Sequence[Expected]) -> Ask:
    """Return a call of our client with its default settings."""
    client, pixels = Client(url, model), images()

    def ask(image: int, forget: int) -> Said:
        (found,) = client.classify(pixels[image], forget)
        letters = {name[0] for name in found.names}
        if len(letters) != 1 or found.applied != (forget,):
            raise AssertionError(f"names {found.names}, applied {found.applied}")
        order = np.argsort([int(name[1:]) for name in found.names])
        return found.version, letters.pop(), np.array(found.probabilities)[order]

    return ask


def ask_bare(url: str, model: str, expected: Sequence[Expected]) -> Ask:
    """Return a call of Triton's own client, which never tries again."""
    client, pixels = triton.InferenceServerClient(url), images()

    def ask(image: int, forget: int) -> Said:
        pixel = triton.InferInput("image", [1, *pixels.shape[1:]], "FP32")
        pixel.set_data_from_numpy(pixels[image : image + 1])
        asked = triton.InferInput("forget_class", [1, 1], "INT64")
        asked.set_data_from_numpy(np.array([[forget]]))
        reply = client.infer(model, [pixel, asked], client_timeout=_DEADLINE_S)
        (found,) = softmax(reply.as_numpy("logits"))
        nearest = min(expected, key=lambda e: np.abs(e.probabilities[image, forget] - found).max())
        return str(reply.get_response().model_version), nearest.names[0][0], found

    return ask
