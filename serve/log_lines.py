"""Turns what a server writes into JSON lines, one object a record.

Started as a program of its own, with nothing but the standard library: it reads the server's
output from its stdin to the very end, also when the server or its keeper was killed, and appends
to a file. What it reads is kept in memory while the disk is slow, up to a limit.
"""

import contextlib
import datetime
import json
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

_HEADER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ [\w.-]+:\d+\] ?(.*)", re.DOTALL)
_LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "fatal"}
_TABLE = ("+", "|")
_TRACE = "Traceback (most recent call last):"
_IDLE_S = 0.2  # without a further line a record is complete
_MOST_BYTES = 64 * 2**20  # kept while the disk is slow
_CHUNK = 65536


def record(level: str, source: str, message: str) -> str:
    """Return one line of JSON, with the time of now in UTC."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    told = {"time": now.replace("+00:00", "Z"), "level": level, "source": source}
    return json.dumps(told | {"message": message}) + "\n"


def records(lines: Iterable[str | None]) -> Iterator[str]:
    """Return the JSON lines for the server's `lines`; None stands for a moment without any.

    A table belongs to the line before it, a traceback is one record.
    """
    group: list[str] = []
    for line in lines:
        if line is not None and group and _continues(group, line):
            group.append(line)
            continue
        if group:
            yield _record(group)
        group = [] if line is None or not line.strip() else [line]
    if group:
        yield _record(group)


def _continues(group: list[str], line: str) -> bool:
    if _HEADER.match(line):
        return False
    if _HEADER.match(group[0]):
        return line.startswith(_TABLE)
    if group[0].startswith(_TRACE):  # the line that is not indented names the error
        return len(group) == 1 or group[-1].startswith(" ") or line.startswith((" ", _TRACE))
    return line.startswith((" ", "\t")) or line.startswith(_TRACE)


def _record(group: list[str]) -> str:
    text = "\n".join(group)
    header = _HEADER.match(text)
    if header:
        return record(_LEVELS[header[1]], "triton", _unquoted(header[2].strip()))
    triton = re.match(r"(error: |Signal \()", text)  # what it writes past its own log
    level = "error" if text.startswith("error: ") or _TRACE in text else "info"
    return record(level, "triton" if triton else "model", text)


def _unquoted(text: str) -> str:
    """Return a message without the quotes and escapes that Triton gives it."""
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


def messages(log: str) -> str:
    """Return the messages of JSON lines as text; a line that is none is left as it is."""
    found = []
    for line in log.splitlines():
        try:
            found.append(str(json.loads(line)["message"]))
        except (ValueError, KeyError, TypeError):
            found.append(line)
    return "\n".join(found)


class _Pending:
    """Chunks between the reader, which never waits, and the writer; bounded."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = self._lost = 0
        self._ended = False
        self._more = threading.Condition()

    def put(self, chunk: bytes) -> None:
        with self._more:
            if self._size > _MOST_BYTES:
                self._lost += len(chunk)
            elif chunk:
                self._chunks.append(chunk)
                self._size += len(chunk)
            self._ended = self._ended or not chunk
            self._more.notify()

    def told(self) -> int:
        """Return how many bytes were lost since the last call."""
        with self._more:
            lost, self._lost = self._lost, 0
            return lost

    def get(self) -> bytes | None:
        """Return the next chunk, b"" at the end, None after a moment without any."""
        with self._more:
            if not self._chunks and not self._ended:
                self._more.wait(_IDLE_S)
            if self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk)
                return chunk
            return b"" if self._ended else None


def _lines(pending: _Pending) -> Iterator[str | None]:
    rest = b""
    while (chunk := pending.get()) != b"":
        if chunk is None:
            yield None
            continue
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    if rest:
        yield rest.decode(errors="replace")


def _write(pending: _Pending, file: int) -> None:
    for line in records(_lines(pending)):
        _append(file, line)
        if lost := pending.told():
            text = f"{lost} bytes of the log were lost here: the disk was too slow"
            _append(file, record("error", "bandstop", text))


def _append(file: int, line: str) -> None:
    data = line.encode()
    with contextlib.suppress(OSError):  # a full disk is no reason to hold up the server
        while data:
            data = data[os.write(file, data) :]


def main(log: Path) -> None:
    """Read stdin to its end and append its records to `log`."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    pending = _Pending()
    writer = threading.Thread(target=_write, args=(pending, file))
    writer.start()
    source = sys.stdin.fileno()
    while True:
        select.select([source], [], [])
        chunk = os.read(source, _CHUNK)
        pending.put(chunk)
        if not chunk:
            break
    writer.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
