"""Runs a server for a parent, and ends it when the parent is gone, however that came about.

Started as a program of its own with a plan in JSON. The parent holds the other end of our stdin:
when it closes that, or dies, we end the server, clear its shared memory and its folder.
"""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_STUBS_LEAVE_S = 3.0  # the server's Python processes notice its end within a second


def keep(plan: dict[str, object]) -> None:
    """Start the server of `plan`; tell on stdout its process id, and how it ended."""
    command, environment = plan["command"], plan["environment"]
    with Path(str(plan["log"])).open("ab") as log:
        server = subprocess.Popen(
            command,  # type: ignore[call-overload]  # a list of texts, from JSON
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    grace = float(str(plan["grace_s"]))
    parent = threading.Thread(target=_end_with_parent, args=(server, grace))
    parent.start()
    sys.stdout.write(f"{server.wait()}\n")
    sys.stdout.flush()
    parent.join()  # the parent may want to read the log first
    _clear_memory(str(plan["shm_prefix"]))
    shutil.rmtree(str(plan["folder"]), ignore_errors=True)


def _end_with_parent(server: "subprocess.Popen[bytes]", grace: float) -> None:
    sys.stdin.buffer.read()
    server.terminate()
    try:
        server.wait(grace)
    except subprocess.TimeoutExpired:
        server.kill()


def _clear_memory(prefix: str) -> None:
    """Wait for the shared memory of the server's processes to go, and remove what stays."""
    until = time.monotonic() + _STUBS_LEAVE_S
    while (left := list(Path("/dev/shm").glob(f"{prefix}*"))) and time.monotonic() < until:
        time.sleep(0.05)
    for file in left:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more
        keep(json.loads(sys.argv[1]))
