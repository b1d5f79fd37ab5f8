"""Bad settings, names and class maps: rows 21-28 of the table of bad inputs.

The table's row 29 (data sets) is in test_data, test_data_for and test_cli_unlearn.
Of row 24 a read-only folder and another file system are not here: tests run as root, to whom
nothing is read-only, and everything is staged beside its place, so that no rename crosses devices.
Row 21 is here as texts; test_bad_input has it through the command line.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.cli.main import main
from bandstop.cli.settings import given_settings
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.gate_rules import parse_gate
from bandstop.edit.methods import configured, preset
from bandstop.edit.request import parse_forget
from bandstop.edit.storage import refuse_existing, write_file, write_folder
from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import SpecError
from bandstop.export.layout import version_numbers
from bandstop.export.record import record_bytes
from bandstop.export.record_files import read_record
from bandstop.export.repository import publish, versions
from bandstop.export.verify import verify
from tests.releases import record, release_folder, weights_artifact

CLASSES = ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("horse", r"no class 'horse'; expected one of 3 names .* or an index 0\.\.2"),
        ("-1", r"no class '-1'.*0\.\.2"),
        ("3", r"no class '3'.*0\.\.2"),
        ("#-1", "no class"),
        ("1.0", "no class"),
        ("1e0", "no class"),
        ("\uff11", "no class"),
        ("Cat", "no class 'Cat'"),
        ("cat,0", "named twice"),
        ("cat,dog,bird", "all 3 classes"),
        ("", "no class ''"),
        (",", "no class ''"),
        ("9" * 5000, "no class"),
    ],
)
def test_21_a_class_that_is_none_is_told_with_the_range(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        parse_forget(text, CLASSES)
    assert len(str(refused.value)) < 250
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("wf-net", {"lr": float("nan")}, "lr"),
        ("wf-net", {"lr": float("inf")}, "lr"),
        ("wf-net", {"lr": -1.0}, "lr"),
        ("wf-net", {"steps": -1}, "steps"),
        ("wf-net", {"batch": 0}, "batch"),
        ("svd", {"alpha_r": []}, "alpha_r"),
        ("svd", {"alpha_r": [float("nan")]}, "alpha_r"),
        ("svd", {"alpha_f": [-1.0]}, "alpha_f"),
        ("svd", {"alpha_r": "high"}, "alpha_r"),
        ("svd", {"retain_images": 0}, "retain_images"),
        ("svd", {"forget_images": -5}, "forget_images"),
        ("svd", {"alfa": 1}, "unknown setting alfa; expected"),
        ("svd", {"seed": -1}, r"svd: seed: expected 0\.\.9223372036854775807, got -1"),
        ("wf-net", {"seed": -(2**63)}, "seed: expected"),
        ("logit-mask", {"seed": 2**63}, "seed: expected"),
    ],
)
def test_22_a_setting_out_of_range_is_named(
    method: str, settings: Mapping[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        configured(preset(method), settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_22_the_ends_of_the_range_of_seeds_are_inside(seed: int) -> None:
    assert configured(preset("svd"), {"seed": seed}).seed == seed


def bomb(depth: int = 30) -> str:
    """Return YAML whose aliases stand for two to the power of `depth` items."""
    lines = ["a0: &a0 [1, 2]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "\n".join([*lines, f"alpha_r: *a{depth - 1}"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: !!python/object/apply:os.system ['touch ran']", "not readable YAML"),
        ("!!python/object/new:os.system ['touch ran']", "not readable YAML"),
        ("lr: !own 3", "not readable YAML"),
        ("lr: 1\nlr: 2", "given twice: lr"),
        ("&a [*a]", "expected a mapping"),
        ("[" * 500, "not readable YAML"),
        ("- 1", "expected a mapping"),
        ("1: 2", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: 1\n---\nb: 2", "not readable YAML"),
        ("a: \0", "not readable YAML"),
    ],
)
def test_23_yaml_that_is_more_than_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        given_settings(tmp_path / "c.yaml", ())
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert not (tmp_path / "ran").exists()
    with pytest.raises(InputError):
        parse_gate(text, {"zrf"})


def test_23_aliases_that_stand_for_billions_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(bomb())
    given = given_settings(tmp_path / "c.yaml", ())
    with pytest.raises(InputError, match="unknown setting a0"):
        configured(preset("svd"), given)
    with pytest.raises(InputError, match="alpha_r") as refused:
        configured(preset("svd"), {"alpha_r": given["alpha_r"]})
    assert len(str(refused.value)) < 1000
    with pytest.raises(InputError):
        parse_gate(bomb().replace("alpha_r", "rules"), {"zrf"})


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"lr: \xff"])
def test_23_what_is_no_text_is_refused(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(bad)
    with pytest.raises(InputError, match="not readable YAML"):
        given_settings(tmp_path / "c.yaml", ())


def test_24_an_output_that_would_change_something_is_refused(tmp_path: Path) -> None:
    weights_artifact(tmp_path / "artifact")
    release_folder(tmp_path / "release")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    for out in ("artifact", "release", "full", "link", ".", "artifact/x", "release/x", "none/x"):
        with pytest.raises(InputError, match="output") as refused:
            refuse_existing(tmp_path / out)
        assert refused.value.exit_code == 2
        with pytest.raises(InputError):
            write_folder(tmp_path / out, {"x": b""})
        if not out.endswith("/x") or out == "none/x":  # as a signature is added to a release
            with pytest.raises(InputError):
                write_file(tmp_path / out, b"")
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["verify", str(tmp_path / "artifact")]) == 0
    refuse_existing(tmp_path / "full" / "y")


NOT_NAMES = [
    *("..", ".", "a/b", "/etc", "", " ", "m\n", "m\0x", "模型", "\u202em", "m" * 256, "CON"),
    *(".m", "-m", "_m", "config.pbtxt", "m m", "M", "m\\n", "m\t", "m:1", "café", "m\u200d"),
]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_25_a_model_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    release = release_folder(tmp_path / "release")
    with pytest.raises(SpecError, match=r"model name: expected .*\[a-z0-9\]") as refused:
        publish(release, tmp_path / "models", name)
    assert refused.value.exit_code == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["release"]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_25_a_release_of_another_name_is_none(tmp_path: Path, name: str) -> None:
    release = release_folder(tmp_path / "release")
    plain = json.loads((release / "release.json").read_bytes())
    (release / "release.json").write_text(json.dumps({**plain, "name": name}))
    assert main(["repo", "publish", str(release), str(tmp_path / "models")]) == 5
    assert main(["verify", str(release)]) == 5


@pytest.mark.parametrize(
    "name", ["0", "-1", "007", "1e3", "2.tmp", "1" * 20, "\uff11", "+1", " 1", "1_0", "\u0663"]
)
def test_26_a_folder_that_is_no_version_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    root = tmp_path / "models"
    release = release_folder(tmp_path / "release")
    assert publish(release, root) == 1
    (root / "digits" / name).mkdir()
    assert version_numbers(root / "digits") == [1]
    assert publish(release, root) == 2
    assert [v.version for v in versions(root)] == [1, 2]
    (root / "digits" / name / "release.json").write_bytes((release / "release.json").read_bytes())
    # by its name no version, so a release folder, of which it lacks the files
    assert verify(root / "digits" / name).kind == "release"
    assert verify(root / "digits" / name).exit_code == 5


NASTY = (
    *('quote " and \\', "line\nbreak\r", "brace } parameters { key:", "a, b", "#3", "3"),
    *('"} } instance_group [ { count: 9 } ] #', "name: 'x'", "\x00", "\U0001f408\u200d\u2b1b"),
    *("\u00e9", "e\u0301"),  # the same to a reader
)


@pytest.mark.parametrize("name", NASTY)
def test_27_no_name_can_add_to_a_configuration(name: str) -> None:
    facts = record(names=(name, "other"))
    parsed = text_format.Parse(config_text("digits", {1: facts}), triton.ModelConfig())
    plain = record(names=("one", "other"))
    wanted = text_format.Parse(config_text("digits", {1: plain}), triton.ModelConfig())
    assert json.loads(parsed.parameters["labels.1"].string_value) == [name, "other"]
    parsed.parameters["labels.1"].CopyFrom(wanted.parameters["labels.1"])
    parsed.parameters["digest.1"].CopyFrom(wanted.parameters["digest.1"])
    assert parsed == wanted


@pytest.mark.parametrize(
    "names", [NASTY, ("same", "same"), tuple(f"class {c}" for c in range(100_000))]
)
def test_28_class_names_come_back_exactly(tmp_path: Path, names: tuple[str, ...]) -> None:
    facts = record(names=names)
    (tmp_path / "release.json").write_bytes(record_bytes(facts))
    assert read_record(tmp_path / "release.json").class_names == list(names)
    parsed = text_format.Parse(config_text("digits", {1: facts}), triton.ModelConfig())
    assert json.loads(parsed.parameters["labels.1"].string_value) == list(names)
    assert labels_text(names).count("\n") == len(names)
    assert "\r" not in labels_text(names)


def test_28_a_shared_name_is_refused_with_the_numbers_to_say_instead() -> None:
    with pytest.raises(InputError, match="2 classes are called 'same'; say #0 or #2"):
        parse_forget("same", ("same", "other", "same"))
    assert parse_forget("#2", ("same", "other", "same")).classes == (2,)
    assert parse_forget("a, b", ("a, b", "c")).classes == (0,)
