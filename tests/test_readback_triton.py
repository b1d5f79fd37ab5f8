"""The proof against a real Triton: it passes on what was published and on nothing else."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandstop.cli.repo_server import ServerOptions, server_of
from bandstop.export.errors import NotServed
from bandstop.export.readback import TritonServer, server_at
from bandstop.export.readback_calls import Patience
from bandstop.export.record import ReleaseRecord
from bandstop.export.repository import publish
from bandstop.serve.errors import MachineError
from bandstop.serve.state import remembered
from bandstop.serve.triton import Triton, find_server, start
from tests.readback_fakes import MODEL, made, write_release

pytestmark = pytest.mark.triton
ONE, TWO = made(seed=1), made(seed=2)
PATIENCE = Patience(appear=0.3, settle=5)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("releases")
    return [write_release(place / str(i), release) for i, release in enumerate((ONE, TWO))]


@pytest.fixture
def repo(tmp_path: Path, releases: list[Path]) -> Path:
    """A repository whose model has version 1."""
    try:
        find_server()
    except MachineError as error:
        pytest.skip(str(error))
    publish(releases[0], tmp_path / "repo")
    return tmp_path / "repo"


@contextlib.contextmanager
def proving(triton: Triton, patience: Patience = PATIENCE) -> Iterator[TritonServer]:
    headers = tuple(triton.access.headers.items())
    with server_at(triton.url, triton.access.tls, headers, patience) as server:
        yield server


def refused(server: TritonServer, served: dict[int, ReleaseRecord]) -> str:
    server.load(MODEL)  # which says that all is well
    with pytest.raises(NotServed) as caught:
        server.prove(MODEL, served)
    return str(caught.value)


def test_what_was_published_is_proved_swap_after_swap(repo: Path, releases: list[Path]) -> None:
    with start(repo) as triton, proving(triton) as server:
        server.reach()
        seen = server.proof(MODEL, {1: ONE.record})
        assert seen.compared == (1,)
        assert seen.max_abs is not None
        assert seen.max_abs < 1e-6
        for version in (2, 3, 4):
            release = (ONE, TWO)[version % 2]
            publish(releases[version % 2], repo, server=server)
            seen = server.proof(MODEL, {version: release.record})
            assert seen.compared == (version,)
            assert seen.seconds < 1
        publish(releases[1], repo, canary=True, server=server)
        assert server.proof(MODEL, {4: ONE.record, 5: TWO.record}).compared == (4, 5)
        with proving(triton, Patience(settle=0.3)) as hasty:
            assert "version 4 is READY too" in refused(hasty, {5: TWO.record})
        server.unload(MODEL)
        with pytest.raises(NotServed, match=r"version 5 is UNAVAILABLE \(unloaded\)"):
            server.prove(MODEL, {5: TWO.record})


def test_weights_that_a_file_from_the_future_keeps_in_place_are_refused(
    repo: Path, releases: list[Path]
) -> None:
    tomorrow = time.time() + 86_400
    os.utime(repo / MODEL / "labels.txt", (tomorrow, tomorrow))
    with start(repo) as triton, proving(triton) as server:
        publish(releases[1], repo)
        config = repo / MODEL / "config.pbtxt"
        bumped = config.stat().st_mtime
        assert bumped > tomorrow
        os.utime(config, (time.time(), time.time()))
        said = refused(server, {2: TWO.record})
        assert "version 2 is UNKNOWN, expected READY" in said
        assert "version 1 is READY too" in said
        os.utime(config, (bumped, bumped))
        server.load(MODEL)
        server.prove(MODEL, {2: TWO.record})


def test_a_link_swapped_back_to_older_files_is_refused(repo: Path, tmp_path: Path) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    publish(write_release(tmp_path / "two", TWO), newer)
    shutil.copytree(repo / MODEL, older / MODEL)
    past = time.time() - 86_400
    for file in (older / MODEL, *(older / MODEL).rglob("*")):
        os.utime(file, (past, past))
    shutil.rmtree(repo / MODEL)
    (repo / MODEL).symlink_to(newer / MODEL)
    later = time.time() + 60  # the time of a change of inode cannot be set, but outdone
    os.utime(newer / MODEL / "config.pbtxt", (later, later))
    with start(repo) as triton, proving(triton) as server:
        server.prove(MODEL, {1: TWO.record})
        (repo / MODEL).unlink()
        (repo / MODEL).symlink_to(older / MODEL)
        said = refused(server, {1: ONE.record})
    assert "digest of version 1 is" in said
    assert "version 1: canary: 4 of 4 rows are not as recorded" in said


def test_other_weights_under_the_same_digest_are_refused(repo: Path) -> None:
    (repo / MODEL / "1" / "model.onnx").write_bytes(TWO.file)
    with start(repo) as triton, proving(triton) as server:
        said = refused(server, {1: ONE.record})
    assert "version 1: canary: 4 of 4 rows are not as recorded" in said
    assert "digest" not in said


def test_the_token_of_our_own_server_is_found(repo: Path, tmp_path: Path) -> None:
    with start(repo) as triton:
        with server_at(triton.url) as stranger, pytest.raises(NotServed, match="--token-file"):
            stranger.reach()
        with remembered(repo, triton), server_of(ServerOptions(triton.url)) as ours:
            assert ours is not None
            ours.reach()
            ours.load(MODEL)
        wrong = tmp_path / "token"
        wrong.write_text("hunter2\n")
        with server_of(ServerOptions(triton.url, token_file=wrong)) as other:
            assert other is not None
            with pytest.raises(NotServed, match="not this server's"):
                other.reach()
