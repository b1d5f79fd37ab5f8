"""Small releases, failing disks and a server that is none, for the tests of repositories."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bandstop.export.config import config_text, labels_text, served_versions
from bandstop.export.disk import Disk
from bandstop.export.errors import NotServed
from bandstop.export.history import History, read_history
from bandstop.export.record import (
    CONFIG,
    LABELS,
    MODEL,
    RECORD,
    ForgetRecord,
    ReleaseRecord,
    describe,
    record_bytes,
)
from tests.releases import CLASSES, record


def release(
    folder: Path,
    classes: Sequence[int] = (),
    *,
    file: bytes = b"onnx",
    always: Sequence[int] = (),
    images: int = 0,
    artifact: str = "a",
    resize: int | None = None,
) -> Path:
    """Write a baked release that forgets `classes`, and `images` training images."""
    names = tuple("" if c in classes else name for c, name in enumerate(CLASSES))
    facts = record(file, names=names, mode="baked")
    forget = ForgetRecord(
        classes=[*classes], instances=images, always=[*always], slots=0, allow_none=False
    )
    preprocess = facts.preprocess.model_copy(update={"resize": resize})
    changed = {"forget": forget, "artifact_sha256": artifact * 64, "preprocess": preprocess}
    facts = facts.model_copy(update=changed)
    config = config_text(facts.name, {1: facts}).encode()
    whole = facts.model_copy(update={"files": {**facts.files, **describe({CONFIG: config})}})
    folder.mkdir()
    (folder / MODEL).write_bytes(file)
    (folder / CONFIG).write_bytes(config)
    (folder / LABELS).write_bytes(labels_text(names).encode())
    (folder / RECORD).write_bytes(record_bytes(whole))
    return folder


def contents(root: Path) -> dict[str, bytes]:
    """Return relative path -> content of all that is beside and in the repository but its lock."""
    return {
        str(p.relative_to(root.parent)): p.read_bytes() if p.is_file() else b"<folder>"
        for p in root.parent.rglob("*")
        if p.name != f".{root.name}.lock"
    }


def served(root: Path, model: str = "digits") -> tuple[int, ...]:
    return served_versions((root / model / CONFIG).read_text())


def past(root: Path, model: str = "digits") -> History:
    history = read_history(root / model)
    assert history is not None
    return history


def actions(root: Path, model: str = "digits") -> list[tuple[str, int, list[int]]]:
    """Return what was done: action, version, and what was served from then on."""
    return [(e.action, e.version, e.after) for e in past(root, model).events]


class StepError(Exception):
    """What the failing disk raises."""


class FastDisk(Disk):
    """Waits for no disk: what a process sees is all that matters here."""

    def write(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)

    def sync(self, folder: Path) -> None:
        pass


class FailingDisk(FastDisk):
    """A disk on which one change fails, counted from 0.

    Args:
        fail_at: which.
        beside: whether the repository shares a file system with its parent.
        error: what is raised.
    """

    def __init__(
        self, fail_at: int, *, beside: bool = True, error: Exception | None = None
    ) -> None:
        self.left = fail_at
        self.beside = beside
        self.error = error or StepError()

    def step(self) -> None:
        self.left -= 1
        if self.left == -1:
            raise self.error

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


class KilledDisk(FailingDisk):
    """After the failure nothing else happens, as if the process were gone.

    A removal counts as a change too, and the one that fails removes half of a folder.
    """

    def step(self) -> None:
        super().step()
        if self.left < -1:
            raise self.error

    def remove(self, path: Path) -> None:
        if self.left == 0 and path.is_dir():
            for entry in sorted(path.iterdir())[::2]:
                Disk().remove(entry)
        self.step()
        super().remove(path)


class FakeServer:
    """A server with what of Triton matters here.

    It takes a model up only where the newest time in its folder grew, keeps what it had when it
    cannot, and says what it has.

    Args:
        root: the repository.
        refuse: `load` and `prove` calls, counted from 1 together, that are refused.
    """

    def __init__(self, root: Path, refuse: Sequence[int] = ()) -> None:
        self.root = root
        self.refuse = set(refuse)
        self.calls: list[str] = []
        self.loaded: dict[str, dict[int, bytes]] = {}
        self.newest: dict[str, int] = {}
        self.away = False

    def reach(self) -> None:
        if self.away:
            raise NotServed("the server does not answer")

    def load(self, model: str) -> None:
        self._count("load")
        folder = self.root / model
        times = [p.lstat() for p in (folder, *folder.rglob("*"))]
        newest = max(max(t.st_mtime_ns, t.st_ctime_ns) for t in times)
        if newest > self.newest.get(model, 0):
            self.newest[model] = newest
            files = {v: folder / str(v) / MODEL for v in served(self.root, model)}
            self.loaded[model] = {v: file.read_bytes() for v, file in files.items()}

    def unload(self, model: str) -> None:
        self.calls.append("unload")
        self.loaded.pop(model, None)
        self.newest.pop(model, None)

    def prove(self, model: str, served: Mapping[int, ReleaseRecord]) -> None:
        self._count("prove")
        wanted = {v: record.files[MODEL] for v, record in served.items()}
        there = {v: describe({MODEL: file})[MODEL] for v, file in self.loaded[model].items()}
        if wanted != there:
            raise NotServed(f"served are {sorted(there)}, expected {sorted(wanted)}")

    def prove_images(self, model: str, version: int, record: ReleaseRecord, top_k: int) -> None:
        self._count("prove_images")

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) in self.refuse:
            raise NotServed(f"{call} was refused")
