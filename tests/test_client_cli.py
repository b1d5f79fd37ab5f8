"""`bandstop predict` against a gRPC server on loopback."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bandstop.cli.main import main
from tests.client_fakes import LABELS, NumpyModel, Servicer, grpc_server, picture

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with grpc_server(Servicer(NumpyModel(slots=2))) as address:
        yield address


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{value}.png" for value in range(5)]
    for value, path in enumerate(paths):
        Image.fromarray(picture(value)).save(path)
    return [str(path) for path in paths]


def predict(url: str, *arguments: str) -> int:
    return main(["predict", "--model", "pixel", "--url", url, *arguments])


def test_a_line_for_each_class_the_most_probable_first(
    url: str, files: list[str], capsys: Captured
) -> None:
    assert predict(url, files[2], "--forget", "ant") == 0
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [(line[1], line[2]) for line in lines] == [
        (name, files[2]) for name in ("cat", "bee", "dog")
    ]
    assert [float(line[0]) for line in lines] == sorted((float(x[0]) for x in lines), reverse=True)


def test_several_classes_are_forgotten_together(
    url: str, files: list[str], capsys: Captured
) -> None:
    assert predict(url, files[2], "--forget", "cat", "--forget", "#1", "--top-k", "1") == 0
    assert capsys.readouterr().out.split()[1] == "dog"


def test_json_has_an_entry_for_each_file_in_order(
    url: str, files: list[str], capsys: Captured, tmp_path: Path
) -> None:
    broken = tmp_path / "notes.txt"
    broken.write_text("no picture")
    given = [*files, str(broken), *files] * 5
    assert predict(url, *given, "--forget", "ant", "--top-k", "5", "--json") == 2
    shown = capsys.readouterr()
    entries = json.loads(shown.out)
    assert [entry["file"] for entry in entries] == given
    good = [entry for entry in entries if entry["error"] is None]
    assert [entry["names"][0] for entry in good] == ["bee", *LABELS[1:]] * 10
    assert all(sum(entry["probabilities"]) == pytest.approx(1) for entry in good)
    bad = [entry for entry in entries if entry["error"] is not None]
    assert (
        bad
        == [{"file": str(broken), "names": [], "probabilities": [], "error": bad[0]["error"]}] * 5
    )
    assert shown.err.count("error: ") == 5


def test_a_bad_file_has_its_own_line_and_the_others_are_shown(
    url: str, files: list[str], capsys: Captured, tmp_path: Path
) -> None:
    given = [files[0], str(tmp_path), files[1], str(tmp_path / "none.png")]
    assert predict(url, *given, "--forget", "eel", "--top-k", "1") == 2
    shown = capsys.readouterr()
    assert [line.split()[1] for line in shown.out.splitlines()] == ["ant", "bee"]
    assert [line.split(": ")[1] for line in shown.err.splitlines()] == [
        repr(given[1]),
        repr(given[3]),
    ]


def test_odd_names_neither_break_lines_nor_the_terminal(
    url: str, capsys: Captured, tmp_path: Path
) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png")
    Image.fromarray(picture(1)).save(path, "PNG")
    assert predict(url, path, "--forget", "eel", "--top-k", "1") == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--forget", "nobody"], 2, "no class 'nobody'; expected one of 5 names"),
        ([], 2, "this model always forgets"),
        (["--forget", "ant", "--top-k", "6"], 2, "top_k: expected a whole number 1..5, got 6"),
        (["--forget", "ant", "--top-k", "0"], 2, "top-k"),
        (["--forget", "ant", "--deadline", "nan"], 2, "deadline: expected seconds"),
        (["--forget", "ant", "--url", "http://x:1"], 2, "expected host:port"),
        (["--forget", "ant", "--url", "unix:/none/sock"], 6, "start one with `bandstop serve"),
        (["--forget", "ant", "--deadline", "1e-9"], 6, "no answer for model pixel"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    url: str, files: list[str], capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    assert predict(url, files[0], *arguments) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1


def test_a_black_picture_is_shown_without_a_forget_by_a_model_that_allows_it(
    tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "black.png"
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(path)
    with grpc_server(Servicer(NumpyModel(labels=("yes", "no"), slots=1, allow_none=True))) as url:
        assert predict(url, str(path)) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["yes", "no"]


def test_a_class_without_a_name_is_shown_by_its_number(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "one.png"
    Image.fromarray(picture(1)).save(path)
    with grpc_server(Servicer(NumpyModel(labels=("ant", "", "cat")))) as url:
        assert predict(url, str(path)) == 0
        assert predict(url, str(path), "--json") == 0
    *lines, record = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["#1", "ant", "cat"]
    assert json.loads(record)[0]["names"] == ["#1", "ant", "cat"]
