"""Where a server's output goes, together with what we have to tell about it."""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from bandstop.serve import log_lines
from bandstop.serve.errors import ServeInputError
from bandstop.serve.readiness import reason_in_log

LogFormat = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class Log:
    """A file that is appended to.

    Attributes:
        file: absolute.
        form: "text" as Triton writes it, "json" one object a line.
    """

    file: Path
    form: LogFormat

    @classmethod
    def at(cls, file: Path, form: LogFormat) -> Self:
        """Return the log in `file`, which is made where it is not there.

        Raises:
            ServeInputError: it cannot be written, or there is no such format.
        """
        if form not in ("text", "json"):
            raise ServeInputError(f"log format {form!r}: expected text or json")
        file = file.absolute()
        try:
            file.open("ab").close()
        except OSError as error:
            raise ServeInputError(f"log {file} cannot be written: {error.strerror}") from error
        return cls(file, form)

    def writer(self) -> list[str] | None:
        """Return the program that writes the file; None where the server does so itself."""
        if self.form == "text":
            return None
        return [sys.executable, "-IS", log_lines.__file__, str(self.file)]

    def event(self, level: str, message: str) -> None:
        """Append a line of our own; a disk that is full is no reason to fail."""
        if self.form == "json":
            line = log_lines.record(level, "bandstop", message)
        else:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            line = f"{now} bandstop {level}: {message}\n"
        with suppress(OSError):
            out = os.open(self.file, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(out, line.encode())
            finally:
                os.close(out)

    def size(self) -> int:
        """Return how many bytes it has."""
        return self.file.stat().st_size if self.file.exists() else 0

    def reason_since(self, size: int) -> str:
        """Return why the server did not start, from what came after the first `size` bytes."""
        with suppress(OSError):
            text = self.file.read_bytes()[size:].decode(errors="replace")
            return reason_in_log(log_lines.messages(text) if self.form == "json" else text)
        return ""
