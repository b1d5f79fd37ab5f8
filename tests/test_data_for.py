"""Data as a model is used to seeing it, and no training image of its among the test images."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform

from bandstop.edit.arch import build
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.data_for import data_for, timm_preprocess
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import DataSplits, Preprocess

SMALL = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})


def photos(tmp_path: Path) -> str:
    """Return the spec of colour pictures of several sizes."""
    generator, rows = np.random.default_rng(0), []
    for i in range(24):
        pixels = generator.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue()})
    table = pa.table({"image": rows, "label": [i % 2 for i in range(24)]})
    pq.write_table(table, tmp_path / "photos.parquet")
    return f"parquet:{tmp_path / 'photos.parquet'}"


def checkpoint(path: Path, data: DataSplits, prep: Preprocess, seed: int) -> str:
    network = build(SMALL, len(data.class_names), prep.channels, prep.size)
    save_checkpoint(path, Classifier(network, SMALL, prep, data.class_names), seed=seed)
    return str(path)


def test_a_checkpoint_is_tested_on_images_that_it_was_not_trained_on(tmp_path: Path) -> None:
    trained_on = load_data("digits", seed=5)
    model = checkpoint(tmp_path / "base", trained_on, trained_on.preprocess, seed=5)
    seen = data_for(model, "digits", seed=6)
    assert torch.equal(seen.test.index, trained_on.test.index)
    assert not torch.isin(seen.test.index, trained_on.train.index).any()


def test_a_checkpoint_s_images_are_prepared_as_they_were_for_training(tmp_path: Path) -> None:
    spec = photos(tmp_path)
    prep = Preprocess((10, 12), 1, (0.3,), (0.2,), resize=14, interpolation="bicubic")
    whole = load_data(spec, preprocess=prep)
    model = checkpoint(tmp_path / "base", whole, prep, seed=0)
    data = data_for(model, spec)
    assert data.preprocess == prep
    image, _ = next(data.train.batches(4))
    assert image.shape == (4, 1, 10, 12)


def test_an_image_size_other_than_the_checkpoint_s_is_refused(tmp_path: Path) -> None:
    data = load_data("digits")
    model = checkpoint(tmp_path / "base", data, data.preprocess, seed=0)
    assert data_for(model, "digits", image_size=8).preprocess == data.preprocess
    with pytest.raises(InputError, match="takes images of 8x8, got image size 16; leave it out"):
        data_for(model, "digits", image_size=16)


def test_data_of_another_shape_than_the_model_s_is_refused(tmp_path: Path) -> None:
    data = load_data("digits")
    prep = Preprocess((16, 16), 3, (0.5,) * 3, (0.5,) * 3)
    model = checkpoint(tmp_path / "base", data, prep, seed=0)
    with pytest.raises(InputError, match=r"images are \(1, 8, 8\).*the model takes \(3, 16, 16\)"):
        data_for(model, "digits")


def test_a_missing_or_broken_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        data_for(str(tmp_path / "absent"), "digits")
    (tmp_path / "broken").write_bytes(b"\0" * 20)
    with pytest.raises(ArtifactError, match="broken"):
        data_for(str(tmp_path / "broken"), "digits")


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "tf_efficientnet_lite0"])
def test_a_timm_model_sees_images_as_timm_shows_them(name: str) -> None:
    network = timm.create_model(name, pretrained=False)
    transform = create_transform(**resolve_model_data_config(network))  # type: ignore[no-untyped-call]  # timm's
    prep = timm_preprocess(name)
    assert [float(v) for v in transform.transforms[-1].mean] == pytest.approx(prep.mean)
    assert [float(v) for v in transform.transforms[-1].std] == pytest.approx(prep.std)
    resize, crop = transform.transforms[:2]
    assert (resize.size, crop.size) == (prep.resize, prep.size)
    assert resize.interpolation.value == prep.interpolation


def test_a_timm_model_s_images_are_cut_from_the_centre(tmp_path: Path) -> None:
    spec = photos(tmp_path)
    data = data_for("timm:test_vit", spec)
    assert (data.preprocess.size, data.preprocess.resize) == ((160, 160), 168)
    image, _ = next(data.test.batches(2))
    assert image.shape == (2, 3, 160, 160)
    stretched = data_for("timm:test_vit", spec, image_size=32).preprocess
    assert (stretched.size, stretched.resize, stretched.mean) == ((32, 32), None, (0.5,) * 3)


def test_a_timm_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="timm has no model 'resnet19'"):
        data_for("timm:resnet19", "digits")


def test_any_other_model_gets_the_statistics_of_the_data() -> None:
    assert data_for("torchvision:resnet18", "digits", seed=4).preprocess == (
        load_data("digits", seed=4).preprocess
    )


def test_a_label_without_a_name_is_refused_and_a_name_may_come_twice(tmp_path: Path) -> None:
    spec = photos(tmp_path)
    path = spec.removeprefix("parquet:")

    def name(*names: str) -> None:
        text = json.dumps({"info": {"features": {"label": {"names": names}}}})
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": text}), path)

    name("crane", "crane")  # the bird and the machine: two classes of ImageNet
    assert load_data(spec, image_size=8).class_names == ("crane", "crane")
    name("crane")
    with pytest.raises(InputError, match="label 1 has no name among the 1 known"):
        load_data(spec, image_size=8)
