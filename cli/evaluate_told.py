"""What other commands have told of an artifact: what it cost, how near its file is to PyTorch."""

import json
from collections.abc import Sequence
from pathlib import Path

from bandstop.cli.evaluate_source import Compared
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.record_parts import RuntimeRecord
from bandstop.edit.manifest import artifact_sha256
from bandstop.export.record_files import load_release

_COSTS = ("unlearn_seconds", "peak_memory_mb")


def costs_of(edit_run: Path | None, retrain_run: Path | None = None) -> RuntimeRecord:
    """Return what the JSON of `bandstop unlearn` says of the costs of the edit and of retraining.

    Raises:
        InputError: it is no such JSON.
    """
    costs = RuntimeRecord() if edit_run is None else _told("--run", edit_run, _COSTS)
    if retrain_run is None:
        return costs
    instead = _told("--retrain-run", retrain_run, _COSTS[:1])
    return costs.model_copy(update={"retrain_seconds": instead.unlearn_seconds})


def parity_of(release: Path | None, compared: Compared) -> Measure | None:
    """Return how far the logits of the file in `release` are from PyTorch's; None without one.

    Raises:
        InputError: it is a release of another artifact, or one that forgets other classes.
        ReleaseError: it is corrupt.
    """
    if release is None:
        return None
    if not release.is_dir():
        raise InputError(f"--release {release}: expected the folder that bandstop export wrote")
    record, artifact = load_release(release).record, compared.artifact
    if record.artifact_sha256 != artifact_sha256(artifact.manifest):
        raise InputError(f"--release {release}: exported from another artifact; give one of this")
    other = tuple(record.forget.classes) != compared.request.classes
    if record.mode == "baked" and artifact.gates is not None and other:
        raise InputError(f"--release {release}: forgets other classes than --forget; give one each")
    return Measure(record.parity.max_abs, None, record.parity.compared)


def _told(option: str, file: Path, keys: Sequence[str]) -> RuntimeRecord:
    try:
        told = json.loads(file.read_text())
        costs = {key: told[key] for key in keys if key in told}
        if not costs or not isinstance(told, dict):
            raise ValueError(f"expected a mapping with {' or '.join(keys)}")
        return RuntimeRecord(**costs)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{option} {file}: expected the JSON that bandstop unlearn --json prints"
        ) from error
