"""Runs a server for a parent, and ends it when the parent is gone, however that came about.

Started as a program of its own. The parent sends a plan, one line of JSON, and holds the other end
of our stdin: when it writes there again, closes it, or dies, we end the server, its processes, its
shared memory, its socket and its folder.
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

_LOOK_S = 0.5  # between two looks for the parent
_STUBS_LEAVE_S = 3.0  # the server's Python processes notice its end within a second
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def keep(plan: dict[str, object], parent_pid: int) -> None:
    """Start the server of `plan`, tell its process id on stdout, and close stdout when it ended.

    Args:
        plan: what to start, and what to clear away.
        parent_pid: the process whose end is the server's end too.
    """
    try:
        server = _started(plan)
    except OSError as error:
        _tell(f"cannot start tritonserver: {error}")
    else:
        _tell(str(server.pid))
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        parent = threading.Thread(
            target=_end_with_parent, args=(server, plan["grace_s"], parent_pid)
        )
        parent.start()
        server.wait()
        os.close(sys.stdout.fileno())  # its close() would leave the descriptor open
        parent.join()  # the parent may want to read the log first
        _clear_memory(str(plan["shm_prefix"]))
        _end_group(server.pid)
    Path(str(plan["socket"])).unlink(missing_ok=True)
    shutil.rmtree(str(plan["folder"]), ignore_errors=True)


def _started(plan: dict[str, object]) -> "subprocess.Popen[bytes]":
    libc = ctypes.CDLL(None)
    with Path(str(plan["log"])).open("ab") as log:
        server: subprocess.Popen[bytes] = subprocess.Popen(
            plan["command"],  # type: ignore[call-overload]  # a list of texts, from JSON
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


def _end_with_parent(server: "subprocess.Popen[bytes]", grace: float, parent_pid: int) -> None:
    # a process that the parent forked holds the pipe too, and may outlive it
    while not select.select([sys.stdin], [], [], _LOOK_S)[0] and os.getppid() == parent_pid:
        pass
    server.terminate()
    try:
        server.wait(grace)
    except subprocess.TimeoutExpired:
        server.kill()


def _end_group(group: int) -> None:
    """End what is left of the server's processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _clear_memory(prefix: str) -> None:
    """Wait for the shared memory of the server's processes to go, and remove what stays."""
    until = time.monotonic() + _STUBS_LEAVE_S
    while (left := list(Path("/dev/shm").glob(f"{prefix}*"))) and time.monotonic() < until:
        time.sleep(0.05)
    for file in left:
        file.unlink(missing_ok=True)


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone; the server ends all the same
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent = os.getppid()
    if first := sys.stdin.buffer.readline():
        keep(json.loads(first), parent)
