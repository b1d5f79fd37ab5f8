"""A change of a repository that is killed, or that the disk refuses, is whole or not at all."""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bandstop.export.disk import Disk
from bandstop.export.errors import DiskError, NotServed
from bandstop.export.gc import gc
from bandstop.export.promote import promote, rollback
from bandstop.export.repository import changing, publish
from tests.repository_toys import (
    FailingDisk,
    FakeServer,
    KilledDisk,
    StepError,
    actions,
    contents,
    release,
    served,
)

State = tuple[object, ...]


def made(place: Path, releases: Path) -> Path:
    """Return a repository with versions 1 (served once), 2 (served), 3 (there only)."""
    template = releases.parent / "template"
    if not template.exists():
        template.mkdir()
        for n in (1, 2, 3):
            publish(releases / str(n), template / "models", serve=n < 3)
    shutil.copytree(template, place)
    return place / "models"


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    for n in (1, 2, 3, 4):
        release(folder / str(n), (1,), file=b"weights" * n)
    return folder


def state(root: Path) -> State:
    """Return all that a user or a server could see of the model; dates are left out."""
    files = {k: v for k, v in contents(root).items() if "history" not in k}
    return files, actions(root)


CHANGES: dict[str, Callable[[Path, Path, Disk | None], object]] = {
    "publish": lambda root, from_, disk: publish(from_ / "4", root, disk=disk),
    "add": lambda root, from_, disk: publish(from_ / "4", root, serve=False, disk=disk),
    "canary": lambda root, from_, disk: publish(from_ / "4", root, canary=True, disk=disk),
    "promote": lambda root, _, disk: promote(root, "digits", 3, disk=disk),
    "rollback": lambda root, _, disk: rollback(root, "digits", disk=disk),
    "gc": lambda root, _, disk: gc(root, keep=0, disk=disk),
}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_a_killed_change_is_there_whole_or_not_at_all(
    tmp_path: Path, releases: Path, name: str, beside: bool
) -> None:
    change = CHANGES[name]
    old_root = made(tmp_path / "old", releases)
    old = state(old_root)
    change(old_root, releases, None)
    new = state(old_root)
    seen, step = [], 0
    while True:
        root = made(tmp_path / f"place{step}", releases)
        try:
            change(root, releases, KilledDisk(step, beside=beside))
            break
        except StepError:
            step += 1
        with changing(root, None, None):  # sweeps
            pass
        now = state(root)
        if name == "gc":  # written down first; what was not removed yet is removed by the next
            assert now[1] in (old[1], new[1])
            assert gc(root, keep=0) or now == new
        else:
            assert now in (old, new)
        seen.append(now == new)
        number = publish(releases / "4", root)
        assert number == (5 if now[1] == new[1] and name in ("publish", "add", "canary") else 4)
        assert served(root) == (number,)
    assert state(root) == new
    assert step > 8
    assert seen == sorted(seen)  # once it is committed it stays so
    assert {*seen} == {True, False}


def refusal(change: Callable[[], object]) -> str | None:
    try:
        change()
    except DiskError as error:
        return str(error)
    return None


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, errno.ENOSPC) for name in (*CHANGES, "first")),
        *(("publish", code) for code in (errno.EIO, errno.EROFS, errno.EDQUOT)),
    ],
)
def test_what_the_disk_refuses_changes_nothing_and_is_told(
    tmp_path: Path, releases: Path, name: str, code: int, beside: bool
) -> None:
    change = CHANGES.get(name, CHANGES["publish"])
    if name == "first":
        (tmp_path / "place").mkdir()
        root = tmp_path / "place" / "models"
        old: dict[str, bytes] = {}
    else:
        root = made(tmp_path / "place", releases)
        old = contents(root)
    for step in range(100):
        error = OSError(code, "No space left on device", str(root / "file"))
        told = refusal(
            partial(change, root, releases, FailingDisk(step, beside=beside, error=error))
        )
        if told is not None:
            assert str(root) in told
            assert "\n" not in told
            if "run gc again" not in told:
                assert "nothing was changed" in told
                assert ("bytes needed" in told) == (code in (errno.ENOSPC, errno.EDQUOT))
                assert contents(root) == old
        if contents(root) != old and name != "gc":
            break
        if name == "gc" and step > 12:
            break
    assert step > 8


def test_what_is_needed_and_free_is_told(tmp_path: Path, releases: Path) -> None:
    root = tmp_path / "models"
    needed = sum(p.stat().st_size for p in (releases / "1").iterdir())
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskError, match=rf"{needed} bytes needed, [0-9]+ free"):
        publish(releases / "1", root, disk=FailingDisk(3, error=full))


class RecordingDisk(Disk):
    """Writes down every change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, str]] = []

    def write(self, file: Path, content: bytes) -> None:
        self.note("write", file)
        super().write(file, content)

    def sync(self, folder: Path) -> None:
        self.note("sync", folder)
        super().sync(folder)

    def rename(self, old: Path, new: Path) -> None:
        self.note("rename", new)
        super().rename(old, new)

    def make(self, folder: Path) -> None:
        self.note("make", folder)
        super().make(folder)

    def note(self, what: str, path: Path) -> None:
        self.log.append((what, str(path.relative_to(self.root.parent))))

    def at(self, what: str, path: str) -> int:
        """Return when it happened last."""
        return max(i for i, entry in enumerate(self.log) if entry == (what, path))


def test_everything_is_on_the_disk_before_the_next_step_relies_on_it(
    tmp_path: Path, releases: Path
) -> None:
    root = made(tmp_path / "place", releases)
    disk = RecordingDisk(root)
    publish(releases / "4", root, disk=disk)
    stage = ".models.stage-digits-4"
    in_order = [
        ("write", f"{stage}/4/model.onnx"),
        ("sync", f"{stage}/4"),
        ("write", f"{stage}/config.pbtxt"),
        ("sync", stage),
        ("rename", "models/digits/4"),
        ("rename", "models/digits/labels.txt"),
        ("rename", "models/digits/history.json"),
        ("rename", "models/digits/config.pbtxt"),
        ("sync", "models/digits"),
    ]
    times = [disk.at(*step) for step in in_order]
    assert times == sorted(times)
    before_commit = disk.log[: disk.at("rename", "models/digits/config.pbtxt")]
    moved = before_commit.index(("rename", "models/digits/history.json"))
    assert ("sync", "models/digits") in before_commit[moved:]
    journal = disk.log.index(("write", f"{stage}/config.pbtxt"))
    assert ("sync", stage) in disk.log[:journal]  # what was before is there when it is needed
    assert ("make", "models/digits/4") not in disk.log  # a rename onto an empty folder succeeds


def test_a_first_publish_is_on_the_disk_before_it_is_seen(tmp_path: Path, releases: Path) -> None:
    root = tmp_path / "models"
    disk = RecordingDisk(root)
    publish(releases / "1", root, disk=disk)
    whole = ".models.stage-digits-1/digits"
    in_order = [("sync", f"{whole}/1"), ("sync", whole), ("rename", "models/digits")]
    times = [disk.at(*step) for step in (*in_order, ("sync", "models"))]
    assert times == sorted(times)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("published", [0, 3])
def test_killed_while_a_refused_publish_is_taken_back(
    tmp_path: Path, releases: Path, published: int, beside: bool
) -> None:
    step = 0
    while True:
        place = tmp_path / f"place{step}"
        if published:
            root = made(place, releases)
            old = contents(root)
        else:
            place.mkdir()
            root = place / "models"
        server = FakeServer(root, refuse=[2])
        try:
            disk = KilledDisk(step, beside=beside)
            publish(releases / "4", root, server=server, disk=disk)
        except (StepError, NotServed) as error:
            ended = isinstance(error, NotServed) and "as before" in str(error)
        with changing(root, None, None):
            pass
        if published:
            # the publish was committed and not yet taken back, or all is as it was
            assert served(root) in ((2,), (4,))
            whole = root / "digits" / str(served(root)[0]) / "model.onnx"
            assert whole.read_bytes() in (b"weights" * 2, b"weights" * 4)
            kept = {k: v for k, v in contents(root).items() if "digits/2" in k}
            assert kept.items() <= old.items()
        elif root.exists() and (root / "digits").exists():
            assert served(root) == (1,)
        publish(releases / "4", root)
        if ended:
            break
        step += 1
    assert step > 12


def test_permissions_do_not_depend_on_the_mask(tmp_path: Path, releases: Path) -> None:
    mask = os.umask(0)
    try:
        publish(releases / "1", tmp_path / "models")
    finally:
        os.umask(mask)
    paths = [tmp_path / ".models.lock", *(tmp_path / "models").rglob("*")]
    assert [p for p in paths if p.stat().st_mode & 0o022] == []
