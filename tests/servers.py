"""A real server for tests, and what it leaves behind."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bandstop.serve.errors import MachineError
from bandstop.serve.install import install
from bandstop.serve.machine import check_machine, this_machine
from bandstop.serve.triton import find_server


def prepare() -> None:
    """Install the bundled Triton if there is none, and skip where this machine cannot run it."""
    with contextlib.suppress(MachineError):
        find_server()
        return
    try:
        check_machine(this_machine())
    except MachineError as error:
        pytest.skip(str(error))
    install()


def left(place: Path, prefix: str) -> list[str]:
    """Return what is left of servers that were started with `place` for temporary files."""
    memory = [p.name for p in Path("/dev/shm").glob(f"{prefix}*")]
    return [
        *processes(place),
        *memory,
        *(str(p) for p in place.rglob("*") if p.name != "bandstop"),
    ]


def processes(place: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("TMPDIR") == str(place):
                found.append(f"{process.pid} {process.info['name']}")
    return found


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def prefix_of(pid: int) -> str:
    """Return what the names of a running server's shared memory begin with."""
    (option,) = (a for a in psutil.Process(pid).cmdline() if "shm-region-prefix-name" in a)
    return option.rpartition("=")[2]
