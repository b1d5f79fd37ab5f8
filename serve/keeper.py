"""Runs a server for a parent, and ends it when the parent is gone, however that came about.

Started as a program of its own. The parent sends a plan, one line of JSON, and holds the other end
of our stdin: when it writes there again, closes it, or dies, we end the server, its processes, its
shared memory, its socket and its folder. With the word NOW it ends at once and its folder stays,
for the server that takes its place.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

# the words that end a server: after the requests under way, soon all the same, at once
DRAINED, SOON, NOW = b"d", b"s", b"n"
_SOON_S = 2.0
_LOOK_S = 0.5  # between two looks for the parent
_GONE_S = 3.0  # for killed processes to be gone
_LOG_S = 5.0  # for what the server wrote last to reach the disk
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def keep(plan: dict[str, object], parent_pid: int) -> None:
    """Start the server of `plan`, tell its process id on stdout, and close stdout when it ended.

    Args:
        plan: what to start, and what to clear away.
        parent_pid: the process whose end is the server's end too.
    """
    words: list[bytes] = []
    try:
        server, log = _started(plan)
    except OSError as error:
        _tell(f"cannot start tritonserver: {error}")
    else:
        _tell(str(server.pid))
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        parent = threading.Thread(
            target=_end_with_parent, args=(server, plan["grace_s"], parent_pid, words)
        )
        parent.start()
        server.wait()
        end_group(server.pid)
        if log:
            with contextlib.suppress(subprocess.TimeoutExpired):
                log.wait(_LOG_S)
        os.close(sys.stdout.fileno())  # its close() would leave the descriptor open
        parent.join()  # the parent may want to read the log first
        clear_memory(str(plan["shm_prefix"]))
    Path(str(plan["socket"])).unlink(missing_ok=True)
    if words != [NOW]:
        shutil.rmtree(str(plan["folder"]), ignore_errors=True)


def _started(
    plan: dict[str, object],
) -> tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes] | None"]:
    """Start the server, and what writes its log where it does not do so itself."""
    if not plan["log_writer"]:
        with Path(str(plan["log"])).open("ab") as log:
            return _server(plan, log), None
    writer: subprocess.Popen[bytes] = subprocess.Popen(
        plan["log_writer"],  # type: ignore[call-overload]  # a list of texts, from JSON
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert writer.stdin is not None
    with writer.stdin as log:
        return _server(plan, log), writer


def _server(plan: dict[str, object], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    libc = ctypes.CDLL(None)
    server: subprocess.Popen[bytes] = subprocess.Popen(
        plan["command"],  # type: ignore[call-overload]  # same
        env=plan["environment"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
        umask=0o077,  # nobody else may use the socket
        # should we be killed, the server is asked to end all the same
        preexec_fn=lambda: libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM),
    )
    return server


def _end_with_parent(
    server: "subprocess.Popen[bytes]", grace: float, parent_pid: int, words: list[bytes]
) -> None:
    # a process that the parent forked holds the pipe too, and may outlive it
    while not select.select([sys.stdin], [], [], _LOOK_S)[0] and os.getppid() == parent_pid:
        pass
    if select.select([sys.stdin], [], [], 0)[0]:
        words.append(os.read(sys.stdin.fileno(), 1))
    if words == [NOW]:
        server.kill()
    server.terminate()
    try:
        server.wait(min(grace, _SOON_S) if words == [SOON] else grace)
    except subprocess.TimeoutExpired:
        server.kill()


def end_group(group: int) -> None:
    """End what is left of the server's processes, and wait until they are gone."""
    until = time.monotonic() + _GONE_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        while _lives(group) and time.monotonic() < until:
            time.sleep(0.01)


def _lives(group: int) -> bool:
    """Return whether a process of `group` runs; a zombie, which waits for its parent, does not."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = file.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def clear_memory(prefix: str) -> None:
    """Remove the shared memory that the server's processes have left."""
    for file in Path("/dev/shm").glob(f"{prefix}*"):
        file.unlink(missing_ok=True)


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone; the server ends all the same
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent = os.getppid()
    if (first := sys.stdin.buffer.readline()).endswith(b"\n"):  # else it was ended before
        keep(json.loads(first), parent)
