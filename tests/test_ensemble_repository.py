"""An ensemble in a repository goes with its model, and is never without what it names."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]  # ships no hints
from tritonclient.grpc import model_config_pb2 as triton

from bandstop.cli.main import main
from bandstop.export.disk import Disk
from bandstop.export.doctor import doctor
from bandstop.export.ensemble import ensemble_of, part_of
from bandstop.export.ensemble_config import Ensemble
from bandstop.export.errors import NotServed, RefusedByPolicy, SpecError
from bandstop.export.gc import gc
from bandstop.export.promote import promote, rollback
from bandstop.export.record import CONFIG, ReleaseRecord
from bandstop.export.repository import changing, publish, versions
from bandstop.serve.hazards import hazards
from tests.ensembles import lettered
from tests.readback_fakes import Made, write_release
from tests.repository_toys import FailingDisk, FastDisk, KilledDisk, StepError, actions, served

FAST = FastDisk()
PARTS = ("digits_images", "digits_decode", "digits_names")


def config(root: Path, model: str) -> triton.ModelConfig:
    return text_format.Parse((root / model / CONFIG).read_text(), triton.ModelConfig())


def broken(root: Path) -> list[str]:
    """Return what the ensemble names and a server that starts now would not find."""
    wrong = []
    if (root / "digits_images" / CONFIG).is_file():
        ensemble = config(root, "digits_images")
        wanted = [
            (step.model_name, step.model_version) for step in ensemble.ensemble_scheduling.step
        ]
        wanted += [("digits_images", v) for v in ensemble.version_policy.specific.versions]
        for model, version in wanted:
            if version not in served(root, model) or not (root / model / str(version)).is_dir():
                wrong.append(f"{model} {version}")
    return wrong


class Watcher:
    """A server that notes each moment at which the ensemble lacked what it names."""

    def __init__(self, root: Path, refuse: int = 0) -> None:
        self.root, self.refuse = root, refuse
        self.calls: list[str] = []
        self.ready: dict[str, tuple[int, ...]] = {}
        self.steps: dict[str, int] = {}
        self.lacking: list[str] = []

    def reach(self) -> None:
        pass

    def load(self, model: str) -> None:
        self._count(f"load {model}")
        self.ready[model] = served(self.root, model)
        if model == "digits_images":
            steps = config(self.root, model).ensemble_scheduling.step
            self.steps = {step.model_name: step.model_version for step in steps}
        self.lacking += [
            f"{name} {version} after {self.calls[-1]}"
            for name, version in self.steps.items()
            if version not in self.ready.get(name, ())
        ]

    def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")
        self.ready.pop(model, None)
        if model == "digits_images":
            self.steps = {}

    def prove(self, model: str, served: Mapping[int, ReleaseRecord]) -> None:
        self._count(f"prove {model}")
        assert self.ready[model] == tuple(sorted(served))

    def prove_images(self, model: str, version: int, record: ReleaseRecord, top_k: int) -> None:
        self._count(f"prove images {version}")
        assert self.steps == dict.fromkeys((model, f"{model}_decode", f"{model}_names"), version)

    def _count(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self.refuse:
            raise NotServed(f"{call} was refused")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("releases")
    made = [lettered(letter, seed) for seed, letter in enumerate("abc")]
    return [write_release(place / str(i), release) for i, release in enumerate(made)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def begun(root: Path, releases: list[Path], server: Watcher | None = None) -> Path:
    """Make a repository: 1 served before, 2 served with its ensemble, 3 put there."""
    publish(releases[0], root, server=server, disk=FAST)
    publish(releases[1], root, top_k=2, server=server, disk=FAST)
    publish(releases[2], root, serve=False, server=server, disk=FAST)
    return root


CHANGES: dict[str, tuple[Callable[[Path, list[Path], Watcher | None, Disk], object], int]] = {
    "publish": (lambda root, r, server, disk: publish(r[0], root, server=server, disk=disk), 4),
    "promote": (lambda root, r, s, disk: promote(root, "digits", 3, server=s, disk=disk), 3),
    "rollback": (lambda root, r, s, disk: rollback(root, "digits", server=s, disk=disk), 1),
}


@pytest.mark.parametrize("with_server", [True, False], ids=["with a server", "files alone"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_ensemble_goes_with_its_model_and_never_lacks_a_step(
    root: Path, releases: list[Path], name: str, with_server: bool
) -> None:
    server = Watcher(root) if with_server else None
    change, version = CHANGES[name]
    begun(root, releases, server)
    change(root, releases, server, FAST)
    assert server is None or server.lacking == []
    assert broken(root) == []
    assert ensemble_of(root, "digits") == Ensemble("digits", version, 8, 2)
    assert served(root) == (version,)
    for part in PARTS:
        assert sorted(p.name for p in (root / part).iterdir()) == [str(version), CONFIG]
    assert [a[0] for a in actions(root)][-2:] == ["canary", name]
    assert doctor(root).findings == ()
    assert hazards(root) == []


def test_what_the_parts_say_is_the_release_of_their_version(
    root: Path, releases: list[Path]
) -> None:
    begun(root, releases)
    images, decode, names = (config(root, part) for part in PARTS)
    assert [
        (s.model_name, s.model_version, sorted(s.input_map.items()), sorted(s.output_map))
        for s in images.ensemble_scheduling.step
    ] == [
        ("digits_decode", 2, [("encoded", "encoded")], ["image"]),
        (
            "digits",
            2,
            [("forget_class", "forget_class"), ("image", "image")],
            ["applied_forget_class", "logits"],
        ),
        (
            "digits_names",
            2,
            [("applied_forget_class", "applied_forget_class"), ("logits", "logits")],
            ["indices", "names", "probabilities"],
        ),
    ]
    assert (images.platform, images.backend, images.max_batch_size) == ("ensemble", "", 8)
    assert [(t.name, t.data_type, list(t.dims)) for t in images.input] == [
        ("encoded", triton.TYPE_STRING, [1]),
        ("forget_class", triton.TYPE_INT64, [1]),
    ]
    assert [(t.name, t.data_type, list(t.dims)) for t in images.output] == [
        ("names", triton.TYPE_STRING, [2]),
        ("probabilities", triton.TYPE_FP32, [2]),
        ("indices", triton.TYPE_INT64, [2]),
        ("logits", triton.TYPE_FP32, [4]),
        ("applied_forget_class", triton.TYPE_INT64, [1]),
    ]
    assert (decode.backend, names.backend) == ("bandstop_images", "bandstop_names")
    assert '"nearest"' in decode.parameters["preprocess.2"].string_value
    assert '"bcat"' in names.parameters["labels.2"].string_value
    assert images.parameters["digest.2"].string_value == _digest(root, 2)
    assert (root / "digits_images" / "2" / "digest.txt").read_text().strip() == _digest(root, 2)


def _digest(root: Path, version: int) -> str:
    found = [v for v in versions(root) if (v.model, v.version) == ("digits", version)]
    assert found[0].record is not None
    return found[0].record.files["model.onnx"].sha256


def test_a_baked_model_has_one_too(root: Path, tmp_path: Path) -> None:
    baked = write_release(tmp_path / "baked", lettered("a", 1, "baked"))
    publish(baked, root, top_k=4, disk=FAST)
    images = config(root, "digits_images")
    assert [tensor.name for tensor in images.input] == ["encoded"]
    assert [tensor.name for tensor in config(root, "digits_names").input] == ["logits"]
    assert "applied_forget_class" not in [tensor.name for tensor in images.output]


def test_where_the_repository_is_a_mount_point_it_is_the_same(
    root: Path, releases: list[Path]
) -> None:
    disk = FailingDisk(-1, beside=False)
    publish(releases[0], root, top_k=2, disk=disk)
    publish(releases[1], root, disk=disk)
    assert broken(root) == []
    assert ensemble_of(root, "digits") == Ensemble("digits", 2, 8, 2)
    assert doctor(root).findings == ()


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_a_server_refuses_the_old_version_answers_again(
    tmp_path: Path, releases: list[Path], name: str
) -> None:
    change, _ = CHANGES[name]
    steps = 0
    for refuse in range(1, 100):
        root = tmp_path / str(refuse) / "models"
        root.parent.mkdir()
        server = Watcher(root)
        begun(root, releases, server)
        server.refuse = len(server.calls) + refuse
        try:
            change(root, releases, server, FAST)
        except NotServed as error:
            assert "was refused" in str(error)  # noqa: PT017  # in a loop
            assert ensemble_of(root, "digits") == Ensemble("digits", 2, 8, 2)
            assert server.steps == dict.fromkeys(("digits", *PARTS[1:]), 2)
            assert served(root) == server.ready["digits"] == (2,)
            assert broken(root) == []
            continue
        steps = refuse
        break
    assert steps > 9  # each of the calls was refused once


def test_an_ensemble_that_cannot_be_made_is_taken_away_again(
    tmp_path: Path, releases: list[Path]
) -> None:
    refused = 0
    for refuse in range(3, 20):
        root = tmp_path / str(refuse) / "models"
        root.parent.mkdir()
        server = Watcher(root, refuse)
        try:
            publish(releases[0], root, top_k=2, server=server, disk=FAST)
            break
        except NotServed as error:
            assert "digits serves version 1, without an ensemble" in str(error)  # noqa: PT017
        refused += 1
        assert sorted(p.name for p in root.iterdir()) == ["digits"]
        assert set(server.ready) == {"digits"}
        publish(releases[1], root, top_k=2, server=Watcher(root), disk=FAST)
        assert broken(root) == []
    assert refused == 4  # three loads and the proof


@pytest.mark.parametrize(
    ("name", "beside"),
    [(name, beside) for beside in (True, False) for name in (*CHANGES, "attach")],
)
def test_a_kill_at_any_moment_leaves_an_ensemble_that_works(
    tmp_path: Path, releases: list[Path], name: str, beside: bool
) -> None:
    template = tmp_path / "template"
    template.mkdir()
    if name == "attach":
        publish(releases[0], template / "models", disk=FAST)
    else:
        begun(template / "models", releases)
    for kills in range(400):
        shutil.copytree(template, tmp_path / str(kills))
        root = tmp_path / str(kills) / "models"
        disk = KilledDisk(kills, beside=beside)
        try:
            if name == "attach":
                publish(releases[1], root, top_k=2, disk=disk)
            else:
                CHANGES[name][0](root, releases, None, disk)
        except (StepError, NotServed):
            pass
        with changing(root, None, FailingDisk(-1, beside=beside), there=True):
            pass  # sweeps
        assert broken(root) == []
        if disk.left >= 0:
            break
        if kills % 5 == 0:
            publish(releases[2], root, top_k=2, disk=FAST)
            assert broken(root) == []
            assert ensemble_of(root, "digits") == Ensemble("digits", max(served(root)), 8, 2)
    assert kills > 30


def test_a_rollback_that_policy_refuses_leaves_the_ensemble_alone(
    root: Path, tmp_path: Path
) -> None:
    baked = lettered("a", 1, "baked")
    plain = baked.record.forget.model_copy(update={"classes": []})
    knows = Made(baked.record.model_copy(update={"forget": plain}), baked.file)
    publish(write_release(tmp_path / "knows", knows), root, top_k=1, disk=FAST)
    publish(write_release(tmp_path / "forgets", baked), root, disk=FAST)
    with pytest.raises(RefusedByPolicy):
        rollback(root, "digits", disk=FAST)
    assert ensemble_of(root, "digits") == Ensemble("digits", 2, 8, 1)
    rollback(root, "digits", override="a court says so", disk=FAST)
    assert ensemble_of(root, "digits") == Ensemble("digits", 1, 8, 1)
    assert broken(root) == []


def test_a_canary_leaves_the_ensemble_with_the_stable_version(
    root: Path, releases: list[Path]
) -> None:
    server = Watcher(root)
    begun(root, releases, server)
    promote(root, "digits", 3, canary=True, server=server, disk=FAST)
    assert ensemble_of(root, "digits") == Ensemble("digits", 2, 8, 2)
    rollback(root, "digits", server=server, disk=FAST)
    assert ensemble_of(root, "digits") == Ensemble("digits", 2, 8, 2)
    assert server.lacking == []


def test_gc_leaves_parts_alone_and_list_tells_them(
    root: Path, releases: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    begun(root, releases)
    before = {p: p.read_bytes() for p in root.glob("digits_*/*") if p.is_file()}
    assert [one.version for one in gc(root, keep=0)] == [1]
    assert {p: p.read_bytes() for p in root.glob("digits_*/*") if p.is_file()} == before
    assert {v.model: v.part_of for v in versions(root)} == {
        "digits": None,
        **dict.fromkeys(PARTS, "digits"),
    }
    assert main(["repo", "list", str(root)]) == 0
    assert capsys.readouterr().out.count("ensemble") == 3


def spoil_version(root: Path) -> None:
    file = root / "digits" / CONFIG
    file.write_text(file.read_text().replace("versions: 2", "versions: 1"))


def spoil_names(root: Path) -> None:
    file = root / "digits_names" / CONFIG
    file.write_text(file.read_text().replace("bcat", "dog"))


def spoil_step(root: Path) -> None:
    (root / "digits_decode" / CONFIG).unlink()


@pytest.mark.parametrize(
    ("spoil", "what", "stops"),
    [
        (spoil_version, "takes version 2, which is not served", "takes version 2 of digits"),
        (spoil_names, "is not what publish writes", ""),
        (spoil_step, "no config.pbtxt", "digits_decode, which is not there"),
        (lambda root: (root / "digits_names" / "2" / "x.py").write_text(""), "a foreign file", ""),
    ],
)
def test_the_doctor_and_the_server_find_parts_that_do_not_fit(
    root: Path, releases: list[Path], spoil: Callable[[Path], object], what: str, stops: str
) -> None:
    begun(root, releases)
    spoil(root)
    assert what in " ".join(finding.what for finding in doctor(root).findings)
    assert stops in " ".join(str(hazard) for hazard in hazards(root) if hazard.stops)
    if not stops:
        assert hazards(root) == []


def test_what_cannot_have_an_ensemble_is_refused_before_anything_changes(
    root: Path, releases: list[Path], tmp_path: Path
) -> None:
    long = "a" * 58
    with pytest.raises(SpecError, match="at most 57 characters"):
        publish(releases[0], root, long, top_k=2)
    for top_k in (0, 5):
        with pytest.raises(SpecError, match=f"top-k: expected 1 to 4, got {top_k}"):
            publish(releases[0], root, top_k=top_k)
    for serve in (True, False):
        with pytest.raises(SpecError, match="leave out canary and no-serve"):
            publish(releases[0], root, top_k=2, serve=serve, canary=serve)
    assert not root.exists()
    begun(root, releases)
    smaller = lettered("d", 1)
    fewer = replace(smaller, record=smaller.record.model_copy(update={"max_batch_size": 4}))
    with pytest.raises(SpecError, match="max_batch_size 4, but its ensemble takes 8"):
        publish(write_release(tmp_path / "fewer", fewer), root)
    with pytest.raises(SpecError, match="names 2 classes, got top-k 3"):
        publish(releases[0], root, top_k=3)
    assert served(root) == (2,)
    repo, release = str(root), str(releases[0])
    assert main(["repo", "publish", release, repo, "--top-k", "2"]) == 2


def test_models_of_their_own_may_have_such_names(root: Path, releases: list[Path]) -> None:
    for name in ("digits_images", "digits_names", "digits"):
        publish(releases[0], root, name, disk=FAST)
    assert part_of(root / "digits_images") is None
    publish(releases[1], root, disk=FAST)  # is not held up
    with pytest.raises(SpecError, match="digits_images: in the repository, and no part of"):
        publish(releases[1], root, top_k=2, disk=FAST)
    assert served(root) == (2,)
