"""Progress: everything comes through in order; talk goes to stderr, now and then."""

import pytest

from bandstop.edit import progress as progress_module
from bandstop.edit.progress import progress


def test_items_come_through_in_order_and_short_work_is_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert list(progress(range(5), "work")) == [0, 1, 2, 3, 4]
    assert list(progress([], "nothing")) == []
    assert capfd.readouterr() == ("", "")


def test_long_work_says_how_far_it_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_QUIET_S", 0.0)
    assert list(progress(["a", "b"], "work")) == ["a", "b"]
    assert capfd.readouterr() == ("", "work: 1 of 2\nwork: 2 of 2\n")


def test_a_terminal_gets_a_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress(range(3), "work")) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert "work" in err
    assert "100%" in err
