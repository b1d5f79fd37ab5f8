"""The Python processes that a server runs its models in."""

from pathlib import Path

import psutil

_STUB = "triton_python_backend_stub"


def stubs_of(server: int, model: str) -> list[psutil.Process]:
    """Return the processes in which the server with process id `server` runs `model`."""
    try:
        children = psutil.Process(server).children(recursive=True)
    except psutil.Error:
        return []
    return [child for child in children if _runs(child, model)]


def end_stubs(stubs: list[psutil.Process]) -> None:
    """End processes that an unloaded model has left behind.

    Where one process of a model was killed, the server never ends the model's other ones.
    """
    for stub in stubs:
        try:
            if stub.is_running():  # and is the same process, not a later one with its id
                stub.kill()
        except psutil.Error:
            continue


def _runs(process: psutil.Process, model: str) -> bool:
    """Return whether the process' first argument is a file of the model: .../MODEL/VERSION/FILE."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return len(line) > 1 and Path(line[0]).name == _STUB and Path(line[1]).parts[-3:-2] == (model,)
