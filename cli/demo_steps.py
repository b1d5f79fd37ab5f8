"""The demo's steps, each a call of the library: train, forget, release, publish, ask, compare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bandstop.cli.demo_report import Row
from bandstop.client import Client
from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.artifact import Artifact, load_artifact, save_artifact
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.method import Method
from bandstop.edit.moments import editable_layers
from bandstop.edit.request import ForgetRequest
from bandstop.edit.train import CHARACTERS, DIGITS, train
from bandstop.edit.unlearn import unlearn
from bandstop.export.errors import ParityFailed
from bandstop.export.parity import masked_logits
from bandstop.export.record import ServingRecord
from bandstop.export.record_files import Release
from bandstop.export.release import Options, export_release, release_classifier
from bandstop.export.repository import publish
from bandstop.export.spec import ExportSpec
from bandstop.export.tolerance import TOLERANCE

Pixels = NDArray[np.float32]
# twelve models on two busy cores: one process each, and a request may wait for long
PATIENT = ServingRecord(instances=1, queue_timeout_us=30_000_000)
_BATCH = 64  # rows a request, the max_batch_size of a release


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the demo puts things."""

    root: Path

    def make(self) -> None:
        """Make all folders; the root must not exist."""
        self.root.mkdir()
        for folder in (self.artifacts, self.releases, self.repository):
            folder.mkdir()

    @property
    def artifacts(self) -> Path:
        """What unlearning leaves."""
        return self.root / "artifacts"

    @property
    def releases(self) -> Path:
        """What export leaves."""
        return self.root / "releases"

    @property
    def repository(self) -> Path:
        """What Triton serves."""
        return self.root / "repository"


def trained(data: DataSplits, seed: int, without: int | None = None) -> Classifier:
    """Return the demo's network, trained on all classes or on all but one."""
    if without is not None:
        data = replace(
            data,
            train=data.train.without_classes([without]),
            validate=data.validate.without_classes([without]),
        )
    return train(DIGITS, data, CHARACTERS, seed=seed)


def forgotten(
    out: Path, base: Classifier, data: DataSplits, method: Method, request: ForgetRequest
) -> Artifact:
    """Run `method` on `base`, write its artifact, and return what can be read back from there."""
    folded, edit = unlearn(base, method, request, data)
    save_artifact(out, folded, edit, method=method, request=request, parent=base)
    return load_artifact(out)


def release_all(
    folders: Folders, base: Classifier, baked: Mapping[int, Artifact], gated: Artifact
) -> dict[str, Release]:
    """Export the original, every baked model and the gated one; return them by model name."""
    options = Options("digits_original", PATIENT)
    last = release_classifier(base, ExportSpec("original"), folders.releases / "original", options)
    released = {"digits_original": last}
    for c, artifact in baked.items():
        name = f"digits_svd_{c}"
        options = Options(name, PATIENT, like=last)
        last = export_release(artifact, ExportSpec("baked"), folders.releases / name, options)
        released[name] = last
    name = "digits_gated"
    released[name] = export_release(
        gated, ExportSpec("gated"), folders.releases / name, Options(name, PATIENT)
    )
    return released


def publish_all(folders: Folders, releases: Mapping[str, Release]) -> None:
    """Put every release into the model repository."""
    for name, release in releases.items():
        publish(release.path, folders.repository, name)


def pixels(images: ImageSet) -> Pixels:
    """Return all images as float32 (n, c, h, w) in [0, 1]."""
    image, _ = next(images.batches(len(images)))
    array: Pixels = image.numpy()
    return array


def ask(url: str, model: str, images: Pixels, forget: list[int] | None = None) -> Tensor:
    """Return the logits that the server gives for `images`, one policy an image if `forget`."""
    with Client(url, model, deadline=60) as client:
        return torch.from_numpy(client.logits(list(images), forget))


def ask_mixed(url: str, images: Pixels, num_classes: int, seed: int) -> Tensor:
    """Return the gated model's logits (num_classes, n, num_classes) of every image under every row.

    Rows are shuffled, so that each request to the server mixes images and forget classes.
    """
    n = len(images)
    order = np.random.default_rng(seed).permutation(num_classes * n)
    answers = ask(url, "digits_gated", images[order % n], (order // n).tolist())
    result = torch.empty_like(answers)
    result[torch.from_numpy(order)] = answers
    return result.reshape(num_classes, n, num_classes)


def batch_parity(url: str, gated: Artifact, images: Pixels, seed: int) -> float:
    """Return how far one request of 64 images with mixed classes is from masked weights, at most.

    Row by row: the reference is the network in PyTorch with literally masked weights.

    Raises:
        ParityFailed: further than the tolerance of an export.
    """
    generator = np.random.default_rng(seed)
    chosen = images[generator.permutation(len(images))[:_BATCH]]
    classes = (np.arange(len(chosen)) % gated.model.num_classes)[
        generator.permutation(len(chosen))
    ].tolist()
    answers = ask(url, "digits_gated", chosen, classes)
    gaps = []
    for image, c, answer in zip(chosen, classes, answers, strict=True):
        reference = masked_logits(gated.model, gated.gates, [c], torch.from_numpy(image[None]))
        gaps.append(float((reference[0] - answer).abs().max()))
    if max(gaps) > TOLERANCE:
        raise ParityFailed(
            f"one request of {len(chosen)} classes: the server's logits differ from masked weights "
            f"by {max(gaps):.1e}, expected <= {TOLERANCE:.0e}"
        )
    return max(gaps)


def served_rows(
    url: str, test: ImageSet, base: Classifier, baked: Mapping[int, Artifact], gated: Artifact
) -> Iterator[Row]:
    """Yield the rows of all that is measured through the server."""
    images, labels, seed = pixels(test), test.labels, gated.manifest.seed
    original = ask(url, "digits_original", images).argmax(1)
    mixed = ask_mixed(url, images, base.num_classes, seed).argmax(2)
    for c in range(base.num_classes):
        yield Row("original", c, *forget_and_retain(original, labels, [c]), True, 0.0)
        answers = ask(url, f"digits_svd_{c}", images).argmax(1)
        change = smallest_change(base, baked[c].model.network.state_dict())
        yield Row("svd", c, *forget_and_retain(answers, labels, [c]), True, change)
        change = smallest_change(base, _row_state(gated, c), convolutions_only=True)
        yield Row("gated", c, *forget_and_retain(mixed[c], labels, [c]), True, change)


def local_row(name: str, c: int, base: Classifier, other: Classifier, test: ImageSet) -> Row:
    """Return the row of a network that is compared locally."""
    answers = logits(other, test).argmax(1)
    change = smallest_change(base, other.network.state_dict())
    return Row(name, c, *forget_and_retain(answers, test.labels, [c]), False, change)


def smallest_change(
    base: Classifier, state: Mapping[str, Tensor], *, convolutions_only: bool = False
) -> float:
    """Return the least relative change, over the layers' weights, from `base` to `state`."""
    before = base.network.state_dict()
    names = [
        f"{name}.weight"
        for name, layer in editable_layers(base.network).items()
        if not convolutions_only or isinstance(layer, torch.nn.Conv2d)
    ]
    return min(float((state[n] - before[n]).norm() / before[n].norm()) for n in names)


def _row_state(gated: Artifact, c: int) -> dict[str, Tensor]:
    gates = gated.gates or GateEdit({})
    return fold(gated.model.network.state_dict(), gates, [c])
