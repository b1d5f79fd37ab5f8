"""Publishing: whole or not at all, one number each, and what the config says is what is there."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandstop.export.disk import Disk
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.repository import publish, versions
from tests.releases import release_folder
from tests.repository_toys import FailingDisk, KilledDisk, StepError, contents, served


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in a folder of its own, so that what lies beside it can be seen."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "models"


def test_a_published_version_is_the_one_served(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release", b"first")
    assert publish(release, root) == 1
    assert served(root) == (1,)
    folder = root / "digits"
    assert sorted(p.name for p in folder.iterdir()) == [
        "1",
        "config.pbtxt",
        "history.json",
        "labels.txt",
    ]
    assert sorted(p.name for p in (folder / "1").iterdir()) == [
        "labels.txt",
        "model.onnx",
        "release.json",
    ]
    assert (folder / "1" / "model.onnx").read_bytes() == b"first"
    assert (folder / "labels.txt").read_bytes() == (release / "labels.txt").read_bytes()
    assert (folder / "config.pbtxt").read_bytes() == (release / "config.pbtxt").read_bytes()


def test_the_next_version_takes_over_and_the_old_one_stays(tmp_path: Path, root: Path) -> None:
    publish(release_folder(tmp_path / "one", b"first"), root)
    before = contents(root)
    names = ("a", "b", "c", "d")
    assert publish(release_folder(tmp_path / "two", b"second", names=names), root) == 2
    assert served(root) == (2,)
    after = contents(root)
    old = {path: data for path, data in before.items() if path.startswith("models/digits/1")}
    assert old.items() <= after.items()
    assert after["models/digits/2/model.onnx"] == b"second"
    assert after["models/digits/labels.txt"] == b"a\nb\nc\nd\n"
    assert "labels.2" in (root / "digits" / "config.pbtxt").read_text()


def test_models_have_their_own_versions_and_are_listed(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release")
    for model in ("b", "a", "b"):
        publish(release, root, model)
    (root / "foreign" / "4").mkdir(parents=True)
    found = [(v.model, v.version, v.served, v.record is not None) for v in versions(root)]
    assert found == [
        ("a", 1, True, True),
        ("b", 1, False, True),
        ("b", 2, True, True),
        ("foreign", 4, True, False),
    ]


def failures(run: Callable[[Disk], int], *, beside: bool) -> Iterator[None]:
    """Yield after `run` failed at its first change, its second, ... until one run succeeds."""
    for step in range(100):
        try:
            run(FailingDisk(step, beside=beside))
        except StepError:
            yield
        else:
            assert step > 8
            return


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("published", [0, 2])
def test_an_interrupted_publish_changes_nothing_before_its_commit(
    tmp_path: Path, root: Path, published: int, beside: bool
) -> None:
    old = release_folder(tmp_path / "old", b"old")
    new = release_folder(tmp_path / "new", b"new", names=("a", "b", "c", "d"))
    for _ in range(published):
        publish(old, root)
    before = contents(root)
    outcomes = []
    for _ in failures(lambda disk: publish(new, root, disk=disk), beside=beside):
        now = contents(root)
        outcomes.append(now == before)
        if now != before:  # the commit was made, only its durability was not
            assert served(root) == (published + 1,)
            assert now[f"models/digits/{published + 1}/model.onnx"] == b"new"
            break
    assert sum(outcomes) > 8


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("published", [0, 2])
def test_what_a_killed_publish_leaves_is_swept_by_the_next(
    tmp_path: Path, root: Path, published: int, beside: bool
) -> None:
    old = release_folder(tmp_path / "old", b"old")
    new = release_folder(tmp_path / "new", b"new", names=("a", "b", "c", "d"))
    step = 0
    while True:
        place = tmp_path / f"place{step}"
        place.mkdir()
        repo = place / "models"
        for _ in range(published):
            publish(old, repo)
        try:
            publish(new, repo, disk=KilledDisk(step, beside=beside))
            break
        except (StepError, OSError):
            step += 1
        number = publish(old, repo)
        assert served(repo) == (number,)
        assert [p.name for p in place.iterdir() if "stage" in p.name] == []
        names = {p.name for p in (repo / "digits").iterdir()}
        assert names <= {
            "config.pbtxt",
            "history.json",
            "labels.txt",
            *map(str, range(1, number + 1)),
        }
        assert (repo / "digits" / "labels.txt").read_bytes() == (old / "labels.txt").read_bytes()
        listed = [v.version for v in versions(repo)]
        # a version that was not committed is gone and its number is given again
        assert listed == list(range(1, number + 1))
        assert number in (published + 1, published + 2)
    assert step > 8


def test_a_failure_leaves_the_folders_around_the_repository_clean(
    tmp_path: Path, root: Path
) -> None:
    release = release_folder(tmp_path / "release")
    with pytest.raises(StepError):
        publish(release, root, disk=FailingDisk(4))
    assert not root.exists()
    assert [p.name for p in root.parent.iterdir()] == [".models.lock"]


PUBLISHERS = """
import os, sys
from pathlib import Path
from bandstop.export.repository import publish
releases, root, out = sys.argv[1:3], Path(sys.argv[3]), Path(sys.argv[4])
pids = []
for n in range(20):
    pid = os.fork()
    if not pid:
        try:
            (out / str(n)).write_text(str(publish(Path(releases[n % 2]), root)))
        finally:
            os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""


def test_concurrent_publishers_get_a_number_each(tmp_path: Path, root: Path) -> None:
    releases = [release_folder(tmp_path / n, n.encode()) for n in ("even", "odd")]
    (tmp_path / "out").mkdir()
    arguments = [*map(str, releases), str(root), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", PUBLISHERS, *arguments], check=True)
    numbers = {p.name: int(p.read_text()) for p in (tmp_path / "out").iterdir()}
    assert sorted(numbers.values()) == list(range(1, 21))
    assert served(root) == (20,)
    for n, number in numbers.items():
        content = (root / "digits" / str(number) / "model.onnx").read_bytes()
        assert content == (b"odd" if int(n) % 2 else b"even")


def test_the_config_is_newer_than_everything_else(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release")
    publish(release, root)
    tomorrow = (root / "digits" / "1" / "model.onnx").stat().st_mtime_ns + 86_400 * 10**9
    os.utime(root / "digits" / "1" / "model.onnx", ns=(tomorrow, tomorrow))
    publish(release, root)
    assert (root / "digits" / "config.pbtxt").stat().st_mtime_ns > tomorrow


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "/etc", "A", "m\n", "m\0x", "モデル", ".m", "-m", "x" * 65, "a b"]
)
def test_a_model_name_is_a_plain_word(tmp_path: Path, root: Path, name: str) -> None:
    release = release_folder(tmp_path / "release")
    with pytest.raises(SpecError, match="model name"):
        publish(release, root, name)
    assert contents(root) == {}


def test_another_interface_needs_another_name(tmp_path: Path, root: Path) -> None:
    publish(release_folder(tmp_path / "gated"), root)
    baked = release_folder(tmp_path / "baked", mode="baked")
    before = contents(root)
    with pytest.raises(SpecError, match=r"version 1 has image FP32.*forget_class.*another name"):
        publish(baked, root)
    assert contents(root) == before
    assert publish(baked, root, "digits_baked") == 1


def test_foreign_models_are_left_alone(tmp_path: Path, root: Path) -> None:
    (root / "digits" / "1").mkdir(parents=True)
    release = release_folder(tmp_path / "release")
    before = contents(root)
    with pytest.raises(SpecError, match="not published by bandstop"):
        publish(release, root)
    assert contents(root) == before


def test_paths_that_are_no_repository_are_refused(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release")
    (tmp_path / "file").write_text("")
    publish(release, root)
    cases = [(tmp_path / "file", "a file"), (tmp_path / "no" / "where", "does not exist")]
    for repo, said in [*cases, (root / "digits", "model's folder")]:
        with pytest.raises(SpecError, match=said):
            publish(release, repo)
    with pytest.raises(SpecError, match="no such folder"):
        versions(tmp_path / "nothing")


def test_a_corrupt_release_is_not_published(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release")
    (release / "model.onnx").write_bytes(b"onnX")
    with pytest.raises(ReleaseError, match="corrupt"):
        publish(release, root)
    assert contents(root) == {}
