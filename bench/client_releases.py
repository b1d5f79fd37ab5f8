"""Releases of networks with random weights and masks, for clients to be measured with."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from bandstop.bench.graph_files import random_masks
from bandstop.edit.arch import build
from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.images import Preprocess
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.export.record import ServingRecord
from bandstop.export.release import Options, export_release
from bandstop.export.repository import publish
from bandstop.export.spec import ExportSpec


@dataclass(frozen=True, slots=True)
class Network:
    """A network for images (channels, size, size) of ten classes."""

    arch: Arch
    size: int
    channels: int = 3


def artifact_of(network: Network, folder: Path) -> Artifact:
    """Write `network` with random weights and masks to `folder`, and return it as it was read."""
    torch.manual_seed(0)
    pixels, n = (network.size, network.size), network.channels
    module = build(network.arch, 10, n, pixels).eval()
    names = tuple(f"class {c}" for c in range(10))
    prep = Preprocess(pixels, n, (0.5,) * n, (0.25,) * n)
    model = fold_batchnorm(Classifier(module, network.arch, prep, names))
    masks, request = random_masks(model, tied=True), every_class(model)
    save_artifact(folder, model, masks, method=WFNet(), request=request, parent=model)
    return load_artifact(folder)


def publish_all(
    artifact: Artifact,
    specs: Iterable[tuple[str, ExportSpec]],
    folder: Path,
    serving: ServingRecord | None = None,
) -> Path:
    """Export `artifact` by each named spec, publish all, and return the repository."""
    repo = folder / "models"
    for name, spec in specs:
        options = Options(name, serving or ServingRecord())
        export_release(artifact, spec, folder / name, options)
        publish(folder / name, repo)
    return repo
