"""Publish, promote and roll back with a server: proved, or everything as it was."""

import os
from pathlib import Path

import pytest

from bandstop.export.errors import NotServed, ReleaseError, SpecError
from bandstop.export.gc import gc
from bandstop.export.promote import Change, promote, rollback
from bandstop.export.repository import publish, versions
from tests.repository_toys import FakeServer, actions, contents, past, release, served


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    folder = tmp_path / "releases"
    folder.mkdir()
    for n in (1, 2, 3, 4):
        release(folder / str(n), (1,), file=b"weights" * n)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "models"


def files(root: Path) -> dict[str, bytes]:
    return {k: v for k, v in contents(root).items() if not k.endswith("history.json")}


def test_a_publish_is_loaded_and_proved(releases: Path, root: Path) -> None:
    server = FakeServer(root)
    assert publish(releases / "1", root, server=server) == 1
    assert publish(releases / "2", root, server=server) == 2
    assert server.calls == ["load", "prove", "load", "prove"]
    assert server.loaded["digits"] == {2: b"weights" * 2}
    assert actions(root) == [("publish", 1, [1]), ("publish", 2, [2])]


def test_a_server_that_does_not_answer_changes_nothing(releases: Path, root: Path) -> None:
    publish(releases / "1", root)
    before = contents(root)
    server = FakeServer(root)
    server.away = True
    for change in (
        lambda: publish(releases / "2", root, server=server),
        lambda: promote(root, "digits", 1, server=server),
        lambda: rollback(root, "digits", 1, server=server),
    ):
        with pytest.raises(NotServed, match="does not answer"):
            change()
    assert contents(root) == before
    assert server.calls == []


@pytest.mark.parametrize("refused", [3, 4])
def test_a_publish_that_is_not_proved_is_taken_back(
    releases: Path, root: Path, refused: int
) -> None:
    server = FakeServer(root, refuse=[refused])
    publish(releases / "1", root, server=server)
    before = files(root)
    with pytest.raises(NotServed, match=r"was refused; version 1 is served as before$"):
        publish(releases / "2", root, server=server)
    assert files(root) == before
    assert server.loaded["digits"] == {1: b"weights"}
    assert "unload" not in server.calls
    assert actions(root) == [("publish", 1, [1]), ("restore", 2, [1])]
    # a number that a server may have seen is never given again
    assert publish(releases / "3", root, server=server) == 3
    assert server.loaded["digits"] == {3: b"weights" * 3}


def test_a_first_publish_that_is_not_proved_leaves_nothing(releases: Path, root: Path) -> None:
    server = FakeServer(root, refuse=[2])
    with pytest.raises(NotServed, match=r"prove was refused; the model is not in the repository"):
        publish(releases / "1", root, server=server)
    assert contents(root) == {}
    assert server.calls == ["load", "prove", "unload"]
    assert server.loaded == {}


def test_where_the_server_cannot_be_brought_back_it_is_said(releases: Path, root: Path) -> None:
    server = FakeServer(root, refuse=[4, 5])
    publish(releases / "1", root, server=server)
    with pytest.raises(
        NotServed, match=r"files are back to version 1, but the server was not.*load was refused"
    ):
        publish(releases / "2", root, server=server)
    assert served(root) == (1,)


def test_an_interrupt_while_the_server_loads_is_taken_back(releases: Path, root: Path) -> None:
    class Interrupted(FakeServer):
        def prove(self, model: str, served: object) -> None:
            if len(self.calls) == 3:
                self.calls.append("interrupted")
                raise KeyboardInterrupt
            super().prove(model, served)  # type: ignore[arg-type]  # as it was given

    server = Interrupted(root)
    publish(releases / "1", root, server=server)
    with pytest.raises(KeyboardInterrupt):
        publish(releases / "2", root, server=server)
    assert served(root) == (1,)
    assert server.loaded["digits"] == {1: b"weights"}


def test_a_version_can_be_put_there_and_promoted_later(releases: Path, root: Path) -> None:
    server = FakeServer(root)
    publish(releases / "1", root, server=server)
    config = (root / "digits" / "config.pbtxt").read_bytes()
    assert publish(releases / "2", root, serve=False, server=server) == 2
    assert (root / "digits" / "config.pbtxt").read_bytes() == config
    assert server.calls == ["load", "prove"]
    assert promote(root, "digits", 2, server=server) == Change("digits", 2, (1,), (2,))
    # both are proved before the new one is alone
    assert server.calls[2:] == ["load", "prove", "load", "prove"]
    assert actions(root)[2:] == [("canary", 2, [1, 2]), ("promote", 2, [2])]
    assert server.loaded["digits"] == {2: b"weights" * 2}


def test_the_first_version_is_served_in_any_case(releases: Path, root: Path) -> None:
    publish(releases / "1", root, serve=False)
    assert served(root) == (1,)


def test_a_canary_is_served_beside_the_stable_version(releases: Path, root: Path) -> None:
    server = FakeServer(root)
    publish(releases / "1", root, server=server)
    publish(releases / "2", root, canary=True, server=server)
    assert served(root) == (1, 2)
    assert set(server.loaded["digits"]) == {1, 2}
    publish(releases / "3", root, canary=True, server=server)
    assert served(root) == (1, 3)  # the next canary takes the place of the last
    assert promote(root, "digits", 2, canary=True).after == (1, 2)
    assert rollback(root, "digits", server=server).after == (1,)
    assert promote(root, "digits", 3).after == (3,)
    assert [v.version for v in versions(root) if v.served] == [3]


@pytest.mark.parametrize(("refused", "calls"), [(3, 1), (4, 2), (5, 3), (6, 4)])
def test_a_promotion_that_is_not_proved_is_taken_back(
    releases: Path, root: Path, refused: int, calls: int
) -> None:
    publish(releases / "1", root)
    server = FakeServer(root, refuse=[refused])
    publish(releases / "2", root, server=server)
    publish(releases / "3", root, serve=False)
    before = files(root)
    with pytest.raises(NotServed, match="version 2 is served as before"):
        promote(root, "digits", 3, server=server)
    assert files(root) == before
    assert server.loaded["digits"] == {2: b"weights" * 2}
    assert actions(root)[-1] == ("restore", 3, [2])
    assert len(server.calls) == 2 + calls + 2
    assert promote(root, "digits", 3, server=server).after == (3,)


def test_rolling_back_twice_goes_back_further(releases: Path, root: Path) -> None:
    server = FakeServer(root)
    for n in (1, 2, 3, 4):
        publish(releases / str(n), root, server=server)
    assert rollback(root, "digits", server=server).after == (3,)
    assert server.loaded["digits"] == {3: b"weights" * 3}
    assert rollback(root, "digits", server=server).after == (2,)
    assert promote(root, "digits", 4).after == (4,)
    assert rollback(root, "digits").after == (2,)
    assert rollback(root, "digits", 1).after == (1,)
    with pytest.raises(SpecError, match="no version was served before"):
        rollback(root, "digits")
    assert publish(releases / "1", root) == 5


@pytest.mark.parametrize("change", ["publish", "promote", "rollback", "gc", "take back"])
def test_a_server_takes_up_each_change_also_beside_files_of_the_future(
    releases: Path, root: Path, change: str
) -> None:
    server = FakeServer(root, refuse=[7] if change == "take back" else [])
    for n in (1, 2):
        publish(releases / str(n), root, server=server)
    publish(releases / "3", root, serve=False)
    tomorrow = (root / "digits" / "1" / "model.onnx").stat().st_mtime_ns + 86_400 * 10**9
    os.utime(root / "digits" / "1" / "model.onnx", ns=(tomorrow, tomorrow))
    server.load("digits")
    if change == "gc":
        gc(root, keep=0)  # removes the file of the future, which the server still goes by
        change = "publish"
    if change == "take back":
        with pytest.raises(NotServed, match="as before"):
            publish(releases / "4", root, server=server)
    elif change == "publish":
        publish(releases / "4", root, server=server)
    elif change == "promote":
        promote(root, "digits", 3, server=server)
    else:
        rollback(root, "digits", server=server)
    (version,) = served(root)
    assert server.loaded["digits"] == {version: b"weights" * version}


def test_promoting_what_is_served_makes_the_server_prove_it_again(
    releases: Path, root: Path
) -> None:
    publish(releases / "1", root)
    server = FakeServer(root)
    assert promote(root, "digits", 1, server=server).after == (1,)
    assert server.calls == ["load", "prove"]


def test_what_cannot_be_served_is_refused(releases: Path, root: Path) -> None:
    for n in (1, 2, 3):
        publish(releases / str(n), root)
    (root / "digits" / "2" / "model.onnx").write_bytes(b"weightsWEIGHTS")
    gc(root, keep=1)
    before = contents(root)
    refusals = {
        (7, SpecError): "no version 7 by bandstop; expected one of 1, 2, 3",
        (1, SpecError): "the weights of version 1 were removed",
        (2, ReleaseError): "corrupt",
    }
    for (version, error), said in refusals.items():
        for change in (promote, rollback):
            with pytest.raises(error, match=said):
                change(root, "digits", version)
    with pytest.raises(SpecError, match="the one that is served"):
        rollback(root, "digits", 3)
    with pytest.raises(SpecError, match="none to be served beside"):
        promote(root, "digits", 3, canary=True)
    with pytest.raises(SpecError, match="not in the repository"):
        promote(root, "letters", 1)
    with pytest.raises(SpecError, match="no such folder"):
        promote(root / "none", "digits", 1)
    with pytest.raises(SpecError, match="either canary or no-serve"):
        publish(releases / "1", root, canary=True, serve=False)
    assert contents(root) == before


def test_a_crop_larger_than_the_picture_is_refused(tmp_path: Path, root: Path) -> None:
    bad = release(tmp_path / "bad", resize=7)
    with pytest.raises(SpecError, match=r"resizes to 7, smaller than its crop \[8, 8\]"):
        publish(bad, root)
    assert contents(root) == {}
    assert publish(release(tmp_path / "good", resize=8), root) == 1


def test_a_model_without_a_history_goes_on_with_one(releases: Path, root: Path) -> None:
    for n in (1, 2):
        publish(releases / str(n), root)
    (root / "digits" / "history.json").unlink()
    publish(releases / "3", root)
    assert actions(root) == [("found", 2, [2]), ("publish", 3, [3])]
    assert rollback(root, "digits").after == (2,)
    assert past(root).events[0].forgets.classes == [1]


def test_a_broken_history_stops_every_change(releases: Path, root: Path) -> None:
    publish(releases / "1", root)
    (root / "digits" / "history.json").write_text('{"format": "bandstop-history/1"}')
    with pytest.raises(ReleaseError, match=r"history\.json: not a history: events"):
        publish(releases / "2", root)


def test_what_its_operator_set_stays_while_the_served_version_does(
    releases: Path, root: Path
) -> None:
    publish(releases / "1", root)
    config = root / "digits" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 2", "count: 3"))
    publish(releases / "2", root, serve=False)
    assert "count: 3" in config.read_text()
