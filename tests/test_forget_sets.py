"""Named sets of classes, from the command line through release and config to the client."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.cli.main import main
from bandstop.client import Client
from bandstop.edit.errors import InputError
from bandstop.export.errors import SpecError
from bandstop.export.forget_sets import parse_sets, set_misfits
from bandstop.export.record import ReleaseRecord, record_bytes
from bandstop.export.record_files import load_release
from bandstop.export.repository import publish
from bandstop.export.verify import verify
from bandstop.serve.triton import start
from tests.releases import CLASSES, gates_artifact
from tests.servers import prepare
from tests.whole_releases import whole_release

SETS = ("--forget-set", "pets=dog,cat", "--forget-set", "wings=bird")
SLOTS = ("--mode", "gated", "--forget-slots", "3", "--max-batch-size", "8")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "artifact"
    gates_artifact(folder)
    return folder


def export(artifact: Path, out: Path, *options: str) -> int:
    return main(["export", str(artifact), *options, "--out", str(out)])


@pytest.fixture(scope="module")
def release(artifact: Path) -> Path:
    assert export(artifact, artifact.parent / "release", *SLOTS, *SETS) == 0
    return artifact.parent / "release"


def values(config: Path) -> dict[str, str]:
    parsed = text_format.Parse(config.read_text(), triton.ModelConfig())
    return {name: value.string_value for name, value in parsed.parameters.items()}


def told(path: Path) -> list[str]:
    return [misfit for _, misfit in verify(path).misfits]


# --- what is a set


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), {}),
        (("pets=dog,cat", "z=#3"), {"pets": (0, 1), "z": (3,)}),
        (("a=a=b",), {"a": (4,)}),
        (("a=b,c",), {"a": (5,)}),
    ],
)
def test_sets_are_read_as_classes_are(
    texts: tuple[str, ...], expected: dict[str, tuple[int, ...]]
) -> None:
    assert parse_sets(texts, (*CLASSES, "a=b", "b,c")) == expected


@pytest.mark.parametrize(
    ("texts", "kind", "said"),
    [
        (("pets",), SpecError, r"expected NAME=CLASS\[,CLASS..\], got 'pets'"),
        (("pets=cat", "pets=dog"), SpecError, "'pets' is given twice"),
        (("pets=",), InputError, "no class ''"),
        (("pets=horse",), InputError, "^forget-set: 'pets': no class 'horse'"),
        (("pets=cat,#0",), InputError, "named twice"),
        (("pets=0,1,2,3",), InputError, "all 4 classes"),
    ],
)
def test_what_is_no_set_is_refused(
    texts: tuple[str, ...], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        parse_sets(texts, CLASSES)


@pytest.mark.parametrize(
    ("name", "classes", "said"),
    [
        ("pets", (0, 1), None),
        ("P-3_x", (3,), None),
        ("", (0,), "expected a name of the form"),
        ("3", (0,), "expected a name of the form"),
        ("#3", (0,), "expected a name of the form"),
        ("a b", (0,), "expected a name of the form"),
        ("a,b", (0,), "expected a name of the form"),
        ("pets\n", (0,), "expected a name of the form"),
        ("p" * 65, (0,), "expected a name of the form"),
        ("cat", (1,), "a class has this name"),
        ("pets", (), "0 classes, but a request names 1..2"),
        ("pets", (0, 1, 2), "3 classes, but a request names 1..2"),
        ("pets", (4,), "expected classes 0..3, each once, got [4]"),
        ("pets", (-1,), "expected classes 0..3, each once, got [-1]"),
        ("pets", (1, 1), "each once, got [1, 1]"),
        ("pets", (1, 0), "each once, got [1, 0]"),
    ],
)
def test_a_set_that_clients_could_not_use_is_told(
    name: str, classes: Sequence[int], said: str | None
) -> None:
    misfits = set_misfits({"other": (2,), name: classes}, CLASSES, 2)
    assert len(misfits) == (said is not None)
    assert all(str(said) in misfit and "\n" not in misfit for misfit in misfits)


def test_a_set_of_all_classes_is_told() -> None:
    (misfit,) = set_misfits({"all": range(4)}, CLASSES, 4)
    assert "leave at least one to recognise" in misfit


# --- from the command line into the release


def test_a_release_has_its_sets_in_record_and_config(release: Path) -> None:
    assert load_release(release).record.forget.sets == {"pets": [0, 1], "wings": [3]}
    assert json.loads(values(release / "config.pbtxt")["forget_sets.1"]) == {
        "pets": [0, 1],
        "wings": [3],
    }
    assert told(release) == []


def test_a_release_without_sets_says_nothing_of_them(artifact: Path, tmp_path: Path) -> None:
    assert export(artifact, tmp_path / "plain", *SLOTS) == 0
    assert "forget_sets.1" not in values(tmp_path / "plain" / "config.pbtxt")
    old = json.loads((tmp_path / "plain" / "release.json").read_text())
    assert old["forget"].pop("sets") == {}
    # as the records from before there were any
    assert ReleaseRecord.model_validate_json(json.dumps(old)).forget.sets == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mode", "gated", *SETS), "forget set 'pets': 2 classes, but a request names 1..1"),
        (("--mode", "baked", "--forget", "cat", *SETS), "forget_sets: only for gated"),
        ((*SLOTS, "--forget-set", "cat=dog"), "forget set 'cat': a class has this name"),
    ],
)
def test_sets_that_do_not_fit_end_before_any_work(
    artifact: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    said: str,
) -> None:
    assert export(artifact, tmp_path / "refused", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "refused").exists()


# --- verify


def test_versions_with_and_without_sets_are_served_together(
    artifact: Path, release: Path, tmp_path: Path
) -> None:
    assert export(artifact, tmp_path / "plain", *SLOTS) == 0
    for folder in (release, tmp_path / "plain"):
        publish(folder, tmp_path / "models", "pets", canary=folder != release)
    model = tmp_path / "models" / "pets"
    assert {key for key in values(model / "config.pbtxt") if "sets" in key} == {"forget_sets.1"}
    assert [told(model / "1"), told(model / "2")] == [[], []]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"[0, 1]", "[0, 2]", "parameter forget_sets.1: "),
        ("forget_sets.1", "forget_sets.9", "parameter forget_sets.1: missing"),
        ("forget_sets.1", "labels.12", "parameter forget_sets.1: missing"),
    ],
)
def test_a_config_with_other_sets_does_not_verify(
    release: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    publish(release, tmp_path / "models", "pets")
    config = tmp_path / "models" / "pets" / "config.pbtxt"
    changed = config.read_text().replace(old, new)
    assert changed != config.read_text()
    config.write_text(changed)
    (misfit,) = told(config.parent / "1")
    assert said in misfit


def test_a_config_with_sets_that_the_release_has_not_does_not_verify(tmp_path: Path) -> None:
    publish(whole_release(tmp_path / "release", "gated"), tmp_path / "models")
    config = tmp_path / "models" / "digits" / "config.pbtxt"
    more = 'parameters { key: "forget_sets.1" value: { string_value: "{\\"x\\": [0]}" } }\n'
    config.write_text(config.read_text() + more)
    (misfit,) = told(config.parent / "1")
    assert misfit.endswith('parameter forget_sets.1: {"x": [0]}, but version 1 has none')


def test_a_record_with_sets_that_clients_could_not_use_does_not_verify(tmp_path: Path) -> None:
    folder = whole_release(tmp_path / "release", "gated")
    facts = load_release(folder).record
    lie = facts.forget.model_copy(update={"sets": {"cat": [1]}})
    (folder / "release.json").write_bytes(record_bytes(facts.model_copy(update={"forget": lie})))
    assert "forget set 'cat': a class has this name; take another" in told(folder)


# --- with a real server


@pytest.mark.triton
def test_a_set_by_its_name_is_its_classes_one_by_one(release: Path, tmp_path: Path) -> None:
    prepare()
    publish(release, tmp_path / "models", "pets")
    images = np.random.default_rng(0).random((9, 1, 8, 8), np.float32)
    with start(tmp_path / "models") as server, Client(server.url, "pets") as client:
        assert client.metadata().spec().forget_sets == {"pets": (0, 1), "wings": (3,)}
        by_name = client.classify(images, forget="pets")
        assert by_name == client.classify(images, forget={"dog", "cat"})
        assert {one.applied for one in by_name} == {(0, 1)}
        assert by_name != client.classify(images, forget=("pets", "wings"))
        mixed = client.classify(images, forget=["wings"] * 4 + ["pets"] * 5)
        assert mixed[4:] == by_name[4:]
        assert {one.applied for one in mixed[:4]} == {(3,)}
