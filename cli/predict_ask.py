"""What comes of files that a served model is asked about, one after the other."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from bandstop.cli.predict_files import Bad
from bandstop.client import Client, ClientError, InvalidImage, NotFinite, Prediction, Refused

BAD_IMAGE = InvalidImage.exit_code
# the model's own word on some images of a batch: the others are asked again, one by one
OF_AN_IMAGE = (NotFinite, Refused)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file: a prediction, or the reason why there is none.

    Attributes:
        file: its path.
        prediction: None where there is none.
        error: None where there is a prediction.
        exit_code: of the error.
    """

    file: str
    prediction: Prediction | None
    error: str | None = None
    exit_code: int = 0


class Source:
    """The files as the client takes them, and in which order they are to be answered."""

    def __init__(self, files: Iterator[str | Bad]) -> None:
        """Take from `files` as they are needed."""
        self._files = files
        self._waiting: deque[str | Bad] = deque()

    def __iter__(self) -> "Source":
        """Return itself: the files that are not taken yet."""
        return self

    def __next__(self) -> str:
        """Return the next file to ask about; bad ones wait for their turn."""
        for file in self._files:
            self._waiting.append(file)
            if isinstance(file, str):
                return file
        raise StopIteration

    def bad(self) -> Iterator[Outcome]:
        """Yield the outcomes of the bad ones that come before the next answer."""
        while self._waiting and isinstance(self._waiting[0], Bad):
            bad = self._waiting.popleft()
            assert isinstance(bad, Bad)
            yield Outcome(bad.path, None, bad.reason, BAD_IMAGE)

    def answered(self) -> str:
        """Return the file that the next answer is about."""
        file = self._waiting.popleft()
        assert isinstance(file, str)
        return file

    def unanswered(self) -> int:
        """Return how many files were taken and not answered yet."""
        return sum(isinstance(file, str) for file in self._waiting)


def classify(
    client: Client, files: Iterator[str | Bad], forget: tuple[str, ...], top_k: int | None
) -> Iterator[Outcome]:
    """Yield the outcome of each file, in order; one without an answer does not stop the others.

    Raises:
        ClientError: nothing more can be answered; what was yielded before holds.
    """
    asked = forget if len(forget) > 1 else (*forget, None)[0]
    keep = min(3, len(client.classes)) if top_k is None else top_k
    source = Source(files)
    while True:
        try:
            for found in client.outcomes(source, asked, keep):
                yield from source.bad()
                yield _outcome(source.answered(), found)
        except OF_AN_IMAGE:
            for _ in range(source.unanswered()):
                yield from source.bad()
                file = source.answered()
                yield _outcome(file, _alone(client, file, asked, keep))
        else:
            yield from source.bad()
            return


def _alone(
    client: Client, file: str, forget: str | tuple[str, ...] | None, keep: int
) -> Prediction | ClientError:
    try:
        return client.classify(file, forget, keep)[0]
    except (*OF_AN_IMAGE, InvalidImage) as error:
        return error


def _outcome(file: str, found: Prediction | ClientError) -> Outcome:
    if isinstance(found, Prediction):
        return Outcome(file, found)
    return Outcome(file, None, " ".join(str(found).split()), found.exit_code)
