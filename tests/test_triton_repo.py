"""The model repository that is checked in: a model of each kind, valid, and really served."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bandstop.client import Client
from bandstop.edit.data import load_data
from bandstop.edit.images import ImageSet
from bandstop.edit.storage import sha256
from bandstop.export.repository import versions
from bandstop.export.rules import violations
from bandstop.serve.triton import start

REPOSITORY = Path(__file__).resolve().parents[1] / "triton_repo"
BAKED_CLASS = 3


def test_it_holds_one_model_of_each_kind_and_nothing_else() -> None:
    assert {p.name for p in REPOSITORY.iterdir()} == {"digits_gated", "digits_baked"}
    modes = {v.model: v.record.mode for v in versions(REPOSITORY) if v.record and v.served}
    assert modes == {"digits_gated": "gated", "digits_baked": "baked"}


@pytest.mark.parametrize("model", ["digits_gated", "digits_baked"])
def test_its_files_are_what_their_record_says(model: str) -> None:
    import onnx

    (version,) = (v for v in versions(REPOSITORY) if v.model == model)
    assert version.record is not None
    folder = REPOSITORY / model / str(version.version)
    for name in ("model.onnx", "labels.txt"):
        assert sha256((folder / name).read_bytes()) == version.record.files[name].sha256
    file = onnx.load(folder / "model.onnx")
    assert violations(file, version.record.inputs, version.record.outputs) == []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with start(REPOSITORY) as server:
        yield server.url


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_data("digits", seed=0).test


@pytest.mark.triton
def test_the_gated_model_forgets_what_each_request_names(url: str, images: ImageSet) -> None:
    pixels = [image.numpy() for image in images.images[images.index].float() / 255]
    labels = images.labels.numpy()
    with Client(url, "digits_gated") as client:
        own = client.logits(pixels, labels.tolist()).argmax(1)
        other = client.logits(pixels, ((labels + 4) % 10).tolist()).argmax(1)
        assert client.classify(pixels[:1], forget="3")[0].applied == (3,)
    assert np.mean(own == labels) <= 0.01
    assert np.mean(other == labels) >= 0.97


@pytest.mark.triton
def test_the_baked_model_has_forgotten_its_class(url: str, images: ImageSet) -> None:
    pixels = [image.numpy() for image in images.images[images.index].float() / 255]
    labels = images.labels.numpy()
    with Client(url, "digits_baked") as client:
        right = client.logits(pixels).argmax(1) == labels
    assert np.mean(right[labels == BAKED_CLASS]) <= 0.02
    assert np.mean(right[labels != BAKED_CLASS]) >= 0.97
