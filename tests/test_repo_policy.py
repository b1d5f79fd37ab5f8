"""What a model was asked to forget stays forgotten, unless somebody says why not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bandstop.export.errors import NotServed, RefusedByPolicy, SpecError
from bandstop.export.promote import promote, rollback
from bandstop.export.repository import publish
from tests.repository_toys import FakeServer, actions, contents, past, release, served


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "models"


@pytest.fixture
def put(tmp_path: Path, root: Path) -> Callable[..., int]:
    """Publish a release that forgets what is asked; options of `publish` go on to it."""
    made: list[Path] = []

    def put_(*classes: int, images: int = 0, artifact: str = "a", **options: object) -> int:
        always = options.pop("always", ())
        name = tmp_path / f"release{len(made)}"
        made.append(
            release(name, classes, images=images, artifact=artifact, always=always)  # type: ignore[arg-type]  # as asked
        )
        return publish(name, root, **options)  # type: ignore[arg-type]  # same

    return put_


Put = Callable[..., int]


def test_a_version_that_knows_a_forgotten_class_again_is_refused(put: Put, root: Path) -> None:
    put()
    put(2)
    before = contents(root)
    with pytest.raises(RefusedByPolicy) as refused:
        rollback(root, "digits")
    # the name is told because version 1 has it anyhow
    assert str(refused.value) == (
        "model digits: version 1 would recognise again what the model forgets: class 2 "
        '(naïve "fish") (since version 2); publish a version that forgets all of it, or say why '
        "not with --override REASON"
    )
    assert refused.value.exit_code == 7
    for change in (
        lambda: rollback(root, "digits", 1),
        lambda: promote(root, "digits", 1),
        lambda: promote(root, "digits", 1, canary=True),
        lambda: put(3),
        lambda: put(3, canary=True),
    ):
        with pytest.raises(RefusedByPolicy, match=r"class 2"):
            change()
    assert contents(root) == before
    assert put(2, 3) == 3


def test_a_name_that_the_target_does_not_have_is_not_told(put: Put, root: Path) -> None:
    put(1)
    put(2, override="a reason")
    with pytest.raises(RefusedByPolicy, match=r"class 1 \(dog\) \(since version 1\)") as refused:
        put(2)
    assert "fish" not in str(refused.value)


def test_always_forgotten_classes_and_training_images_oblige_too(put: Put, root: Path) -> None:
    put(always=[3], images=5, artifact="b")
    with pytest.raises(
        RefusedByPolicy,
        match=r"the release would .*: class 3 \(bird\) \(since version 1\), 5 training images "
        r"\(since version 1\); publish",
    ):
        put(images=5, artifact="c")
    # another way to forget the class is as good; the images are told by the artifact
    assert put(3, images=5, artifact="b") == 2


def test_a_canary_that_was_never_promoted_obliges_to_nothing(put: Put, root: Path) -> None:
    put()
    put(2, canary=True)
    assert rollback(root, "digits", 1).after == (1,)
    assert put() == 3
    promote(root, "digits", 2)
    with pytest.raises(RefusedByPolicy, match="since version 2"):
        promote(root, "digits", 3)


def test_a_version_that_was_only_put_there_obliges_to_nothing(put: Put, root: Path) -> None:
    put()
    put(2, serve=False)
    assert put() == 3
    assert put(serve=False) == 4  # what is not served need not fulfil anything


def test_a_change_that_was_taken_back_obliges_to_nothing(put: Put, root: Path) -> None:
    put()
    with pytest.raises(NotServed):
        put(2, server=FakeServer(root, refuse=[1]))
    assert put() == 3


def test_a_canary_is_dropped_although_the_stable_version_lacks_something(
    put: Put, root: Path
) -> None:
    put()
    put(2)
    rollback(root, "digits", override="broken on the night of the launch")
    put(2, canary=True)
    assert rollback(root, "digits").after == (1,)


def test_a_reason_is_kept_and_lifts_no_duty(put: Put, root: Path) -> None:
    put()
    put(2)
    put(2, 3)
    assert rollback(root, "digits", 2, override="r-17").after == (2,)
    assert past(root).events[-1].override == "r-17"
    with pytest.raises(RefusedByPolicy, match=r"class 2 .*class 3"):
        rollback(root, "digits", 1)
    with pytest.raises(RefusedByPolicy, match="class 3"):
        put(2)
    assert put(2, override="r-18") == 4
    assert past(root).events[-1].override == "r-18"
    assert rollback(root, "digits", 3).after == (3,)
    for blank in ("", "  ", "x" * 1001):
        with pytest.raises(SpecError, match="1 to 1000 characters"):
            rollback(root, "digits", 1, override=blank)


def test_duties_outlive_the_version_that_fulfilled_them(put: Put, root: Path) -> None:
    import shutil

    put()
    put(2)
    put(2)
    shutil.rmtree(root / "digits" / "2")
    with pytest.raises(RefusedByPolicy, match="class 2"):
        rollback(root, "digits", 1)
    shutil.rmtree(root / "digits" / "1")
    assert put(2) == 4


def test_versions_from_before_there_were_histories_count(put: Put, root: Path) -> None:
    put()
    put(2)
    (root / "digits" / "history.json").unlink()
    with pytest.raises(RefusedByPolicy, match="class 2"):
        rollback(root, "digits", 1)
    with pytest.raises(RefusedByPolicy, match="class 2"):
        put()
    assert put(2) == 3
    assert actions(root)[0] == ("found", 2, [2])
    with pytest.raises(RefusedByPolicy, match="since version 2"):
        put()
    assert served(root) == (3,)


def test_a_version_served_by_hand_obliges(put: Put, root: Path) -> None:
    put()
    put(2, serve=False)
    config = root / "digits" / "config.pbtxt"
    config.write_text(config.read_text().replace("versions: 1", "versions: 2"))
    with pytest.raises(RefusedByPolicy, match="class 2"):
        put()
