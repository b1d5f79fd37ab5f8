"""A real Triton that takes encoded pictures: what it answers, and that no swap loses a request."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from bandstop.cli.main import main
from bandstop.export.ensemble import ensemble_of
from bandstop.export.promote import promote, rollback
from bandstop.export.readback import TritonServer, server_at
from bandstop.export.repository import publish
from bandstop.serve.install import install
from bandstop.serve.triton import Triton, start
from tests.ensembles import lettered, logits, picture, written
from tests.servers import prepare, until

pytestmark = pytest.mark.triton
RELEASES = [lettered(letter, seed) for letter, seed in (("a", 1), ("b", 2), ("c", 3))]
TOP_K = 3
PICTURES = [picture(0), picture(1, (40, 8), "JPEG"), picture(2, (9, 30), "WEBP")]


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    prepare()
    install()  # with Pillow
    return written(tmp_path_factory.mktemp("releases"), *RELEASES)


@pytest.fixture
def repo(tmp_path: Path, releases: list[Path]) -> Path:
    publish(releases[0], tmp_path / "repo", top_k=TOP_K)
    return tmp_path / "repo"


@contextlib.contextmanager
def proving(triton: Triton) -> Iterator[TritonServer]:
    with server_at(triton.url, None, triton.headers) as server:
        yield server


def ask(client: Any, pictures: list[bytes], forget: list[int], version: str = "") -> Any:
    encoded = np.array(pictures, np.object_).reshape(-1, 1)
    asked = np.array(forget, np.int64)[:, None]
    inputs = [
        grpc.InferInput("encoded", list(encoded.shape), "BYTES").set_data_from_numpy(encoded),
        grpc.InferInput("forget_class", list(asked.shape), "INT64").set_data_from_numpy(asked),
    ]
    return client.infer("digits_images", inputs, model_version=version, client_timeout=10)


def misses(reply: Any, release: Any, forget: list[int]) -> list[str]:
    """Return where an answer about PICTURES is not that of `release`."""
    expected = logits(PICTURES[: len(forget)], release, forget)
    best = np.argsort(-expected, axis=1, kind="stable")[:, :TOP_K]
    names = np.array(release.record.class_names)[best].tolist()
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    sums = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), best, axis=1)
    found = []
    if np.abs(reply.as_numpy("logits") - expected).max() > 1e-4:
        found.append("logits")
    if [[n.decode() for n in row] for row in reply.as_numpy("names").tolist()] != names:
        found.append("names")
    if not np.array_equal(reply.as_numpy("indices"), best):
        found.append("indices")
    if np.abs(reply.as_numpy("probabilities") - sums).max() > 1e-4:
        found.append("probabilities")
    if reply.as_numpy("applied_forget_class")[:, 0].tolist() != forget:
        found.append("applied_forget_class")
    return found


class Load:
    """Clients of Triton's own library, without retries, that judge every answer."""

    def __init__(self, url: str, releases: dict[str, Any], clients: int = 4) -> None:
        self.url, self.releases = url, releases
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.versions: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        forget = [number % 4] * (1 + number % 2)
        with grpc.InferenceServerClient(self.url) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    reply = ask(client, PICTURES[: len(forget)], forget)
                except InferenceServerException as error:
                    self.failed.append(str(error))
                    continue
                self.seconds.append(time.monotonic() - began)
                version = reply.get_response().model_version
                self.versions[version] += 1
                self.wrong += misses(reply, self.releases[version], forget)


def test_no_swap_and_no_rollback_loses_a_request_or_mixes_versions(
    repo: Path, releases: list[Path]
) -> None:
    by_version = dict(zip("123", RELEASES, strict=True))
    with (
        start(repo) as triton,
        proving(triton) as server,
        Load(triton.url, by_version) as load,
    ):
        time.sleep(0.3)
        publish(releases[1], repo, server=server)
        publish(releases[2], repo, canary=True, server=server)
        promote(repo, "digits", 3, server=server)
        rollback(repo, "digits", server=server)
        time.sleep(0.3)
    assert load.failed == []
    assert load.wrong == []
    assert set(load.versions) == {"1", "2", "3"}
    assert ensemble_of(repo, "digits").version == 2  # type: ignore[union-attr]
    for part in ("images", "decode", "names"):
        assert sorted(p.name for p in (repo / f"digits_{part}").iterdir()) == ["2", "config.pbtxt"]
    assert max(load.seconds) <= max(1.0, 20 * sorted(load.seconds)[len(load.seconds) // 2])
    with start(repo) as triton:
        assert triton.models == ["digits", "digits_decode", "digits_images", "digits_names"]


def test_it_answers_rows_and_refuses_what_is_no_picture_alone(repo: Path) -> None:
    with start(repo) as triton, grpc.InferenceServerClient(triton.url) as client:
        assert misses(ask(client, PICTURES, [0, 1, 3]), RELEASES[0], [0, 1, 3]) == []
        assert misses(ask(client, PICTURES[:1], [2], "1"), RELEASES[0], [2]) == []
        asked: list[Any] = []
        done = threading.Barrier(9)

        def one(number: int) -> None:
            with grpc.InferenceServerClient(triton.url) as own:
                done.wait()
                bad = number == 4
                try:
                    reply = ask(own, [b"GIF89a" if bad else PICTURES[0]], [1])
                    asked.append(misses(reply, RELEASES[0], [1]))
                except InferenceServerException as error:
                    asked.append((error.status(), error.message()))

        threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        done.wait()
        for thread in threads:
            thread.join()
        assert asked.count([]) == 7
        (refused,) = [found for found in asked if found]
        assert refused[0] == "StatusCode.INVALID_ARGUMENT"
        assert "image 0: not an image of a known format (JPEG, PNG, WEBP)" in refused[1]
        with pytest.raises(InferenceServerException, match=r"image 1: damaged: .*truncated"):
            ask(client, [PICTURES[0], PICTURES[1][:-60]], [0, 0])
        # this graph takes -1 for the last class, and echoes it: no name for a refused row
        with pytest.raises(InferenceServerException, match="image 1: forget_class is no class"):
            ask(client, PICTURES[:2], [0, -1])


def test_an_ensemble_whose_version_is_withdrawn_behind_its_back_does_not_answer(
    repo: Path, releases: list[Path]
) -> None:
    with start(repo) as triton, proving(triton) as server:
        publish(releases[1], repo, server=server)
        config = repo / "digits" / "config.pbtxt"
        config.write_text(config.read_text().replace("versions: 2", "versions: 1"))
        server.load("digits")
        with grpc.InferenceServerClient(triton.url) as client:
            until(lambda: not client.is_model_ready("digits_images"))
            with pytest.raises(InferenceServerException, match="no available versions"):
                ask(client, PICTURES[:1], [0])


def test_a_step_whose_process_is_killed_comes_back(repo: Path) -> None:
    with start(repo, watch=True) as triton, grpc.InferenceServerClient(triton.url) as client:
        stubs = [
            process
            for process in psutil.Process(triton.pid).children(recursive=True)
            if "digits_decode" in " ".join(process.cmdline())
        ]
        assert stubs
        for stub in stubs:
            stub.kill()

        def answers() -> bool:
            with contextlib.suppress(InferenceServerException):
                return misses(ask(client, PICTURES[:1], [0]), RELEASES[0], [0]) == []
            return False

        until(answers, 15)
        time.sleep(1)  # while it comes back, Triton may take the ensemble away once more
        assert answers()
        assert triton.repairs + triton.restarts >= 1


def test_the_command_line_publishes_and_proves_an_ensemble(
    tmp_path: Path, releases: list[Path]
) -> None:
    root = tmp_path / "repo"
    publish(releases[0], root)
    with start(root) as triton:
        token = tmp_path / "token"
        token.write_text(triton.access.token)
        url = ["--url", triton.url, "--token-file", str(token)]
        repo, release = str(root), str(releases[1])
        assert main(["repo", "publish", release, repo, "--ensemble", "--top-k", "2", *url]) == 0
        assert main(["repo", "doctor", repo]) == 0
        assert main(["repo", "rollback", repo, "digits", *url]) == 0
        with grpc.InferenceServerClient(triton.url) as client:
            reply = ask(client, PICTURES[:1], [0])
        assert reply.as_numpy("names").shape == (1, 2)
        assert reply.get_response().model_version == "1"
    assert main(["repo", "list", repo]) == 0
