"""Forgetting by one photograph: read on what was never used; weights and names are checked."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from bandstop.bench import photographs
from bandstop.bench.photographs import efficientnet, forget, joined, labelled
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, Preprocess
from bandstop.edit.svd import SVD
from tests.networks import corners, trained

PREP = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3)


def data(classes: int = 4) -> DataSplits:
    images = corners(8)
    return DataSplits(images, images, images, tuple(map(str, range(classes))), PREP)


def test_a_class_is_forgotten_on_images_that_were_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "TESTED", 60)
    monkeypatch.setattr(photographs, "COMPARED", 30)
    photos, others = corners(200), corners(80, seed=9)
    one = torch.where(photos.labels == 2)[0][:1]
    photos = joined(photos.without_classes([2]), photos.take(one))
    outcome = forget(fold_batchnorm(trained()), SVD(), 2, photos, others, seed=0)
    assert outcome.before >= 0.8
    assert outcome.after <= 0.1
    assert outcome.used_after <= 0.1
    assert 1 << 26 < outcome.peak_bytes < 1 << 36  # of a process with PyTorch
    assert outcome.retain_after >= outcome.retain_before - 0.05


def test_the_class_stands_at_the_end_of_the_name(tmp_path: Path) -> None:
    for name, shade in (("a_0", 0), ("b_12_3", 255), ("none", 9)):
        Image.new("RGB", (8, 8), (shade,) * 3).save(tmp_path / f"{name}.jpg")
    found = labelled(tmp_path, data())
    assert found.labels.tolist() == [0, 3]
    assert float(next(iter(found.batches(2)))[0][1].min()) == 1.0


@pytest.mark.parametrize("name", ["none.jpg", "far_4.jpg"])
def test_a_folder_without_classes_is_refused(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(InputError, match="no photographs called"):
        labelled(tmp_path, data())


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="not the weights of EfficientNet-Lite0"):
        efficientnet(tmp_path / "w.pt", data())
