"""The measurements of servers and repositories: what they count as torn, wrong, grown and fired."""

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bandstop.bench import serve_load, serve_soak, serve_swap
from bandstop.bench.serve_crash import _judged as crash_judged
from bandstop.bench.serve_crash import _torn
from bandstop.bench.serve_load import Ask, Load, Said
from bandstop.bench.serve_naive import publish as copy_into_place
from bandstop.bench.serve_releases import CLASSES, IMAGES, Expected
from bandstop.bench.serve_trace import Point, points, with_fault
from bandstop.export.repository import publish
from tests.releases import release_folder

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")


def expected(letter: str, value: float) -> Expected:
    names = tuple(f"{letter}{c}" for c in range(CLASSES))
    return Expected(Path(letter), names, np.full((IMAGES, CLASSES, CLASSES), value))


A, B = expected("a", 0.1), expected("b", 0.5)


def loaded(monkeypatch: pytest.MonkeyPatch, said: Said | Exception) -> dict[str, object]:
    """Return what a load of one client counts that is always told `said`; a is version 1."""

    def ask(image: int, forget: int) -> Said:
        time.sleep(0.001)
        if isinstance(said, Exception):
            raise said
        return said

    def maker(url: str, model: str, releases: object) -> Ask:
        return ask

    monkeypatch.setattr(serve_load, "ask_ours", maker)
    with Load("", [A, B], ours=1, model="digits") as load:
        time.sleep(0.05)
    return load.results({1: A})


@pytest.mark.parametrize(
    ("said", "failed", "wrong"),
    [
        (("1", "a", np.full(CLASSES, 0.1)), False, False),
        (("1", "a", np.full(CLASSES, 0.11)), False, True),
        (("1", "b", np.full(CLASSES, 0.5)), False, True),
        (("2", "a", np.full(CLASSES, 0.1)), False, True),
        (RuntimeError("no"), True, False),
    ],
    ids=["right", "probabilities off", "names of another", "another version", "error"],
)
def test_a_load_judges_each_answer(
    monkeypatch: pytest.MonkeyPatch, said: Said | Exception, failed: bool, wrong: bool
) -> None:
    seen = loaded(monkeypatch, said)
    assert seen["requests"]
    assert seen["failed"] == (seen["requests"] if failed else 0)
    assert seen["wrong"] == (seen["requests"] if wrong else 0)


@pytest.mark.parametrize(
    ("seen", "missed"),
    [
        ({"failed": 0, "wrong": 0, "max_ms": 900.0}, []),
        ({"failed": 1, "wrong": 0, "max_ms": 900.0}, ["failed"]),
        ({"failed": 0, "wrong": 2, "max_ms": 1000.1}, ["wrong", "max_ms"]),
    ],
)
def test_a_swap_may_not_fail_nor_take_long(seen: dict[str, object], missed: list[str]) -> None:
    assert serve_swap._judged(seen | {"max_bar_ms": 1000.0}, 1.0)["missed"] == missed


@pytest.mark.parametrize(
    ("late", "first", "left", "missed"),
    [
        (100.0, 1.0, [], []),
        (103.9, 1.0, [], []),
        (104.1, 1.0, [], ["growth"]),
        (100.0, 3.1, [], ["start_s"]),
        (100.0, 1.0, ["/dev/shm/x"], ["left"]),
    ],
)
def test_a_soak_may_not_grow_nor_leave_anything(
    late: float, first: float, left: list[str], missed: list[str]
) -> None:
    seen: list[dict[str, object]] = [{"requests": 1, "failed": 0, "wrong": 0}]
    memory = [*[500.0] * 10, *[100.0] * 20, *[late] * 10]  # the start does not count
    assert serve_soak._judged(seen, memory, first, left)["missed"] == missed


def test_a_half_copied_version_is_torn(tmp_path: Path) -> None:
    release, repo = release_folder(tmp_path / "release", b"weights"), tmp_path / "models"
    publish(release, repo)
    copy_into_place(release, repo)
    assert not _torn(repo)
    file = repo / "digits" / "2" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    assert _torn(repo)
    file.unlink()
    assert _torn(repo)


def test_a_crash_run_needs_kills_and_as_many_versions_as_publishers() -> None:
    assert crash_judged({"kills": 1, "distinct_versions": 20})["missed"] == []
    assert crash_judged({"kills": 1, "distinct_versions": 19})["missed"] == ["distinct_versions"]
    assert crash_judged({"distinct_versions": 20})["missed"] == ["kills"]
    assert crash_judged({"kills": 1, "torn": 1})["missed"] == ["torn"]


@strace
def test_faults_hit_the_chosen_call_and_are_counted(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    code = (
        "import os, sys\n"
        "os.mkdir(sys.argv[2])\n"
        "for name in 'ab': os.mkdir(os.path.join(sys.argv[1], name))"
    )
    command = [sys.executable, "-B", "-c", code, str(place), str(tmp_path / "elsewhere")]
    found = points(command, place)
    assert found == [Point("mkdir", 2), Point("mkdir", 3)]
    for folder in (place / "a", place / "b", tmp_path / "elsewhere"):
        folder.rmdir()
    killed = with_fault(command, found[1], "signal=KILL")
    assert (killed.fired, [p.name for p in place.iterdir()]) == (True, ["a"])
    (place / "a").rmdir()
    (tmp_path / "elsewhere").rmdir()
    full = with_fault(command, found[0], "error=ENOSPC")
    assert (full.fired, full.code, list(place.iterdir())) == (True, 1, [])
    assert "No space left" in full.said
    (tmp_path / "elsewhere").rmdir()
    assert not with_fault(command, Point("mkdir", 9), "signal=KILL").fired
