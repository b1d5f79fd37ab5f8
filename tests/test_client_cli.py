"""`bandstop predict` against a gRPC server on loopback."""

import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2

from bandstop.cli import client_options
from bandstop.cli.client_options import Connection, Given, connection
from bandstop.cli.main import main
from bandstop.cli.predict_ask import classify
from bandstop.cli.predict_files import entries
from bandstop.client import Client, InvalidInput, Tls
from bandstop.serve.access import HEADER, Access
from bandstop.serve.errors import NotServed
from tests.client_fakes import LABELS, NumpyModel, Servicer, grpc_server, picture, stuck
from tests.test_client_triton import server, write_repository  # noqa: F401 - a fixture

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
    nothing = dict.fromkeys(("names", "probabilities", "version", "applied"))
    assert bad == [{"file": str(broken), **nothing, "error": bad[0]["error"]}] * 5
    assert "notes.txt" in bad[0]["error"]
    assert shown.err.count("error: ") == 5


def test_a_bad_file_has_its_own_line_and_the_others_are_shown(
    url: str, files: list[str], capsys: Captured, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    given = [files[0], str(tmp_path / "text.png"), files[1], str(tmp_path / "none.png")]
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


# --- which files


def save(path: Path, value: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(value)).save(path, "PNG")
    return str(path)


def test_a_folder_means_the_images_below_it_sorted(
    url: str, capsys: Captured, tmp_path: Path
) -> None:
    root = tmp_path / "pictures"
    wanted = [save(root / name, 1) for name in ("a.png", "b/c.PNG", "b/d/e.jpeg", "b.jpg")]
    (root / "notes.txt").write_text("not looked at")
    (root / "b" / "loop").symlink_to(root)
    (tmp_path / "empty").mkdir()
    given = [str(tmp_path / "empty"), str(root)]
    assert predict(url, *given, "--forget", "eel", "--json") == 2
    empty, *found = json.loads(capsys.readouterr().out)
    assert "no file in this folder has an image's suffix" in empty["error"]
    # by name within each folder: a.png, b (all of it), b.jpg
    assert [entry["file"] for entry in found] == wanted
    assert all(entry["error"] is None for entry in found)


@pytest.mark.parametrize(("flags", "separator"), [((), b"\n"), (("--null",), b"\0")])
def test_a_list_on_stdin_is_answered_in_order(
    url: str,
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    separator: bytes,
) -> None:
    odd = "line\nfeed.png" if flags else "space .png"
    folder = tmp_path / "more"
    paths = [save(tmp_path / odd, 2), str(folder), save(tmp_path / "b.png", 1)]
    inside = save(folder / "in.png", 0)
    listed = separator.join(map(os.fsencode, paths)) + separator * 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(listed))))
    assert predict(url, "-", "--forget", "eel", "--json", *flags) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["file"] for entry in entries] == [paths[0], inside, paths[2]]
    assert [entry["names"][0] for entry in entries] == ["cat", "ant", "bee"]


@pytest.mark.parametrize("content", [b"\0" * 200_000 + b"x\n", b"x" * 200_000, bytes(range(256))])
def test_a_list_that_is_none_is_told_file_by_file(
    url: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    assert predict(url, "-", "--forget", "eel", "--json") == 2
    entries = json.loads(capsys.readouterr().out)
    assert entries
    assert all(entry["error"] and entry["names"] is None for entry in entries)


def test_files_are_taken_as_they_are_needed(url: str, tmp_path: Path) -> None:
    path, taken = save(tmp_path / "one.png", 1), itertools.count()
    endless = (path for _ in taken)
    with Client(url, "pixel", in_flight=2) as client:
        for _ in itertools.islice(classify(client, endless, ("eel",), 1), 50):
            pass
    assert next(taken) <= 50 + 3 * 8  # what is under way, and the batch that was begun


def peak(outcomes: Callable[[], Iterator[object]], many: int) -> int:
    """Return the most bytes that are held while one goes through `many` outcomes."""
    tracemalloc.start()
    try:
        assert sum(1 for _ in outcomes()) == many
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_list_is_read_in_the_memory_of_a_short_one() -> None:
    def listed(many: int) -> int:
        content = io.BytesIO(b"/data/some/path/of/an/image.png\n" * many)
        return peak(lambda: entries(content, b"\n"), many)  # type: ignore[arg-type]  # raw enough

    assert listed(60_000) < listed(6_000) + (16 << 10)


def test_many_files_are_answered_in_the_memory_of_a_few(url: str, tmp_path: Path) -> None:
    path = save(tmp_path / "one.png", 1)

    def answered(many: int) -> int:
        with Client(url, "pixel") as client:
            return peak(lambda: classify(client, repeat(path, many), ("eel",), 1), many)

    answered(100)  # what is loaded at first use
    # the margin is for what awaits the garbage collector; 3000 predictions are 1 MiB
    assert answered(3500) < answered(500) + (512 << 10)


# --- output


def test_csv_has_a_row_for_each_class_and_for_each_error(
    url: str, files: list[str], capsys: Captured, tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b'/a "b",\xff.png')
    Image.fromarray(picture(1)).save(odd, "PNG")
    given = [files[2], "/none.png", odd]
    assert predict(url, *given, "--forget", "eel", "--top-k", "2", "--csv") == 2
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["file", "rank", "class", "probability", "version", "error"]
    assert [row[:3] for row in rows[:2]] == [[files[2], "1", "cat"], [files[2], "2", "bee"]]
    assert 0 < float(rows[1][3]) < float(rows[0][3]) < 1
    assert [row[4] for row in rows] == ["1", "1", "", "1", "1"]
    assert rows[2][:4] == ["/none.png", "", "", ""]
    assert "No such file" in rows[2][5]
    assert rows[3][0] == f'{tmp_path}/a "b",\\udcff.png'


def test_json_and_csv_exclude_each_other(url: str, files: list[str], capsys: Captured) -> None:
    assert predict(url, files[0], "--forget", "eel", "--csv", "--json") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_json_tells_the_version_and_what_was_forgotten(
    url: str, files: list[str], capsys: Captured
) -> None:
    forget = ("--forget", "eel", "--forget", "#1")
    assert predict(url, files[0], *forget, "--version", "1", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["version"], entry["applied"]) == ("1", [4, 1])
    assert predict(url, files[0], "--forget", "eel", "--version", "2") == 6
    assert "version 2: not served" in capsys.readouterr().err


# --- failures


@pytest.mark.parametrize("shape", ["--json", "--csv", ""])
def test_what_was_answered_before_a_failure_is_kept(
    files: list[str], capsys: Captured, shape: str
) -> None:
    left = iter([True, True])

    def before(context: grpc.ServicerContext) -> None:
        if not next(left, False):
            context.abort(grpc.StatusCode.INTERNAL, "out of luck")

    with grpc_server(Servicer(NumpyModel(max_batch_size=5), before=before)) as url:
        assert predict(url, *files * 4, "--top-k", "1", *filter(None, [shape])) == 1
    shown = capsys.readouterr()
    assert "out of luck" in shown.err.splitlines()[-1]
    if shape == "--json":
        assert [entry["names"][0] for entry in json.loads(shown.out)] == [*LABELS] * 2
    else:
        assert len(shown.out.splitlines()) == 10 + (shape == "--csv")


def test_an_image_that_the_model_cannot_answer_does_not_stop_the_others(
    files: list[str], capsys: Captured
) -> None:
    def tamper(message: service_pb2.ModelInferResponse) -> None:
        logits = np.frombuffer(message.raw_output_contents[0], np.float32).reshape(-1, 5).copy()
        logits[logits.argmax(axis=1) == 3] = np.nan
        message.raw_output_contents[0] = logits.tobytes()

    with grpc_server(Servicer(NumpyModel(max_batch_size=2), tamper=tamper)) as url:
        assert predict(url, *files * 3, "/none.png", files[0], "--json") == 5
    *entries, none, last = json.loads(capsys.readouterr().out)
    assert [entry["names"] and entry["names"][0] for entry in entries] == [
        *("ant", "bee", "cat", None, "eel")
    ] * 3
    assert [entry["file"] for entry in entries if entry["error"]] == [files[3]] * 3
    assert all(repr(files[3]) in entry["error"] for entry in entries if entry["error"])
    assert none["names"] is None
    assert last["names"][0] == "ant"


def test_ctrl_c_leaves_what_was_answered(files: list[str]) -> None:
    release, begun, calls = threading.Event(), threading.Event(), itertools.count()

    def before(context: grpc.ServicerContext) -> None:
        if next(calls) >= 4:  # those that are sent before the first is answered
            begun.set()
            stuck(release)(context)

    code = "import sys; from bandstop.cli.main import main; sys.exit(main())"
    with grpc_server(Servicer(NumpyModel(max_batch_size=5), before=before)) as url:
        where = ["--model", "pixel", "--url", url, "--deadline", "60"]
        arguments = ["predict", *where, *files * 9, "--json"]
        command = [sys.executable, "-c", code, *arguments]
        with subprocess.Popen(
            command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert begun.wait(20)
            assert process.stdout is not None
            said = b""
            while b"}" not in said:  # the first answer is printed
                said += (byte := process.stdout.read(1))
                assert byte
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        release.set()
    assert process.returncode == 130
    assert err in (b"", b"interrupted\n")  # Typer has taken the word from us
    entries = json.loads(said + out)
    assert 1 <= len(entries) <= 20
    assert all(entry["names"] for entry in entries)


# --- the connection

OWN = Tls(Path("own.pem"))


class Ours:
    """A note of a `bandstop serve` of this user."""

    access = Access("127.0.0.1:8001", "found", OWN)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("given\n")
    return tmp_path / "token"


def test_what_is_given_goes_before_what_is_found(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_options, "running_at", lambda url: Ours() if "8001" in url else None)
    assert connection("h:8001", Given()) == Connection("h:8001", OWN, {})
    found = connection("h:8001", Given(), with_token=True)
    assert found == Connection("h:8001", OWN, {HEADER: "found"})
    given = Given(Path("ca.pem"), Path("c"), Path("k"), "name", token_file)
    expected = Connection(
        "h:8001", Tls(Path("ca.pem"), Path("c"), Path("k"), "name"), {HEADER: "given"}
    )
    assert connection("h:8001", given, with_token=True) == expected
    assert connection("h:9", Given(), with_token=True) == Connection("h:9", None, {})


def test_notes_that_are_not_ours_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise NotServed("not a folder of this user")

    monkeypatch.setattr(client_options, "running_at", refuse)
    assert connection("h:1", Given()) == Connection("h:1", None, {})


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff", b"x" * 5000])
def test_a_token_that_cannot_be_sent_is_refused_untold(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InvalidInput, match="one line of printable ASCII") as caught:
        connection("h:1", Given(token_file=tmp_path / "token"))
    assert "lines" not in str(caught.value)
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        connection("h:1", Given(token_file=tmp_path / "none"))


def test_the_token_is_sent_with_each_call(files: list[str], token_file: Path) -> None:
    seen: list[str] = []

    def before(context: grpc.ServicerContext) -> None:
        seen.extend(value for name, value in context.invocation_metadata() if name == HEADER)

    with grpc_server(Servicer(NumpyModel(), before=before)) as url:
        assert predict(url, files[0], "--token-file", str(token_file)) == 0
        assert predict(url, files[0]) == 0
    assert seen == ["given"]


@pytest.mark.triton
def test_a_folder_through_a_real_server(server: object, capsys: Captured, tmp_path: Path) -> None:  # noqa: F811
    url = getattr(server, "url")  # noqa: B009
    for value in range(20):
        pixels = np.zeros((4, 4, 3), np.uint8)
        pixels[value % 10 // 4, value % 10 % 4, 0] = 255  # the logits are the first ten pixels
        Image.fromarray(pixels).save(tmp_path / f"{value:02}.png")
    arguments = ["predict", str(tmp_path), "--model", "rows", "--url", url, "--json"]
    assert main([*arguments, "--top-k", "1"]) == 0
    names = [entry["names"][0] for entry in json.loads(capsys.readouterr().out)]
    assert names == [f"class {value % 10}" for value in range(20)]
