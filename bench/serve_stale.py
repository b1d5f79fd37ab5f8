"""What makes Triton say yes and go on serving the old: right is served, or the publish fails."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tritonclient.grpc as triton

from bandstop.bench.serve_load import ask_bare
from bandstop.bench.serve_naive import publish as copy_into_place
from bandstop.bench.serve_releases import Expected, gated_releases
from bandstop.cli.output import say
from bandstop.export.errors import ExportError
from bandstop.export.readback import server_at
from bandstop.export.record import MODEL, RECORD, describe, record_bytes
from bandstop.export.record_files import read_record
from bandstop.export.repository import publish
from bandstop.serve.triton import start

NAME = "digits"
_DAY_S = 86_400
Publish = Callable[[Path], object]


@dataclass(frozen=True, slots=True)
class Case:
    """A release to publish over another one.

    Attributes:
        prepare: is given the repository's model folder and the release's, before the publish.
        may: be published, be refused, or either.
        early: whether it is prepared before the server starts.
    """

    prepare: Callable[[Path, Path], None]
    may: Literal["published", "refused", "either"]
    early: bool = False


def measured(control: bool) -> dict[str, object]:
    """Return how often the tool said yes while something else answered."""
    seen = {"cases": 0, "stale": 0, "failed": 0, "wrong": 0}
    told = {}
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench serve stale: exports two releases")
        releases = gated_releases(folder, "ab")
        for name, case in _cases(releases).items():
            said, answers = _outcome(folder / name, case, releases, control)
            seen["cases"] += 1
            right = answers == ("a" if said else "b")
            seen["stale"] += not said and not right
            seen["wrong"] += not right
            seen["failed"] += case.may == ("published" if said else "refused")
            told[name] = {"answers": answers, "said": said or "published"}
            say(f"bench serve stale: {name}: {said or 'published'}; {answers} answers")
    return {**seen, "told": told, "missed": [k for k in ("stale", "failed", "wrong") if seen[k]]}


def _outcome(folder: Path, case: Case, releases: list[Expected], control: bool) -> tuple[str, str]:
    """Publish b over a; return why it failed ("" if it did not), and whose answers come."""
    folder.mkdir()
    repo, release = folder / "models", folder / "release"
    shutil.copytree(releases[1].release, release)
    publish(releases[0].release, repo)
    if case.early:
        case.prepare(repo / NAME, release)
    with (
        start(repo) as running,
        server_at(running.url, headers=running.headers) as server,
        triton.InferenceServerClient(running.url) as bare,
    ):
        if not case.early:
            case.prepare(repo / NAME, release)
        try:
            if control:
                copy_into_place(release, repo)
                bare.load_model(NAME, headers=dict(running.headers))
            else:
                publish(release, repo, server=server)
        except (ExportError, triton.InferenceServerException) as error:
            said = f"{type(error).__name__}: {str(error)[:300]}"
        else:
            said = ""
        letter = ask_bare(running.url, NAME, releases)(0, 3)[1]
    return said, letter


def _cases(releases: list[Expected]) -> Mapping[str, Case]:
    def others_weights(model: Path, release: Path) -> None:
        _rewrite(release, (releases[0].release / MODEL).read_bytes())

    return {
        "plain": Case(lambda model, release: None, "published"),
        "future_file": Case(_date_in_future, "published", early=True),
        "linked_folder": Case(_behind_a_link, "either"),
        "broken_graph": Case(lambda model, release: _rewrite(release, b"no graph"), "refused"),
        "other_weights": Case(others_weights, "refused"),
        "wrong_digest": Case(_flip_a_bit, "refused"),
    }


def _date_in_future(model: Path, release: Path) -> None:
    later = time.time() + _DAY_S
    for path in (model, *model.rglob("*")):
        os.utime(path, (later, later))


def _behind_a_link(model: Path, release: Path) -> None:
    """Put a link in place of the model's folder, as some deployments do."""
    elsewhere = model.parent.parent / "elsewhere"
    model.rename(elsewhere)
    model.symlink_to(elsewhere)


def _flip_a_bit(model: Path, release: Path) -> None:
    content = bytearray((release / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (release / MODEL).write_bytes(content)


def _rewrite(release: Path, graph: bytes) -> None:
    """Put another graph into a release, with the digest that it has."""
    record = read_record(release / RECORD)
    files = dict(record.files) | describe({MODEL: graph})
    (release / MODEL).write_bytes(graph)
    (release / RECORD).write_bytes(record_bytes(record.model_copy(update={"files": files})))
