"""Evaluations in MLflow and TensorBoard: with stand-ins always, with the packages if installed."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.records import Evaluation, write_metrics
from bandstop.edit.evaluation.trackers import (
    TrackerError,
    flat_metrics,
    flat_settings,
    to_mlflow,
    to_tensorboard,
)
from tests.evaluations import instances, svd

URI = "http://user:secret@tracker:5000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "evaluation", svd())


def written(folder: Path, evaluation: Evaluation) -> Path:
    (folder / "plots").mkdir(parents=True)
    write_metrics(folder / "metrics.json", evaluation)
    (folder / "plots" / "per_class.json").write_text("[]")
    return folder


def test_figures_are_flat() -> None:
    evaluation = svd(probe_acc=0.5)
    flat = flat_metrics(evaluation)
    assert flat["edited/probe_acc"] == 0.5
    assert flat["logit-mask/probe_acc"] == evaluation.subjects["logit-mask"]["probe_acc"].value
    assert len(flat) == sum(map(len, evaluation.subjects.values()))


def test_settings_are_flat() -> None:
    assert flat_settings(svd(seed=3)) == {
        "method": "svd",
        "kind": "weights",
        "forget": "cat",
        "seed": "3",
        "data": "cifar10:data/cifar10",
        "evaluation_seed": "0",
        "parent_sha256": "a1" * 32,
        "params.alpha_retain": "[10, 100, 300]",
        "params.alpha_forget": "3",
        "params.layers": '"all"',
        "params.eps": "1e-06",
    }
    assert flat_settings(instances())["forget"] == "40 training images"


class RefusedError(Exception):
    """Stands in for MlflowException."""


@dataclass
class Run:
    """What a stand-in of an MLflow server knows of a run."""

    experiment: str
    name: str
    metrics: dict[str, tuple[float, int]] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[str, str] | None = None
    status: str = "RUNNING"


@dataclass
class Server:
    """Stands in for an MLflow server; `full` has no room for artifacts."""

    experiments: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    full: BaseException | None = None


@dataclass
class Client:
    """Stands in for MlflowClient; an id is a place in the server's lists."""

    server: Server

    def get_experiment_by_name(self, name: str) -> object | None:
        names = self.server.experiments
        return SimpleNamespace(experiment_id=str(names.index(name))) if name in names else None

    def create_experiment(self, name: str) -> str:
        if name in self.server.experiments:
            raise RefusedError(f"experiment {name} exists")
        self.server.experiments.append(name)
        return str(len(self.server.experiments) - 1)

    def create_run(self, experiment_id: str, run_name: str) -> object:
        self.server.runs.append(Run(self.server.experiments[int(experiment_id)], run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=str(len(self.server.runs) - 1)))

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[SimpleNamespace] = (),
        params: Sequence[SimpleNamespace] = (),
    ) -> None:
        if len(metrics) > 1000 or len(params) > 100:
            raise RefusedError("too much in one request")
        run = self.server.runs[int(run_id)]
        run.metrics |= {m.key: (m.value, m.step) for m in metrics}
        run.params |= {p.key: p.value for p in params}

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str) -> None:
        if self.server.full:
            raise self.server.full
        self.server.runs[int(run_id)].artifacts = (local_dir, artifact_path)

    def set_terminated(self, run_id: str, status: str) -> None:
        self.server.runs[int(run_id)].status = status


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Put a stand-in of the package mlflow in place, and return the server behind it."""
    found = Server()

    def connect(tracking_uri: str) -> Client:
        if tracking_uri != URI:
            raise RefusedError(f"no server at\n{tracking_uri}")
        return Client(found)

    def entity(*names: str) -> object:
        return lambda *values: SimpleNamespace(**dict(zip(names, values, strict=True)))

    mlflow, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    vars(mlflow).update(MlflowClient=connect, MlflowException=RefusedError, entities=entities)
    vars(entities).update(
        Metric=entity("key", "value", "timestamp", "step"), Param=entity("key", "value")
    )
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return found


def test_a_run_of_mlflow_has_figures_settings_and_the_folder(server: Server, folder: Path) -> None:
    run_id = to_mlflow(folder, URI, "forgetting", "svd cat")
    (run,) = server.runs
    assert run_id == "0"
    assert (run.experiment, run.name, run.status) == ("forgetting", "svd cat", "FINISHED")
    assert run.metrics == {key: (value, 0) for key, value in flat_metrics(svd()).items()}
    assert run.params == flat_settings(svd())
    assert run.artifacts == (str(folder), "evaluation")


def test_a_second_run_joins_the_experiment(server: Server, folder: Path) -> None:
    ids = [to_mlflow(folder, URI, "forgetting", name) for name in ("one", "two")]
    assert ids == ["0", "1"]
    assert server.experiments == ["forgetting"]


def test_many_settings_are_sent_in_parts(server: Server, tmp_path: Path) -> None:
    params = {f"a{i}": i for i in range(250)}
    artifact = svd().artifact.model_copy(update={"params": params})
    many = svd().model_copy(update={"artifact": artifact})
    to_mlflow(written(tmp_path / "many", many), URI, "forgetting", "many")
    assert server.runs[0].params == flat_settings(many)


@pytest.mark.parametrize("error", [RefusedError("no room"), KeyboardInterrupt()])
def test_a_run_that_is_not_whole_is_marked(
    server: Server, folder: Path, error: BaseException
) -> None:
    server.full = error
    with pytest.raises((TrackerError, KeyboardInterrupt)):
        to_mlflow(folder, URI, "forgetting", "half")
    assert server.runs[0].status == "FAILED"


def test_what_mlflow_refuses_is_one_line_without_a_password(server: Server, folder: Path) -> None:
    with pytest.raises(TrackerError) as refused:
        to_mlflow(folder, "http://me:secret@elsewhere", "forgetting", "one")
    assert str(refused.value).endswith("no server at http://elsewhere")
    assert server.runs == []


def test_mlflow_is_told_not_to_report_to_its_makers(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    environment: dict[str, str] = {}
    monkeypatch.setattr("bandstop.edit.evaluation.trackers.os.environ", environment)
    to_mlflow(folder, URI, "forgetting", "one")
    assert environment == {"MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass
class Writer:
    """Stands in for TensorBoard's SummaryWriter."""

    logdir: str
    scalars: dict[str, tuple[float, int]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    closed: bool = False

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *raised: object) -> None:
        self.closed = True

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars[tag] = (value, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.texts[tag] = text


def test_logs_of_tensorboard_have_figures_and_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[Writer] = []

    def opened(logdir: str) -> Writer:
        writers.append(Writer(logdir))
        return writers[-1]

    module = ModuleType("torch.utils.tensorboard")
    vars(module)["SummaryWriter"] = opened
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    to_tensorboard(folder, folder / "logs")
    (writer,) = writers
    assert (writer.logdir, writer.closed) == (str(folder / "logs"), True)
    assert writer.scalars == {key: (value, 0) for key, value in flat_metrics(svd()).items()}
    lines = writer.texts["settings"].splitlines()
    assert lines[:2] == ["|setting|value|", "|---|---|"]
    assert lines[2:] == [f"|{key}|{value}|" for key, value in flat_settings(svd()).items()]


@pytest.mark.parametrize(
    ("module", "package"),
    [("mlflow", "mlflow-skinny"), ("torch.utils.tensorboard", "tensorboard")],
)
def test_a_missing_package_is_one_line_with_its_mend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    track: dict[str, Callable[[], object]] = {
        "mlflow": lambda: to_mlflow(folder, URI, "forgetting", "one"),
        "torch.utils.tensorboard": lambda: to_tensorboard(folder, folder / "logs"),
    }
    with pytest.raises(TrackerError, match=f"mend it with: pip install {package}$") as refused:
        track[module]()
    assert "\n" not in str(refused.value)


def test_a_folder_without_an_evaluation_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        to_mlflow(tmp_path, URI, "forgetting", "one")
    with pytest.raises(InputError, match=r"metrics\.json: no such file"):
        to_tensorboard(tmp_path, tmp_path / "logs")
    assert server.runs == []


def needs(package: str) -> pytest.MarkDecorator:
    absent = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(absent, reason=f"{package} is not installed: not tried with it")


@needs("mlflow")
def test_mlflow_itself_takes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = importlib.import_module("mlflow")
    uri = (folder.parent / "store").as_uri()
    first, second = (to_mlflow(folder, uri, "forgetting", name) for name in ("one", "two"))
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.get_run(first)
    assert run.data.metrics == flat_metrics(svd())
    assert run.data.params == flat_settings(svd())
    assert (run.info.run_name, run.info.status) == ("one", "FINISHED")
    assert run.info.experiment_id == client.get_run(second).info.experiment_id
    kept = {file.path for file in client.list_artifacts(first, "evaluation")}
    assert kept == {"evaluation/metrics.json", "evaluation/plots"}


@needs("mlflow")
def test_a_plain_folder_that_mlflow_refuses_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(TrackerError, match="MLFLOW_ALLOW_FILE_STORE=true") as refused:
        to_mlflow(folder, (folder.parent / "store").as_uri(), "forgetting", "one")
    assert "\n" not in str(refused.value)


@needs("tensorboard")
def test_tensorboard_itself_reads_it(folder: Path) -> None:
    to_tensorboard(folder, folder.parent / "logs")
    name = "tensorboard.backend.event_processing.event_accumulator"
    events = importlib.import_module(name).EventAccumulator(str(folder.parent / "logs"))
    events.Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    # TensorBoard holds float32
    assert found == {k: pytest.approx(v, rel=1e-6) for k, v in flat_metrics(svd()).items()}
    assert events.Tags()["tensors"] == ["settings/text_summary"]
