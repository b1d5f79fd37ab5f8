"""What a model repository must not hold, or should not: every hazard with its mend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bandstop.serve.errors import UnsafeRepository
from bandstop.serve.hazards import Hazard, hazards
from bandstop.serve.repository import check_repository

CONFIG = 'backend: "onnxruntime"\nmax_batch_size: 8\n'
GATED = CONFIG + 'input [ { name: "forget_class" data_type: TYPE_INT64 dims: [ 1 ] } ]\n'


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "digits" / "1").mkdir(parents=True)
    (root / "digits" / "1" / "model.onnx").write_bytes(b"x")
    (root / "digits" / "config.pbtxt").write_text(CONFIG)
    return root


def only(root: Path) -> Hazard:
    (found,) = hazards(root)
    return found


def test_a_sound_repository_has_none(repo: Path) -> None:
    (repo / "digits" / "labels.txt").write_text("zero")
    (repo / "digits" / ".stage-digits-2").mkdir()
    (repo / ".DS_Store").write_text("")
    assert hazards(repo) == []


def folder(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).mkdir(parents=True)


def linked(root: Path) -> None:
    (root.parent / "elsewhere").write_bytes(b"x")
    (root / "digits" / "1" / "weights").symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "where", "what", "stops"),
    [
        (folder("digits/2.tmp"), "digits/2.tmp", "is read as a version number", True),
        (folder("digits/" + "9" * 20), "digits/" + "9" * 20, "is read as a version", True),
        (folder("digits/007"), "digits/007", "without a sign or leading zeros", False),
        (folder("digits/-3"), "digits/-3", "without a sign or leading zeros", False),
        (folder("digits/+3"), "digits/+3", "without a sign or leading zeros", False),
        (folder(".stage"), ".stage/", "is taken for a model", True),
        (lambda r: (r / "digits" / "3").write_text(""), "digits/3", "is a file in the", False),
        (lambda r: (r / "x").symlink_to(r / "none"), "x", "is a dangling link", True),
        (lambda r: (r / "digits" / "x").symlink_to("none"), "digits/x", "dangling link", True),
        (linked, "digits/1/weights", "is a link that leaves the repository", False),
        (lambda r: (r / "digits" / "m.so").write_text(""), "digits/m.so", "be executed", True),
        (folder("digits/2"), "digits/config.pbtxt", "version 2 holds no model.onnx", True),
    ],
)
def test_each_hazard_is_found_where_it_lies_and_says_whether_a_start_is_refused(
    repo: Path, make: Callable[[Path], object], where: str, what: str, stops: bool
) -> None:
    make(repo)
    found = only(repo)
    assert (found.where, found.stops) == (where, stops)
    assert what in found.what
    assert found.mend
    if stops:
        with pytest.raises(UnsafeRepository, match="not safe to serve"):
            check_repository(repo)
    else:
        assert check_repository(repo) == ["digits"]


def test_a_link_inside_the_repository_is_none(repo: Path) -> None:
    (repo / "digits" / "1" / "again").symlink_to(repo / "digits" / "1" / "model.onnx")
    assert hazards(repo) == []


@pytest.mark.parametrize(
    ("config", "what", "stops"),
    [
        (GATED + "response_cache { enable: true }", "response_cache keeps", False),
        (GATED.replace("max_batch_size: 8", ""), "max_batch_size 0 with forget_class", False),
        (CONFIG + "version_policy { all {} }", "serves superseded versions", False),
        (CONFIG + "version_policy { specific { versions: [1, 4] } }", "serves version 4,", False),
        (CONFIG + "version_policy { specific { versions: [4] } }", "serves version 4,", True),
        (CONFIG + 'name: "other"', "names the model 'other'", True),
        (
            CONFIG + 'model_warmup { inputs { key: "i" value { input_data_file: "../x" } } }',
            "model_warmup reads ../x",
            True,
        ),
        ('backend: "python"', "backend python would execute", True),
    ],
)
def test_hazards_of_a_configuration(repo: Path, config: str, what: str, stops: bool) -> None:
    (repo / "digits" / "config.pbtxt").write_text(config)
    found = only(repo)
    assert found.where == "digits/config.pbtxt"
    assert what in found.what
    assert found.stops is stops


def test_a_cache_for_a_model_without_a_policy_is_none(repo: Path) -> None:
    (repo / "digits" / "config.pbtxt").write_text(CONFIG + "response_cache { enable: true }")
    assert hazards(repo) == []


def test_an_empty_version_that_nobody_is_to_be_served_is_a_warning(repo: Path) -> None:
    policy = "version_policy { specific { versions: [1] } }"
    (repo / "digits" / "config.pbtxt").write_text(CONFIG + policy)
    (repo / "digits" / "2").mkdir()
    assert not only(repo).stops


def test_a_model_without_configuration_is_a_hazard(repo: Path) -> None:
    (repo / "digits" / "config.pbtxt").unlink()
    assert "holds no config.pbtxt" in only(repo).what


def test_a_hazard_reads_as_one_line() -> None:
    assert str(Hazard("a/2.tmp", "is wrong", "remove it")) == "a/2.tmp is wrong, remove it"
