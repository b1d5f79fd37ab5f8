"""`bandstop serve REPO --status` and `--stop`."""

from pathlib import Path

from bandstop.cli.output import show
from bandstop.serve.errors import NotServed
from bandstop.serve.state import running, stop
from bandstop.serve.status import status


def show_status(repository: Path, *, as_json: bool) -> None:
    """Print what serves `repository`, and how it is.

    Raises:
        NotServed: nothing serves it, or something of it is ill.
    """
    server = running(repository)
    found = status(server.access)
    models: object = found.models
    if not as_json:
        models = [f"{m} {', '.join(map(str, v)) or '-'}" for m, v in found.models.items()]
    show(
        {
            "url": server.url,
            "pid": server.pid,
            "since": server.since,
            "models": models,
            "healthy": not found.wrong,
            "wrong": found.wrong,
            "restarts": server.restarts,
            "repairs": server.repairs,
        },
        as_json=as_json,
    )
    if found.wrong:
        raise NotServed("; ".join(found.wrong))


def show_stopped(repository: Path, *, as_json: bool) -> None:
    """Stop what serves `repository`, and print what it was.

    Raises:
        NotServed: nothing serves it, or it does not end.
    """
    server = stop(repository)
    show({"url": server.url, "pid": server.pid, "stopped": True}, as_json=as_json)
