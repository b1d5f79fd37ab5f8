"""Publishing: whole or not at all, one number each, and what the config says is what is there."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandstop.export.config import served_versions
from bandstop.export.disk import Disk
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.repository import publish, versions
from tests.releases import release_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in a folder of its own, so that what lies beside it can be seen."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "models"


def contents(root: Path) -> dict[str, bytes]:
    """Return relative path -> content of all that is beside and in the repository but its lock."""
    return {
        str(p.relative_to(root.parent)): p.read_bytes() if p.is_file() else b"<folder>"
        for p in root.parent.rglob("*")
        if p.name != ".models.lock"
    }


def served(root: Path, model: str = "digits") -> tuple[int, ...]:
    return served_versions((root / model / "config.pbtxt").read_text())


def test_a_published_version_is_the_one_served(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release", b"first")
    assert publish(release, root) == 1
    assert served(root) == (1,)
    folder = root / "digits"
    assert sorted(p.name for p in folder.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
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


class StepError(Exception):
    """What the failing disk raises."""


class FailingDisk(Disk):
    """A disk on which one change fails, counted from 0."""

    def __init__(self, fail_at: int, *, beside: bool = True) -> None:
        self.left = fail_at
        self.beside = beside

    def step(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise StepError

    def make(self, folder: Path) -> None:
        self.step()
        super().make(folder)

    def write(self, file: Path, content: bytes) -> None:
        if self.left == 0:
            file.write_bytes(content[: len(content) // 2])
        self.step()
        super().write(file, content)

    def sync(self, folder: Path) -> None:
        self.step()
        super().sync(folder)

    def rename(self, old: Path, new: Path) -> None:
        self.step()
        super().rename(old, new)

    def set_modified(self, file: Path, nanoseconds: int) -> None:
        self.step()
        super().set_modified(file, nanoseconds)

    def same_device(self, one: Path, other: Path) -> bool:
        return self.beside and super().same_device(one, other)


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
    class KilledDisk(FailingDisk):
        """After the failure nothing else happens, as if the process were gone."""

        def step(self) -> None:
            super().step()
            if self.left < -1:
                raise StepError

        def remove(self, path: Path) -> None:
            if self.left < 0:
                raise OSError
            super().remove(path)

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
        assert names <= {"config.pbtxt", "labels.txt", *map(str, range(1, number + 1))}
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


def test_concurrent_publishers_get_a_number_each(tmp_path: Path, root: Path) -> None:
    release = release_folder(tmp_path / "release")
    code = (
        "import sys; from pathlib import Path; from bandstop.export.repository import publish; "
        "print(publish(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(release), str(root)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(publish(release, root))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers += [int(process.communicate()[0]) for process in processes]
    assert sorted(numbers) == list(range(1, 9))
    assert served(root) == (8,)


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
