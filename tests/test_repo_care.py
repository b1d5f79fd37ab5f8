"""gc removes what nothing needs, diff tells what differs, doctor tells every hazard."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bandstop.cli.main import main
from bandstop.export.diff import diff
from bandstop.export.disk import Disk
from bandstop.export.doctor import doctor
from bandstop.export.errors import ReleaseError, SpecError
from bandstop.export.gc import gc
from bandstop.export.promote import promote, rollback
from bandstop.export.repository import publish, versions
from bandstop.export.verify import verify
from tests.repository_toys import actions, contents, release, served
from tests.whole_releases import whole_release

REPOSITORY = Path(__file__).resolve().parents[1] / "triton_repo"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "models"


def removed(root: Path, *, keep: int) -> list[int]:
    return [one.version for one in gc(root, keep=keep)]


def whole(root: Path) -> list[int]:
    return [v.version for v in versions(root) if v.weights]


def test_gc_keeps_what_is_served_or_waits_or_can_be_gone_back_to(
    tmp_path: Path, root: Path
) -> None:
    for n, classes in enumerate(((), (1,), (1,), (1, 2), (1, 2), (1, 2))):
        publish(release(tmp_path / str(n), classes), root)
    publish(release(tmp_path / "waits", (1, 2)), root, serve=False)
    rollback(root, "digits")
    assert served(root) == (5,)
    before = contents(root)
    assert [one.version for one in gc(root, keep=1, dry_run=True)] == [1, 2, 3, 6]
    assert contents(root) == before
    assert removed(root, keep=9) == [1, 2, 3]  # nobody may go back to these
    assert removed(root, keep=1) == [6]
    assert whole(root) == [4, 5, 7]
    assert removed(root, keep=0) == [4]
    assert removed(root, keep=0) == []
    assert promote(root, "digits", 7).after == (7,)


def test_gc_tells_sizes_and_leaves_a_tombstone(tmp_path: Path, root: Path) -> None:
    publish(release(tmp_path / "one", file=b"weights"), root)
    publish(release(tmp_path / "two"), root)
    (found,) = gc(root, "digits", keep=0)
    assert (found.model, found.version, found.size) == ("digits", 1, 7)
    assert sorted(p.name for p in (root / "digits" / "1").iterdir()) == [
        "labels.txt",
        "release.json",
    ]
    assert actions(root)[-1] == ("gc", 1, [2])
    assert publish(release(tmp_path / "three"), root) == 3
    with pytest.raises(SpecError, match="letters: not in the repository"):
        gc(root, "letters")
    with pytest.raises(SpecError, match="keep: expected 0 or more"):
        gc(root, keep=-1)


def test_gc_leaves_foreign_models_alone(tmp_path: Path, root: Path) -> None:
    publish(release(tmp_path / "one"), root)
    foreign = root / "foreign" / "1" / "model.onnx"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"theirs")
    (root / "foreign" / "config.pbtxt").write_text("")
    assert removed(root, keep=0) == []
    assert foreign.exists()


def test_diff_tells_fields_that_differ(tmp_path: Path, root: Path) -> None:
    publish(release(tmp_path / "one", (1,), file=b"weights"), root)
    publish(release(tmp_path / "two", (1, 2), file=b"heavier", images=3, artifact="b"), root)
    gc(root, keep=0)
    found = diff(root, "digits", 1, 2)
    digests = [name for name in found if name.endswith("sha256")]
    assert {name: found[name] for name in found if name not in digests} == {
        "forget.classes": ([1], [1, 2]),
        "forget.instances": (0, 3),
        "class_names.2": ('naïve "fish"', ""),
        "files.labels.txt.size": (24, 11),
        "files.config.pbtxt.size": found["files.config.pbtxt.size"],
    }
    assert "files.model.onnx.sha256" in digests
    assert "artifact_sha256" in digests
    assert diff(root, "digits", 2, 2) == {}
    with pytest.raises(SpecError, match="no version 3 by bandstop; expected one of 1, 2"):
        diff(root, "digits", 1, 3)


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        file = root / "digits" / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


def write(name: str, content: bytes = b"") -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)

    return change


def future(root: Path) -> None:
    later = time.time() + 3600
    os.utime(root / "digits" / "1" / "labels.txt", (later, later))


def moved(root: Path) -> None:
    (root / "digits").rename(root.parent / "real")
    (root / "digits").symlink_to(root.parent / "real")


POLICY = "specific {\n    versions: 2\n  }"
HAZARDS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "labels too short": (edit("labels.txt", "bird\n", ""), "digits/2", "not the names"),
    "labels of a version": (edit("2/labels.txt", "bird", "Bird"), "digits/2", "digest"),
    "a name forgotten": (edit("labels.txt", "cat\n\n", "cat\ndog\n"), "digits/2", "not the names"),
    "weights": (write("digits/1/model.onnx", b"x"), "digits/1", "model.onnx"),
    "cache": (
        edit("config.pbtxt", "max_batch_size", "response_cache { enable: true }\nmax_batch_size"),
        "digits/config.pbtxt",
        "response_cache",
    ),
    "all": (
        edit("config.pbtxt", POLICY, "all { }"),
        "digits/config.pbtxt",
        "version_policy",
    ),
    "no batch": (edit("config.pbtxt", "size: 8", "size: 0"), "digits/config.pbtxt", "max_batch"),
    "warm-up": (
        edit("config.pbtxt", "zero_data: true", 'input_data_file: "../../x"'),
        "digits/config.pbtxt",
        "model_warmup reads '../../x'",
    ),
    "not there": (edit("config.pbtxt", "versions: 2", "versions: 9"), "digits/9", "not there"),
    "no config": (lambda r: (r / "digits" / "config.pbtxt").unlink(), "digits", "no config.pbtxt"),
    "unreadable": (write("digits/config.pbtxt", b"{"), "digits/config.pbtxt", "unreadable"),
    "gone": (
        lambda r: Disk().remove(r / "digits" / "1"),
        "digits/1",
        "not there any more",
    ),
    "no weights": (
        lambda r: (r / "digits" / "2" / "model.onnx").unlink(),
        "digits/2",
        "weights are not there",
    ),
    "unpublished": (lambda r: (r / "digits" / "1" / "release.json").unlink(), "digits/1", "nobody"),
    "history": (write("digits/history.json", b"{}"), "digits", "not a history"),
    "future": (future, "digits/1/labels.txt", "dated in the future"),
    "link": (moved, "digits", "a link"),
    "open": (lambda r: (r / "digits" / "1").chmod(0o777), "digits/1", "by everybody"),
    "finder": (write("digits/.DS_Store"), "digits/.DS_Store", "foreign"),
    "notes": (write("notes.txt"), "notes.txt", "foreign"),
    "abort": (lambda r: (r / "digits" / ("9" * 20)).mkdir(), f"digits/{'9' * 20}", ""),
    "tmp": (lambda r: (r / "digits" / "2.tmp").mkdir(), "digits/2.tmp", ""),
    "empty": (lambda r: (r / "digits" / "3").mkdir(), "digits/3", "nobody published"),
    "file": (write("digits/3"), "digits/3", "foreign"),
    "dangling": (lambda r: (r / "x").symlink_to("nowhere"), "x", "a link"),
    "stranger": (write("digits/2/extra.bin"), "digits/2", "unlisted"),
}


@pytest.mark.parametrize("name", HAZARDS)
def test_the_doctor_tells_where_what_and_the_mend(tmp_path: Path, root: Path, name: str) -> None:
    mode = "gated" if name == "cache" else "baked"
    for n in (1, 2):
        publish(whole_release(tmp_path / str(n), mode, weight=n / 4), root)
    assert doctor(root).findings == ()
    spoil, where, what = HAZARDS[name]
    spoil(root)
    before = contents(root)
    found = doctor(root).findings
    assert [f for f in found if f.where == where and what in f.what]
    assert all(f.mend for f in found)
    assert contents(root) == before
    assert main(["repo", "doctor", str(root)]) == 5


def test_a_served_version_that_knows_again_is_told_unless_a_reason_is(
    tmp_path: Path, root: Path
) -> None:
    publish(whole_release(tmp_path / "one"), root)
    publish(whole_release(tmp_path / "two", weight=0.25), root)
    history = root / "digits" / "history.json"
    told = json.loads(history.read_text())
    told["events"][0]["forgets"]["classes"] = [1, 3]
    history.write_text(json.dumps(told))
    (finding,) = doctor(root).findings
    assert (
        finding.what == "recognises again what the model forgets: class 3 (bird) (since version 1)"
    )
    promote(root, "digits", 2, override="a reason")
    assert doctor(root).findings == ()


def test_the_doctor_sweeps_what_was_left(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(whole_release(tmp_path / "one"), root)
    (root.parent / ".models.stage-digits-2").mkdir()
    (root / "digits" / ".stage-digits-2" / "2").mkdir(parents=True)
    (root.parent / ".models.stage-Other").mkdir()
    capsys.readouterr()
    assert main(["repo", "doctor", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["swept"]) == [".models.stage-digits-2", ".stage-digits-2"]
    assert told["findings"] == []
    assert {p.name for p in root.parent.iterdir()} == {
        "models",
        ".models.lock",
        ".models.stage-Other",
    }


def test_a_tombstone_is_no_hazard_and_does_not_verify(tmp_path: Path, root: Path) -> None:
    for n in (1, 2):
        publish(whole_release(tmp_path / str(n), weight=n / 4), root)
    gc(root, keep=0)
    assert doctor(root).findings == ()
    assert main(["repo", "doctor", str(root)]) == 0
    assert verify(root / "digits" / "1").exit_code == 5
    assert verify(root / "digits" / "2").exit_code == 0


def test_the_repository_of_the_checkout_is_sound(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(REPOSITORY, tmp_path / "models")
    assert doctor(tmp_path / "models").findings == ()


def test_the_commands_of_a_repository(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (str(whole_release(tmp_path / n, weight=w)) for n, w in (("a", 0.5), ("b", 0.25)))
    repo = str(root)

    def run(*arguments: str) -> object:
        capsys.readouterr()
        assert main(["repo", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert run("publish", one, repo) == {"model": "digits", "version": 1}
    assert run("publish", two, repo, "--canary") == {"model": "digits", "version": 2}
    assert served(root) == (1, 2)
    change = {"model": "digits", "version": 1, "before": [1, 2], "after": [1]}
    assert run("rollback", repo, "digits") == change
    assert run("publish", one, repo, "--no-serve") == {"model": "digits", "version": 3}
    promoted = run("promote", repo, "digits", "3", "--override", "why not")
    assert promoted == {"model": "digits", "version": 3, "before": [1], "after": [3]}
    differs = run("diff", repo, "digits", "1", "2")
    assert isinstance(differs, dict)
    assert "files.model.onnx.sha256" in differs["differs"]
    size = (root / "digits" / "2" / "model.onnx").stat().st_size
    gone = {"removed": [{"model": "digits", "version": 2, "size": size}], "dry_run": False}
    assert run("gc", repo, "digits") == gone
    listed = run("list", repo)
    assert isinstance(listed, dict)
    assert [(v["version"], v["served"], v["weights"]) for v in listed["versions"]] == [
        (1, False, True),
        (2, False, False),
        (3, True, True),
    ]
    capsys.readouterr()
    assert main(["repo", "list", repo]) == 0
    assert "weights removed" in capsys.readouterr().out


def test_links_are_not_followed_by_gc(tmp_path: Path, root: Path) -> None:
    for n in (1, 2):
        publish(release(tmp_path / str(n)), root)
    outside = tmp_path / "outside"
    (root / "digits" / "1").rename(outside)
    (root / "digits" / "1").symlink_to(outside)
    with pytest.raises(ReleaseError, match="a link"):
        gc(root, keep=0)
    assert (outside / "model.onnx").exists()
