"""What a running server serves, and what is wrong with it."""

from dataclasses import dataclass

from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed
from bandstop.serve.link import Version, linked
from bandstop.serve.probe import Health

_PROBE_S = 5.0
_MEANT = ("", "unloaded")  # reasons for not being ready that somebody asked for


@dataclass(frozen=True, slots=True)
class Status:
    """How a server is.

    Attributes:
        models: the versions that are ready, by model.
        wrong: what is ill, in words; empty for a healthy server.
    """

    models: dict[str, list[int]]
    wrong: list[str]


def status(access: Access) -> Status:
    """Ask the server for its models, and each ready version about one row of zeros."""
    try:
        with linked(access) as link:
            listed = link.index()
            ready = [v for v in listed if v.state == "READY"]
            found = link.probe(ready, _PROBE_S)
    except NotServed as error:
        return Status({}, [str(error)])
    models: dict[str, list[int]] = {v.model: [] for v in listed}
    for version in ready:
        models[version.model].append(int(version.version))
    ill = [
        f"{version.name} does not answer: {finding.reason}"
        for version, finding in found.items()
        if finding.health >= Health.DOWN
    ]
    return Status({m: sorted(v) for m, v in sorted(models.items())}, [*_missing(listed), *ill])


def _missing(listed: list[Version]) -> list[str]:
    """Return the models of which no version is ready, though nobody has unloaded them."""
    ready = {v.model for v in listed if v.state == "READY"}
    return [
        f"{v.name} is not ready: {v.state} {v.reason}".rstrip()
        for v in listed
        if v.model not in ready and (v.state != "UNAVAILABLE" or v.reason not in _MEANT)
    ]
