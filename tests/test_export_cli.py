"""`bandstop export` and `bandstop repo`, from an artifact to a repository."""

import json
from pathlib import Path

import pytest

from bandstop.cli.main import main
from bandstop.export.record_files import load_release
from tests.releases import gates_artifact, release_folder

Out = pytest.CaptureFixture[str]


def test_an_artifact_becomes_a_served_version(tmp_path: Path, capsys: Out) -> None:
    gates_artifact(tmp_path / "artifact")
    out = str(tmp_path / "release")
    options = ["--mode", "baked", "--forget", "bird,#1", "--max-batch-size", "8"]
    assert main(["export", str(tmp_path / "artifact"), *options, "--out", out, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    record = load_release(tmp_path / "release").record
    assert record.forget.classes == [1, 3]
    assert told["release"] == out
    assert told["digest"] == record.files["model.onnx"].sha256
    repo = str(tmp_path / "models")
    assert main(["repo", "publish", out, repo, "--model", "pets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "pets", "version": 1}
    assert main(["repo", "list", repo, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["versions"]
    assert (row["model"], row["version"], row["served"]) == ("pets", 1, True)
    assert row["forgets"] == "#1, #3"  # their names are not in a baked release
    assert main(["export", str(tmp_path / "artifact"), *options, "--out", out]) == 2
    assert "exists" in capsys.readouterr().err


def test_what_is_served_has_a_star(tmp_path: Path, capsys: Out) -> None:
    release, repo = str(release_folder(tmp_path / "release")), str(tmp_path / "models")
    for _ in range(2):
        assert main(["repo", "publish", release, repo]) == 0
    assert main(["repo", "list", repo]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[:-1] for line in lines] == [
        ["digits", "1", "gated", "what", "each", "request", "names"],
        ["*", "digits", "2", "gated", "what", "each", "request", "names"],
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--mode", "gated", "--forget", "cat"], 2, "only for baked"),
        (["--mode", "baked", "--forget", "horse"], 2, "no class 'horse'"),
        (["--mode", "original"], 2, "--mode"),
        (["--mode", "gated", "--forget-slots", "9"], 2, "forget_slots: expected 1..4"),
    ],
)
def test_wrong_requests_are_told_in_one_line(
    tmp_path: Path, capsys: Out, arguments: list[str], code: int, said: str
) -> None:
    gates_artifact(tmp_path / "artifact")
    out = ["--out", str(tmp_path / "release")]
    assert main(["export", str(tmp_path / "artifact"), *arguments, *out]) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert not (tmp_path / "release").exists()


def test_a_corrupt_release_exits_with_five(tmp_path: Path, capsys: Out) -> None:
    release = release_folder(tmp_path / "release")
    (release / "labels.txt").write_text("other")
    assert main(["repo", "publish", str(release), str(tmp_path / "models")]) == 5
    assert "corrupt" in capsys.readouterr().err
