"""The parts of `bandstop evaluate` that are neither measured nor shown."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from bandstop.cli.evaluate_source import Compared, Named
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.evaluate import REFERENCES, Notes
from bandstop.edit.evaluation.insertion import Curves, insertion
from bandstop.edit.evaluation.observed import sample
from bandstop.edit.evaluation.oracle import fingerprint
from bandstop.edit.evaluation.record_parts import SubjectName
from bandstop.edit.evaluation.tasks import World
from bandstop.edit.storage import (
    canonical_json,
    library_versions,
    sha256,
    state_sha256,
    tensor_sha256,
)

_INSERTION_IMAGES = 200  # of each class: every point of four curves asks them all


def insertion_curves(
    compared: Compared, networks: Mapping[SubjectName, Classifier], world: World
) -> Curves | None:
    """Return the curves of masks; None for an edit of weights."""
    gates = compared.artifact.gates
    if gates is None:
        return None
    classes = world.case.classes
    images = [sample(world.case.test.of_classes([c]), _INSERTION_IMAGES, c) for c in classes]
    picked = torch.cat([part.index for part in images])
    among = world.case.test.take(torch.isin(world.case.test.index, picked))
    backbone = compared.artifact.model.to(networks["edited"].mean)
    return insertion(backbone, gates, classes, among, networks["original"], seed=world.case.seed)


def settings_digest(compared: Compared, seed: int, relearn_cap: int) -> str:
    """Return a digest of all that decides a network's figures but for the network itself."""
    data = compared.data
    record = {
        "versions": library_versions(),
        "references": {
            name: state_sha256(compared.networks[name].network.state_dict())
            for name in REFERENCES
            if name in compared.networks
        },
        "request": asdict(compared.request),
        "images": [
            [tensor_sha256(part.index), tensor_sha256(part.labels), fingerprint(part)]
            for part in (data.train, data.test)
        ],
        "seed": seed,
        "relearn_cap": relearn_cap,
    }
    return sha256(canonical_json(record))


def notes_in(cache: Path | None, partial: Path, settings: str) -> Notes:
    """Return where figures are kept: in `cache` for good, or in `partial` until all are there."""
    folder = partial if cache is None else cache / settings[:16]
    try:
        folder.mkdir(parents=cache is not None, exist_ok=True)
    except OSError as error:
        where = f"--out: {folder}" if cache is None else f"--cache {cache}"
        raise InputError(
            f"{where}: not a folder that can be written ({error.strerror}); choose another"
        ) from error
    return Notes(folder, settings)


def command_line(named: Named, out: Path, pack: str, only: str | None, relearn_cap: int) -> str:
    """Return the command line that repeats the evaluation."""
    parts = ["bandstop", "evaluate", str(named.artifact), "--data", named.data]
    options = {
        "--forget": named.forget,
        "--original": named.original,
        "--retrained": named.retrained,
        "--retrain": named.retrain,
        "--pack": None if pack == "cheap" else pack,
        "--metrics": only,
        "--relearn-cap": None if relearn_cap == 20 else relearn_cap,
        "--seed": named.seed or None,
        "--out": out,
    }
    for option, value in options.items():
        parts += [] if value is None else [option, str(value)]
    return shlex.join(parts)
