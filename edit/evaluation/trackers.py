"""An evaluation as a run of MLflow or of TensorBoard; neither is needed otherwise."""

import importlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bandstop.edit.errors import EditError
from bandstop.edit.evaluation.records import METRICS, Evaluation, read_metrics

_PARAMS = 100  # that MLflow's servers take in one request


class TrackerError(EditError):
    """A tracker is not installed, cannot be reached or refuses what it is given."""


def to_mlflow(folder: Path, uri: str, experiment: str, run_name: str) -> str:
    """Record an evaluation as a new run of MLflow and return the run's id.

    It has each figure as a metric SUBJECT/KEY, the settings as parameters, and the folder as the
    artifact `evaluation`. A run that could not be recorded whole is marked as failed.

    Args:
        folder: what `bandstop evaluate` wrote.
        uri: of the tracking server, as http://localhost:5000. The package mlflow-skinny has no
            database, and writes to a plain folder only where MLFLOW_ALLOW_FILE_STORE is true.
        experiment: its name; made where there is none.
        run_name: for people.

    Raises:
        InputError: no evaluation is in `folder`.
        ArtifactError: it is corrupt.
        TrackerError: MLflow is missing, unreachable or refuses.
    """
    evaluation = read_metrics(folder / METRICS)
    # MLflow reports what it runs to its makers unless told not to before it is imported
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow, entities = (_imported(n, "mlflow-skinny") for n in ("mlflow", "mlflow.entities"))
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        run_id = client.create_run(_experiment(client, experiment), run_name=run_name).info.run_id
        try:
            _log(client, run_id, entities, evaluation)
            client.log_artifacts(run_id, str(folder), "evaluation")
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    except mlflow.MlflowException as error:
        raise TrackerError(f"MLflow refuses or cannot be reached: {_redacted(error)}") from error
    return str(run_id)


def to_tensorboard(folder: Path, logdir: Path) -> None:
    """Add an evaluation to the logs in `logdir`: a scalar SUBJECT/KEY a figure, settings as text.

    Args:
        folder: what `bandstop evaluate` wrote.
        logdir: one run of TensorBoard; made where there is none.

    Raises:
        InputError: no evaluation is in `folder`.
        ArtifactError: it is corrupt.
        TrackerError: TensorBoard is missing.
    """
    evaluation = read_metrics(folder / METRICS)
    tensorboard = _imported("torch.utils.tensorboard", "tensorboard")
    table = ["|setting|value|", "|---|---|"]
    table += [f"|{key}|{value}|" for key, value in flat_settings(evaluation).items()]
    with tensorboard.SummaryWriter(str(logdir)) as writer:
        for key, value in flat_metrics(evaluation).items():
            writer.add_scalar(key, value, 0)
        writer.add_text("settings", "\n".join(table), 0)


def flat_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return each figure by SUBJECT/KEY, as in edited/test_forget_acc."""
    return {
        f"{subject}/{key}": measure.value
        for subject, measures in evaluation.subjects.items()
        for key, measure in measures.items()
    }


def flat_settings(evaluation: Evaluation) -> dict[str, str]:
    """Return what was done to which network, with which data; the method's own as params.NAME."""
    artifact = evaluation.artifact
    asked = artifact.request
    settings = {
        "method": artifact.method,
        "kind": artifact.kind,
        "forget": ", ".join(asked.classes) or f"{asked.instances} training images",
        "seed": str(artifact.seed),
        "data": evaluation.data.spec,
        "evaluation_seed": str(evaluation.seed),
        "parent_sha256": artifact.parent_sha256,
    }
    return settings | {f"params.{key}": json.dumps(v) for key, v in artifact.params.items()}


def _experiment(client: Any, name: str) -> str:  # noqa: ANN401  # MLflow need not be installed
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _log(client: Any, run_id: str, entities: ModuleType, evaluation: Evaluation) -> None:  # noqa: ANN401  # same
    now = int(time.time() * 1000)  # milliseconds
    figures = flat_metrics(evaluation).items()
    client.log_batch(run_id, metrics=[entities.Metric(k, v, now, 0) for k, v in figures])
    params = [entities.Param(k, v) for k, v in flat_settings(evaluation).items()]
    for part in _parts(params, _PARAMS):
        client.log_batch(run_id, params=part)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _redacted(error: Exception) -> str:
    """Return what an error says in one line, without the user and password of a URL."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))


def _imported(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrackerError(
            f"{package} is not usable ({error}); mend it with: pip install {package}"
        ) from error
