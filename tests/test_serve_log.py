"""The server's log: as JSON lines, whole to the last word, and never in the server's way."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bandstop.serve import keeper, log_lines
from bandstop.serve.errors import ServeInputError
from bandstop.serve.log import Log
from bandstop.serve.log_lines import messages, records

TRITON = 'I1122 02:43:33.031244 27807 model_lifecycle.cc:472] "loading: pixel:1"'


def told(*lines: str | None) -> list[tuple[str, str, str]]:
    found = [json.loads(line) for line in records(lines)]
    assert all(set(one) == {"time", "level", "source", "message"} for one in found)
    return [(one["level"], one["source"], one["message"]) for one in found]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (TRITON, ("info", "triton", "loading: pixel:1")),
        (TRITON.replace("I1122", "E1122"), ("error", "triton", "loading: pixel:1")),
        (TRITON.replace("I1122", "W1122"), ("warning", "triton", "loading: pixel:1")),
        (
            'E1122 02:43:33.1 1 a.cc:1] "no \\"x\\"\\n\\nAt:\\n  f"',
            ("error", "triton", 'no "x"\n\nAt:\n  f'),
        ),
        ("I1122 02:43:33.1 1 a.cc:1] no quotes", ("info", "triton", "no quotes")),
        ("printed by a model", ("info", "model", "printed by a model")),
        ("error: creating server", ("error", "triton", "error: creating server")),
        ("Signal (15) received.", ("info", "triton", "Signal (15) received.")),
    ],
)  # fmt: skip
def test_a_line_keeps_its_level_and_whose_it_is(line: str, expected: tuple[str, str, str]) -> None:
    assert told(line) == [expected]


def test_a_traceback_is_one_record_and_what_follows_another() -> None:
    trace = ["Traceback (most recent call last):", '  File "m", line 1', "ValueError: no"]
    assert told(TRITON, *trace, "next", TRITON) == [
        ("info", "triton", "loading: pixel:1"),
        ("error", "model", "\n".join(trace)),
        ("info", "model", "next"),
        ("info", "triton", "loading: pixel:1"),
    ]


def test_a_table_belongs_to_the_line_before_it() -> None:
    head = "I1122 02:43:33.715444 27807 server.cc:604] "
    (one,) = told(head, "+---+", "| a |", "+---+", "")
    assert one == ("info", "triton", "+---+\n| a |\n+---+")


def test_a_record_is_complete_after_a_moment_without_a_line() -> None:
    lines = iter(["Traceback (most recent call last):", None])
    first = next(records(lines))
    assert json.loads(first)["message"].startswith("Traceback")


def test_messages_are_read_back_and_other_lines_kept() -> None:
    assert messages("".join(records([TRITON])) + "plain\n") == "loading: pixel:1\nplain"


def _writer(file: Path) -> "subprocess.Popen[bytes]":
    command = Log(file, "json").writer()
    assert command is not None
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_everything_before_the_end_is_written_without_a_last_line_break(tmp_path: Path) -> None:
    process = _writer(tmp_path / "log")
    text = "".join(f"line {n}\n" for n in range(20_000)) + "the last word"
    process.communicate(text.encode() + b"\xff")
    found = [one["message"] for one in _read(tmp_path / "log")]
    assert len(found) == 20_001
    assert found[-1] == "the last word\ufffd"
    assert process.returncode == 0


def test_a_disk_that_hangs_does_not_hold_up_the_server(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    hold = os.open(tmp_path / "log", os.O_RDWR)  # nobody reads it
    process = _writer(tmp_path / "log")
    assert process.stdin is not None
    began = time.monotonic()
    for _ in range(64):  # far more than the pipes hold
        process.stdin.write(b"x" * 2**16 + b"\n")
    process.stdin.flush()
    assert time.monotonic() - began < 5
    process.kill()
    process.communicate()
    os.close(hold)


def test_what_is_lost_to_a_slow_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_MOST_BYTES", 10)
    pending = log_lines._Pending()
    for chunk in (b"first line, long\n", b"lost\n", b""):
        pending.put(chunk)
    with (tmp_path / "log").open("wb") as out:
        log_lines._write(pending, out.fileno())
    first, second = _read(tmp_path / "log")
    assert first["message"] == "first line, long"
    assert (second["source"], second["message"][:18]) == ("bandstop", "5 bytes of the log")


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_event_is_one_line_among_the_servers(tmp_path: Path, form: str) -> None:
    log = Log.at(tmp_path / "log", form)  # type: ignore[arg-type]
    log.event("warning", "said\ntwice")
    (line,) = (tmp_path / "log").read_text().replace("said\ntwice", "said twice").splitlines()
    if form == "json":
        assert json.loads(line) | {"time": ""} == {
            "time": "", "level": "warning", "source": "bandstop", "message": "said\ntwice",
        }  # fmt: skip
    else:
        assert line.endswith("Z bandstop warning: said twice")


def test_a_reason_is_found_in_json_lines_too(tmp_path: Path) -> None:
    log = Log.at(tmp_path / "log", "json")
    failed = "E1122 05:41:51.3 1 m.cc:642] \"failed to load 'b' version 1: no luck\\n\\nAt:\\n\""
    log.file.write_text("".join(records([failed])))
    assert log.reason_since(0) == "failed to load 'b' version 1: no luck"
    assert log.reason_since(log.size()) == ""


def test_an_unknown_format_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ServeInputError, match="expected text or json"):
        Log.at(tmp_path / "log", "xml")  # type: ignore[arg-type]


def test_the_writer_needs_no_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-IS", log_lines.__file__, os.devnull], input=b"x\n", capture_output=True,
        check=True,
    )  # fmt: skip
    assert done.stderr == b""


def test_the_end_is_told_only_when_the_last_word_is_written(tmp_path: Path) -> None:
    slow = f"cat > /dev/null; sleep 0.4; echo > {tmp_path / 'written'}"
    plan = {
        "command": ["true"],
        "environment": {},
        "log": "",
        "log_writer": ["sh", "-c", slow],
        "grace_s": 5,
        "shm_prefix": "bandstop_none_",
        "socket": str(tmp_path / "none"),
        "folder": str(tmp_path / "own"),
    }
    process = subprocess.Popen(
        [sys.executable, "-IS", keeper.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(plan).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.read().strip().isdigit()  # to its end, the sign of the server's
    assert (tmp_path / "written").exists()
    process.communicate()
