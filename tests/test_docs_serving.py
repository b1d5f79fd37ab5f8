"""The page for operators names options that there are, and all of those for a server."""

import re
from pathlib import Path

import typer

from bandstop.cli.serve import app
from bandstop.serve.access import HEADER
from bandstop.serve.symptoms import Pace

PAGE = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()


def test_every_option_is_named_and_none_is_made_up() -> None:
    (command,) = [typer.main.get_command(app)]
    options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    ours = "\n".join(line for line in PAGE.splitlines() if "docker" not in line)
    commands = re.findall(r"^bandstop serve .*$", ours, re.MULTILINE)
    named = {word for line in commands for word in re.findall(r"--[a-z-]+", line)}
    quoted = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert commands
    assert (named | quoted) - options == set()
    left_out = {"--help", "--json", "--timeout", "--socket", "--watch", "repository"}
    assert {o for o in options if o.startswith("--")} - named - quoted <= left_out


def test_the_figures_of_the_watchdog_are_the_pace_that_it_has() -> None:
    pace = Pace()
    assert f"{pace.restarts} restarts within {pace.window / 60:g} minutes" in PAGE
    assert f"a deadline of {pace.deadline:g} s" in PAGE
    assert (pace.interval, pace.patience) == (1.0, 3)
    assert HEADER in PAGE
