"""The system calls of a command that touch a folder, and faults injected into them by strace."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.errors import MachineError

CALLS = (
    *("write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "mkdirat"),
    *("unlink", "unlinkat", "rmdir", "sendfile", "copy_file_range"),
)
_LINE = re.compile(r"(?P<pid>[0-9]+) +(?P<call>[a-z0-9]+)\((?P<rest>.*)")
_CLI = "import sys; from bandstop.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True)
class Point:
    """A system call of a command: the `number`-th of its name, from 1 on."""

    call: str
    number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; negative is the signal that killed it.
        fired: whether the fault was injected at all.
        said: what it wrote on stderr.
    """

    code: int
    fired: bool
    said: str


def command_line(*arguments: str | Path) -> list[str]:
    """Return the command `bandstop` with `arguments`."""
    return [sys.executable, "-B", "-c", _CLI, *map(str, arguments)]


def points(command: list[str], place: Path) -> list[Point]:
    """Run `command` and return its changing system calls that name something in `place`."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for line in _traced(command, ())[1].splitlines():
        match = _LINE.match(line)
        if match is None or match["call"] not in CALLS:
            continue
        seen[match["pid"], match["call"]] += 1
        if str(place) in match["rest"]:
            found.append(Point(match["call"], seen[match["pid"], match["call"]]))
    return found


def with_fault(command: list[str], point: Point, fault: str) -> Ended:
    """Run `command` with a `fault` at `point`, such as signal=KILL or error=ENOSPC."""
    done, trace = _traced(command, ("-e", f"inject={point.call}:{fault}:when={point.number}"))
    fired = done.returncode == -9 or "(INJECTED)" in trace or "killed by SIGKILL" in trace
    return Ended(done.returncode, fired, done.stderr)


def _traced(
    command: list[str], options: tuple[str, ...]
) -> tuple["subprocess.CompletedProcess[str]", str]:
    strace = shutil.which("strace")
    if strace is None:
        raise MachineError("no strace here; install it (Debian: apt install strace)")
    with tempfile.NamedTemporaryFile("r") as trace:
        watch = [strace, "-f", "-y", "-s", "0", "-e", f"trace={','.join(CALLS)}", *options]
        done = subprocess.run(
            [*watch, "-o", trace.name, *command], capture_output=True, text=True, check=False
        )
        written = trace.read()
    if not written:
        raise MachineError(f"strace cannot trace here: {done.stderr.strip()[:200]}")
    return done, written
