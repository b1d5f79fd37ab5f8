"""The command line's frame: the overview, exit codes, one line an error."""

import subprocess
import sys
from typing import ClassVar

import pytest

from bandstop.cli.main import COMMANDS, explain, main


def test_overview_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"bandstop {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["unknown"], ["--unknown"], ["unlearn"], ["unlearn", "svd", "-x"]]
)
def test_wrong_usage_exits_with_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("error: ")


class ExpectedError(Exception):
    exit_code: ClassVar[int] = 4


def test_an_expected_error_is_one_line() -> None:
    assert explain(ExpectedError("one\n  two")) == "one two"
    assert explain(FileNotFoundError(2, "No such file", "x.png")) == "No such file x.png"


def test_a_missing_extra_is_named() -> None:
    error = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert explain(error) == 'torch is not installed; mend it with: pip install "bandstop[edit]"'


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError("ours"))


def test_the_console_script_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bandstop.cli.main", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "version" in done.stdout
