"""Verify passes what export and publish wrote, and names whatever is not as they wrote it."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from onnx import TensorProto, numpy_helper
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.export.config import config_text, labels_text
from bandstop.export.errors import ReleaseError, SpecError, VerifyFailed
from bandstop.export.record import ReleaseRecord, describe, record_bytes
from bandstop.export.record_files import read_record
from bandstop.export.release import export_release
from bandstop.export.repository import publish
from bandstop.export.sign_keys import load_public_key
from bandstop.export.spec import ExportSpec
from bandstop.export.verify import Wanted, verify
from bandstop.export.verify_checks import Report
from bandstop.export.verify_signature import Trust
from tests.releases import CLASSES, gates_artifact, release_folder, weights_artifact
from tests.whole_releases import NAMES, graph, keys, whole_release

REPOSITORY = Path(__file__).resolve().parents[1] / "triton_repo"
Change = Callable[[Path], object]


def told(report: Report) -> list[str]:
    return [f"{check}: {misfit}" for check, misfit in report.misfits]


def outcomes(report: Report) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return whole_release(tmp_path / "release")


@pytest.fixture
def version(tmp_path: Path) -> Path:
    publish(whole_release(tmp_path / "published"), tmp_path / "models")
    return tmp_path / "models" / "digits" / "1"


def test_what_export_and_publish_write_verifies(tmp_path: Path) -> None:
    artifacts = {"gated": gates_artifact, "baked": weights_artifact}
    for mode, make in artifacts.items():
        artifact = make(tmp_path / f"{mode}-artifact")
        spec = ExportSpec(mode, max_batch_size=8)  # type: ignore[arg-type]  # one of both
        record = export_release(artifact, spec, tmp_path / mode).record
        assert record.class_names == (["cat", "dog", "", "bird"] if mode == "baked" else [*CLASSES])
        publish(tmp_path / mode, tmp_path / "models", mode)
        checked = [
            verify(tmp_path / f"{mode}-artifact"),
            verify(tmp_path / mode),
            verify(tmp_path / "models" / mode / "1"),
        ]
        assert [told(report) for report in checked] == [[], [], []]
        assert [report.kind for report in checked] == ["artifact", "release", "version"]
        assert outcomes(checked[2]) == {
            **dict.fromkeys(("files", "graph", "classes", "config"), "passed"),
            "signature": "skipped",
        }


@pytest.mark.parametrize("model", ["digits_baked", "digits_gated"])
def test_the_repository_that_is_checked_in_verifies(model: str) -> None:
    assert told(verify(REPOSITORY / model / "1")) == []


def flip(name: str) -> Change:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return change


def link(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / f"moved-{name}")
        (folder / name).symlink_to(folder.parent / f"moved-{name}")

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def listen(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("model.onnx")
    finally:
        os.chdir(here)


def replaced_by_folder(folder: Path) -> None:
    (folder / "labels.txt").unlink()
    (folder / "labels.txt").mkdir()


def hard_link(folder: Path) -> None:
    os.link(folder / "model.onnx", folder.parent / "another-name")


def smuggle(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "x").write_text("")


def edit_json(file: str, field: str, value: object) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_bytes())
        content[field] = value
        (folder / file).write_text(json.dumps(content))

    return change


def name_twice(file: str, field: str) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_bytes())
        first = json.dumps({field: content[field]})[:-1]
        (folder / file).write_text(first + ", " + json.dumps(content)[1:])

    return change


# change of a release or version -> what is told
TAMPERED: dict[str, tuple[Change, str]] = {
    "a flipped bit in the model": (flip("model.onnx"), r"files: 'model.onnx': digest .* corrupt"),
    "an edited label": (flip("labels.txt"), r"files: 'labels.txt': digest .* corrupt"),
    "a longer file": (
        lambda f: (f / "labels.txt").write_text("x" * 99),
        "files: 'labels.txt': 99 bytes, expected",
    ),
    "an empty file": (
        lambda f: (f / "model.onnx").write_bytes(b""),
        "files: 'model.onnx': 0 bytes, expected",
    ),
    "a missing file": (lambda f: (f / "labels.txt").unlink(), "files: 'labels.txt': missing"),
    "a file too many": (lambda f: (f / "x.bin").write_text(""), "files: 'x.bin': unlisted"),
    "a folder too many": (smuggle, "files: '.git': unlisted"),
    "a link": (link("model.onnx"), "files: 'model.onnx': .*regular file, got a link"),
    "a pipe": (pipe("model.onnx"), "files: 'model.onnx': .*regular file, got a pipe"),
    "a pipe too many": (pipe("more"), "files: 'more': unlisted"),
    "a socket": (listen, "files: 'model.onnx': .*regular file, got a socket"),
    "a folder in place": (replaced_by_folder, "files: 'labels.txt': .*got a folder"),
    "a hard link": (hard_link, "files: 'model.onnx': a hard link"),
    "a record that is a link": (link("release.json"), "files: 'release.json': .*got a link"),
    "a record that is a pipe": (pipe("release.json"), "files: 'release.json': .*got a pipe"),
    "a record of garbage": (
        lambda f: (f / "release.json").write_text("<html>"),
        "files: 'release.json': not a valid release record",
    ),
    "a record with a field too many": (
        edit_json("release.json", "more", 1),
        "files: 'release.json': .*more: Extra inputs",
    ),
    "a record that says a thing twice": (
        name_twice("release.json", "mode"),
        "files: 'release.json': names a field twice",
    ),
    "a record that lists too little": (
        edit_json("release.json", "files", {}),
        "files: 'release.json': lists no config.pbtxt, labels.txt, model.onnx",
    ),
    "a signature of garbage": (
        lambda f: (f / "signature.json").write_text("x"),
        "signature: 'signature.json': no signed envelope",
    ),
    "a signature without an end": (
        lambda f: (f / "signature.json").write_bytes(b" " * ((1 << 20) + 1)),
        "signature: 'signature.json': larger than 1048576 bytes",
    ),
    "a signature that is a pipe": (pipe("signature.json"), "signature: .*got a pipe"),
}


@pytest.mark.parametrize("case", TAMPERED)
@pytest.mark.parametrize("kind", ["release", "version"])
def test_tampering_is_told_by_file(tmp_path: Path, kind: str, case: str) -> None:
    folder = whole_release(tmp_path / "release")
    if kind == "version":
        publish(folder, tmp_path / "models")
        folder = tmp_path / "models" / "digits" / "1"
    change, said = TAMPERED[case]
    change(folder)
    report = verify(folder)
    assert report.kind == kind
    (line,) = told(report)
    assert re.search(said, line)
    assert report.exit_code == 5
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


def test_all_misfits_are_gathered(release: Path) -> None:
    flip("model.onnx")(release)
    (release / "labels.txt").unlink()
    for number in range(9):
        (release / f"more{number}").write_text("")
    report = verify(release)
    assert len(told(report)) == 11
    assert outcomes(report)["graph"] == "skipped"
    with pytest.raises(VerifyFailed, match=r"labels\.txt.*model\.onnx.*and 3 more$"):
        report.refuse_misfits()


def test_nothing_that_does_not_fit_is_parsed(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(onnx, "load_model_from_string", parsed)
    flip("model.onnx")(release)
    assert outcomes(verify(release))["graph"] == "skipped"


def with_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """Write a release whose digests are right, around a graph that is not."""
    model = graph("baked")
    change(model)
    return release_folder(folder, model.SerializeToString(), names=NAMES["baked"], mode="baked")


def external(location: str) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)

    return change


def external_statistics(model: onnx.ModelProto) -> None:
    """Hide it where a value is looked at before the rule for external data is reached."""
    for name in ("scale", "shift", "mean", "var"):
        value = numpy_helper.from_array(np.zeros(4, dtype=np.float32), name)
        model.graph.initializer.append(value)
    external("statistics.bin")(model)
    model.graph.initializer[0].name = "mean"
    del model.graph.initializer[4]
    model.graph.node[1].output[0] = "raw"
    model.graph.node.append(
        onnx.helper.make_node(
            "BatchNormalization", ["raw", "scale", "shift", "mean", "var"], ["logits"]
        )
    )


def not_finite(model: onnx.ModelProto) -> None:
    weight = np.full((4, 64), np.nan, dtype=np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))


def too_short(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40]


def set_to(**fields: object) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            setattr(model, name, value)

    return change


def other_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Loop"


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 17


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "external data": (external("/dev/zero"), "graph: weight: external data is not allowed"),
    "external statistics": (external_statistics, "graph: mean: external data is not allowed"),
    "NaN": (not_finite, "graph: weight: holds NaN"),
    "a tensor that lies about its size": (too_short, "graph: weight: holds what cannot be"),
    "an operator off the list": (other_op, "graph: .*operator Loop is not on the list"),
    "another operator set": (other_opset, "graph: operator sets"),
    "a newer IR": (set_to(ir_version=99), "graph: IR version 99"),
    "metadata": (set_to(doc_string="/home/me"), "graph: the model carries metadata"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_a_graph_that_breaks_a_rule_is_refused(tmp_path: Path, case: str) -> None:
    change, said = GRAPHS[case]
    report = verify(with_graph(tmp_path / "release", change))
    assert [c.name for c in report.checks if c.misfits] == ["graph"]
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    folder = release_folder(tmp_path / "r", b"<html>404", names=NAMES["baked"], mode="baked")
    with pytest.raises(VerifyFailed, match=r"graph: 'model\.onnx': not an ONNX file"):
        verify(folder).refuse_misfits()


def rewrite(folder: Path, changes: dict[str, object], labels: str | None = None) -> None:
    """Change the record of a release so that all its digests are right."""
    record = read_record(folder / "release.json")
    plain = {**record.model_dump(mode="json"), **changes}
    names = record.class_names
    text = labels_text(plain["class_names"] if labels is None else [labels, *names[1:]])
    new = ReleaseRecord.model_validate(plain)
    files = {**new.files, **describe({"labels.txt": text.encode()})}
    new = new.model_copy(update={"files": files})
    config = config_text(new.name, {1: new}).encode()
    new = new.model_copy(update={"files": {**files, **describe({"config.pbtxt": config})}})
    (folder / "labels.txt").write_text(text)
    (folder / "config.pbtxt").write_bytes(config)
    (folder / "release.json").write_bytes(record_bytes(new))


def forget(**changes: object) -> dict[str, object]:
    plain = {"classes": [1], "instances": 0, "always": [], "slots": 0, "allow_none": False}
    return {"forget": {**plain, **changes}}


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        ("baked", {"class_names": [*CLASSES]}, r"forgotten classes \[1\] still have a name"),
        ("baked", {"class_names": ["", "", "c", "d"]}, r"classes \[0\] have no name"),
        ("gated", {"class_names": ["a", "", "c", "d"]}, r"classes \[1\] have no name"),
        ("baked", {"class_names": ["a", "", "c"]}, r"logits \[4\], but the class map has 3"),
        ("baked", forget(classes=[1, 4]), r"forgets class 4, expected 0\.\.3"),
        ("baked", forget(classes=[1], always=[-1]), r"forgets class -1"),
        ("baked", forget(always=[0]), r"always forgets \[0\], but no request has a say"),
        ("baked", forget(slots=1), "baked with 1 slots, but forget_class None"),
        ("gated", forget(classes=[], slots=2), r"gated with 2 slots, but forget_class \[1\]"),
        ("gated", {"mode": "original"}, r"original with 1 slots, but forget_class \[1\]"),
    ],
)
def test_a_class_map_must_fit_the_policy(
    tmp_path: Path, mode: str, changes: dict[str, object], said: str
) -> None:
    folder = whole_release(tmp_path / "release", mode)
    rewrite(folder, changes)
    report = verify(folder)
    assert [c.name for c in report.checks if c.misfits] == ["classes"]
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


def test_labels_must_be_the_class_map_and_config_the_record(release: Path) -> None:
    rewrite(release, {}, labels="horse")
    assert told(verify(release)) == [
        "classes: 'labels.txt': does not hold the names of the class map"
    ]
    record = read_record(release / "release.json")
    config = (release / "config.pbtxt").read_bytes().replace(b"max_batch_size: 8", b"")
    files = {**record.files, **describe({"config.pbtxt": config})}
    (release / "config.pbtxt").write_bytes(config)
    new = record.model_copy(update={"files": files})
    (release / "release.json").write_bytes(record_bytes(new))
    assert told(verify(release))[1:] == ["config: 'config.pbtxt': max_batch_size: 0, expected 8"]


Configure = Callable[[triton.ModelConfig], object]


def parameter(name: str, value: str | None) -> Configure:
    def change(config: triton.ModelConfig) -> None:
        if value is None:
            del config.parameters[name]
        else:
            config.parameters[name].string_value = value

    return change


def cached(config: triton.ModelConfig) -> None:
    config.response_cache.enable = True


def served_by_number(*numbers: int) -> Configure:
    def change(config: triton.ModelConfig) -> None:
        del config.version_policy.specific.versions[:]
        config.version_policy.specific.versions.extend(numbers)

    return change


def agent(config: triton.ModelConfig) -> None:
    config.model_repository_agents.agents.add(name="checksum")


def accelerated(config: triton.ModelConfig) -> None:
    added = config.optimization.execution_accelerators.gpu_execution_accelerator.add()
    added.name = "tensorrt"


def attribute(name: str, value: object) -> Configure:
    return lambda config: setattr(config, name, value)


CONFIGS: dict[str, tuple[Configure, str]] = {
    "another digest": (parameter("digest.1", "0" * 64), r"parameter digest\.1: 0000"),
    "a digest of digits": (parameter("digest.1", "1" * 64), r"parameter digest\.1: 1111"),
    "other labels": (parameter("labels.1", '["a","b","c","d"]'), r"parameter labels\.1"),
    "no labels": (parameter("labels.1", None), r"parameter labels\.1: missing"),
    "no digest": (parameter("digest.1", None), r"parameter digest\.1: missing"),
    "other pixels": (parameter("preprocess.1", "{}"), r"parameter preprocess\.1: {}"),
    "an environment": (
        parameter("EXECUTION_ENV_PATH", "/tmp/x.tar.gz"),
        "parameter EXECUTION_ENV_PATH: not one that export writes",
    ),
    "another name": (attribute("name", "other"), "name: other, expected digits"),
    "another backend": (attribute("backend", "python"), "backend: python, expected onnxruntime"),
    "a platform": (attribute("platform", "ensemble"), "platform: not a field that export writes"),
    "another file": (
        attribute("default_model_filename", "../x"),
        r"default_model_filename: \.\./x",
    ),
    "another batch": (attribute("max_batch_size", 9), "max_batch_size: 9, expected 8"),
    "another shape": (lambda c: c.output[0].dims.append(1), "output: .*dims: 1.*expected"),
    "another type": (lambda c: setattr(c.input[0], "data_type", triton.TYPE_INT8), "input: .*INT8"),
    "no label file": (lambda c: c.output[0].ClearField("label_filename"), "output: .*expected"),
    "a cache of a gated model": (cached, "response_cache: not a field that export writes"),
    "an agent": (agent, "model_repository_agents: not a field that export writes"),
    "an accelerator": (  # such as TensorRT, which would compile a graph of its own
        accelerated,
        "optimization: not a field that export writes",
    ),
    "any version": (
        lambda c: c.version_policy.latest.SetInParent(),
        "version_policy: expected the served versions by number",
    ),
}


def configured(version: Path, change: Configure) -> None:
    file = version.parent / "config.pbtxt"
    config = text_format.Parse(file.read_text(), triton.ModelConfig())
    change(config)
    file.write_text(text_format.MessageToString(config))


@pytest.mark.parametrize("case", CONFIGS)
def test_a_served_version_is_what_its_config_says(tmp_path: Path, case: str) -> None:
    publish(whole_release(tmp_path / "release", "gated"), tmp_path / "models")
    version = tmp_path / "models" / "digits" / "1"
    change, said = CONFIGS[case]
    configured(version, change)
    report = verify(version)
    assert [c.name for c in report.checks if c.misfits] == ["config"]
    assert all("'config.pbtxt'" in line for line in told(report))
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


def run_otherwise(config: triton.ModelConfig) -> None:
    config.instance_group[0].count = 4
    config.dynamic_batching.max_queue_delay_microseconds = 7
    config.parameters["intra_op_thread_count"].string_value = "3"
    config.parameters["labels.1"].string_value = json.dumps(NAMES["baked"], ensure_ascii=False)


@pytest.mark.parametrize("change", [run_otherwise, cached])
def test_how_a_server_runs_the_model_is_its_operators_choice(
    version: Path, change: Configure
) -> None:
    configured(version, change)
    assert told(verify(version)) == []


# what lies in the model's folder, beside the version
BESIDE: dict[str, tuple[Change, str]] = {
    "config of garbage": (
        lambda f: (f / "config.pbtxt").write_text("name: {"),
        "config: 'config.pbtxt': not a model configuration",
    ),
    "config of bytes": (
        lambda f: (f / "config.pbtxt").write_bytes(b"\xff\xfe"),
        "config: 'config.pbtxt': not a model configuration",
    ),
    "config is a pipe": (
        pipe("config.pbtxt"),
        "config: in the model's folder: 'config.pbtxt'.*pipe",
    ),
    "labels edited": (flip("labels.txt"), "config: 'labels.txt' of the model: not the names of"),
    "labels are a pipe": (pipe("labels.txt"), "config: in the model's folder: 'labels.txt'.*pipe"),
    "labels are gone": (lambda f: (f / "labels.txt").unlink(), "config: .*'labels.txt': missing"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_tampering_beside_a_version_is_told(version: Path, case: str) -> None:
    change, said = BESIDE[case]
    change(version.parent)
    report = verify(version)
    assert len(told(report)) == 1
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


def test_a_linked_model_is_refused(version: Path) -> None:
    version.parent.rename(version.parent.with_name("moved"))
    version.parent.symlink_to("moved")
    assert told(verify(version)) == ["files: 'digits': the model's folder is a link"]


def test_a_version_that_is_not_served_verifies_and_says_so(tmp_path: Path, version: Path) -> None:
    publish(whole_release(tmp_path / "next", weight=0.25), tmp_path / "models")
    old, new = verify(version), verify(version.with_name("2"))
    assert (told(old), told(new)) == ([], [])
    notes = [{c.name: c.note for c in report.checks}["config"] for report in (old, new)]
    assert notes == ["version 1 is not served", ""]
    configured(version, parameter("digest.1", "0" * 64))
    assert "digest.1" in told(verify(version))[0]
    configured(version, served_by_number(1, 2))
    assert len(told(verify(version))) == 4  # digest, and three that are missing
    flip("labels.txt")(version.parent)  # those of version 2, the newest
    assert "labels.txt" not in " ".join(told(verify(version)))


def test_a_release_is_no_version_for_its_name_alone(tmp_path: Path) -> None:
    assert verify(whole_release(tmp_path / "7")).kind == "release"


def test_a_version_is_found_from_inside(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(version)
    assert verify(Path()).kind == "version"
    (version.parent / "2").mkdir()
    monkeypatch.chdir(version.parent / "2")
    assert verify(Path("../1")).kind == "version"


ARTIFACTS: dict[str, tuple[Change, str]] = {
    "a flipped bit": (flip("model.safetensors"), "files: 'model.safetensors': digest"),
    "a pipe": (pipe("model.safetensors"), "files: 'model.safetensors': .*pipe"),
    "a link": (link("model.safetensors"), "files: 'model.safetensors': .*link"),
    "a file too many": (smuggle, "files: '.git': unlisted"),
    "a manifest that is a pipe": (pipe("manifest.json"), "files: 'manifest.json': .*pipe"),
    "a manifest of garbage": (
        lambda f: (f / "manifest.json").write_text("{"),
        "files: 'manifest.json': file: Invalid JSON",
    ),
    "a manifest that says a thing twice": (
        name_twice("manifest.json", "kind"),
        "files: 'manifest.json': names a field twice",
    ),
    "other weights": (
        edit_json("manifest.json", "bn_folded", False),
        "tensors: .*bn1.weight: missing",
    ),
    "no such network": (
        edit_json("manifest.json", "arch", {"name": "bandstop:none", "args": {}}),
        "tensors: ",
    ),
}


@pytest.mark.parametrize("case", ARTIFACTS)
def test_an_artifact_is_what_its_manifest_says(tmp_path: Path, case: str) -> None:
    weights_artifact(tmp_path / "artifact")
    change, said = ARTIFACTS[case]
    change(tmp_path / "artifact")
    report = verify(tmp_path / "artifact")
    assert len(told(report)) == 1
    with pytest.raises(VerifyFailed, match=said):
        report.refuse_misfits()


@pytest.mark.parametrize(
    ("wanted", "said"), [(Wanted(), "--trust-factory"), (Wanted(trust_factory=True), "imported")]
)
def test_a_network_of_the_users_own_is_not_called_corrupt(
    tmp_path: Path, wanted: Wanted, said: str
) -> None:
    weights_artifact(tmp_path / "artifact")
    arch = {"name": "no_such_module:network", "args": {}}
    edit_json("manifest.json", "arch", arch)(tmp_path / "artifact")
    with pytest.raises(SpecError, match=said) as refused:
        verify(tmp_path / "artifact", wanted)
    assert refused.value.exit_code == 2


def test_what_is_none_of_it_is_refused(tmp_path: Path, release: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(release)
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "empty": "holds neither manifest.json nor release.json",
        "link": "a link; give the folder",
        "pipe": "neither a folder nor a regular file",
    }.items():
        with pytest.raises(ReleaseError, match=said):
            verify(tmp_path / name)
    with pytest.raises(SpecError, match="no such file"):
        verify(tmp_path / "none")


def test_options_that_mean_nothing_are_refused(
    tmp_path: Path, release: Path, version: Path
) -> None:
    weights_artifact(tmp_path / "artifact")
    key = load_public_key(keys(tmp_path)[1])
    (tmp_path / "statement").write_text("")
    for path, wanted, said in (
        (tmp_path / "artifact", Wanted(Trust(key)), "key: means nothing"),
        (release, Wanted(previous=[release]), "previous: means nothing"),
        (version, Wanted(Trust(key, model="digits")), "model: means nothing"),
        (tmp_path / "statement", Wanted(Trust(key, after=release)), "after: means nothing"),
        (release, Wanted(Trust(after=release)), "after: needs a key"),
        (release, Wanted(Trust(model="digits")), "model: needs a key"),
        (release, Wanted(Trust(key, model="")), "model: expected .*, got ''"),
        (release, Wanted(Trust(key, model="A b")), "model: expected .*, got 'A b'"),
    ):
        with pytest.raises(SpecError, match=said):
            verify(path, wanted)


def test_a_file_swapped_while_it_is_read_is_refused(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(release / "model.onnx", release.parent / "other")
    really = os.open

    def swapped(path: Path, flags: int) -> int:
        if path.name == "model.onnx":
            (release.parent / "other").replace(path)
        return really(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    assert told(verify(release)) == ["files: 'model.onnx': changed while it was read"]
