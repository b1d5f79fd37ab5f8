"""Releases to serve under load, and what each of them has to answer, known without a server."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from bandstop.client.predictions import softmax
from bandstop.edit.arch import build
from bandstop.edit.artifact import load_artifact, save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.edit.train import DIGITS
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.export.record import MODEL
from bandstop.export.release import Options, export_release
from bandstop.export.spec import ExportSpec

CLASSES, SIDE, IMAGES = 10, 8, 16
TOLERANCE = 1e-4  # of a probability; a wrong row or version is off by far more, which is checked


@dataclass(frozen=True, slots=True)
class Expected:
    """A release and its answers.

    Attributes:
        release: the folder.
        names: of its classes; no two releases share one.
        probabilities: (images, classes to forget, classes) in the order of the indices.
    """

    release: Path
    names: tuple[str, ...]
    probabilities: NDArray[np.float64]


def images() -> NDArray[np.float32]:
    """Return the images (n, 1, 8, 8) that every client sends."""
    pixels: NDArray[np.float32] = np.random.default_rng(0).random(
        (IMAGES, 1, SIDE, SIDE), dtype=np.float32
    )
    return pixels


def gated_releases(folder: Path, letters: str, model: str = "digits") -> list[Expected]:
    """Export a gated release a letter: the demo's network, with weights and masks of its own."""
    found = [_gated(folder, letter, model) for letter in letters]
    for first in found:
        for other in found:
            if first is not other:
                gap = np.abs(first.probabilities - other.probabilities).max(axis=2)
                assert gap.min() > 2 * TOLERANCE, "two releases answer alike; choose other seeds"
    return found


def answers(file: Path) -> NDArray[np.float64]:
    """Return the probabilities (images, classes, classes) of the gated graph in `file`."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    rows = []
    for c in range(CLASSES):
        asked = np.full((IMAGES, 1), c, np.int64)
        logits = session.run(["logits"], {"image": images(), "forget_class": asked})[0]
        rows.append(softmax(logits))
    return np.stack(rows, axis=1)


def _gated(folder: Path, letter: str, model: str) -> Expected:
    seed = ord(letter)
    generator = torch.Generator().manual_seed(seed)
    network = build(DIGITS, CLASSES, 1, (SIDE, SIDE))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:  # random, and large enough for answers that differ
                parameter.normal_(0, (3 / parameter[0].numel()) ** 0.5, generator=generator)
    names = tuple(f"{letter}{c}" for c in range(CLASSES))
    prep = Preprocess((SIDE, SIDE), 1, (0.5,), (0.25,))
    folded = fold_batchnorm(Classifier(network.eval(), DIGITS, prep, names))
    masks = {
        name: 0.2 + 0.8 * torch.rand(CLASSES, width, generator=generator)
        for name, width in gateable(folded.network).items()
    }
    artifact, out = folder / f"artifact-{letter}", folder / f"release-{letter}"
    request = every_class(folded)
    save_artifact(artifact, folded, GateEdit(masks), method=WFNet(), request=request, parent=folded)
    export_release(load_artifact(artifact), ExportSpec("gated"), out, Options(model))
    return Expected(out, names, answers(out / MODEL))
