"""Training images from elsewhere: labelled by the network, balanced, divided without overlap."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.substitute import Substitute, substitute, substitute_data
from bandstop.edit.unlearn import every_class, unlearn
from bandstop.edit.wf_net import WFNet
from tests.networks import classifier, corners, trained


class Brightness(nn.Module):
    """Four classes by grey level: dark pictures are class 0, bright ones class 3."""

    def forward(self, x: Tensor) -> Tensor:
        centre = torch.tensor([0.125, 0.375, 0.625, 0.875])
        level = x.mean((1, 2, 3)) * 0.25 + 0.5  # undoes the normalisation
        return -50 * (level[:, None] - centre).square()


def grey(*levels: int) -> ImageSet:
    images = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    return ImageSet(images, torch.arange(len(levels)), torch.full((len(levels),), 99))


MODEL = classifier(Brightness())
# by class: 20 of 0, 5 of 1, 2 of 2, 10 of 3
LEVELS = (*range(20, 40), 90, 92, 96, 98, 100, 150, 160, *range(220, 230))


def test_labels_are_the_networks_answers_whatever_they_were() -> None:
    data = substitute(MODEL, grey(*LEVELS), Substitute(per_class=8))
    for part in (data.train, data.validate):
        ((image, label),) = part.batches(500)
        assert torch.equal(MODEL(image).argmax(1), label)
    assert (data.class_names, data.preprocess) == (MODEL.class_names, MODEL.preprocess)
    assert len(data.test) == 0


def test_classes_are_balanced_and_every_image_of_a_rare_one_is_used() -> None:
    data = substitute(MODEL, grey(*LEVELS), Substitute(per_class=8))
    assert data.train.labels.bincount().tolist() == [8, 8, 8, 8]
    assert data.validate.labels.bincount().tolist() == [2, 2, 2, 2]
    rare = data.train.index[data.train.labels == 1]
    assert sorted(rare.bincount()[rare.unique()].tolist()) == [2, 2, 2, 2]  # 4 are trained on
    common = data.train.index[data.train.labels == 0]
    assert len(common.unique()) == 8


def test_no_image_is_in_both_sets() -> None:
    data = substitute(MODEL, grey(*LEVELS), Substitute())
    assert not set(data.train.index.tolist()) & set(data.validate.index.tolist())


def mean_level(temperature: float) -> float:
    """Return the mean grey level of ten images of class 0, of which the darkest is the surest."""
    levels = range(60)
    data = substitute(
        MODEL, grey(*levels, 96, 160, 224), Substitute(per_class=10, temperature=temperature)
    )
    index = data.train.index[data.train.labels == 0]
    return float(index.double().mean())


def test_the_temperature_decides_how_far_down_the_ranking_it_draws() -> None:
    cold, warm, hot = map(mean_level, (0.0, 0.1, float("inf")))
    assert cold <= 7.0  # the darkest ten, less those for validation
    assert cold < warm < hot


def test_the_seed_decides(tmp_path: Path) -> None:
    one, same, other = (
        substitute(MODEL, grey(*LEVELS), Substitute(per_class=8, seed=seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.train.index, same.train.index)
    assert not torch.equal(one.train.index, other.train.index)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (grey(), "no images"),
        (grey(10, 20, 240, 250), r"none of 2 classes \(class 1, class 2\)"),
    ],
)
def test_too_little_is_refused(images: ImageSet, message: str) -> None:
    with pytest.raises(InputError, match=message):
        substitute(MODEL, images, Substitute())


@pytest.mark.parametrize("given", [{"per_class": 0}, {"temperature": -1.0}])
def test_settings_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match="expected per_class >= 1 and temperature >= 0"):
        replace(Substitute(), **given)  # type: ignore[arg-type]  # out of range, not of type


def test_a_network_that_answers_nan_is_refused() -> None:
    broken = classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    nn.init.constant_(broken.network[1].bias, float("nan"))  # type: ignore[index]  # a Sequential
    with pytest.raises(InputError, match="answers NaN"):
        substitute(broken, grey(10), Substitute())


def save(image: int, file: Path, side: int = 12) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), (image, image, image)).save(file)


def test_a_folder_of_images_without_classes_is_enough(tmp_path: Path) -> None:
    for i, level in enumerate((30, 32, 96, 97, 160, 161, 224, 225)):
        save(level, tmp_path / ("more" if i % 2 else "") / f"{i}.png")
    data = substitute_data(MODEL, f"imagefolder:{tmp_path}", Substitute(per_class=4))
    assert data.train.labels.bincount().tolist() == [4, 4, 4, 4]
    assert data.train.images[torch.tensor([0])].shape == (1, 1, 8, 8)  # resized, made grey


def test_a_sources_own_test_images_stay_out(tmp_path: Path) -> None:
    for part, offset in (("train", 0), ("test", 3)):
        for i, level in enumerate((30, 32, 96, 98, 160, 162, 224, 226)):
            save(level + offset, tmp_path / part / "any" / f"{i}.png")
    data = substitute_data(MODEL, f"imagefolder:{tmp_path}", Substitute(per_class=3))
    ((image, _),) = data.train.batches(100)
    assert {30, 96, 160, 224} & set((image.mean((1, 2, 3)) * 255).round().int().tolist())
    used = torch.cat([data.train.index, data.validate.index])
    assert {int(v) for v in data.train.images[used].flatten()} <= {
        *(30, 32, 96, 98, 160, 162, 224, 226)
    }


def test_images_of_another_shape_are_refused() -> None:
    model = classifier(Brightness(), channels=3)
    with pytest.raises(InputError, match=r"images are \(1, 8, 8\).*the model takes \(3, 8, 8\)"):
        substitute_data(model, "digits", Substitute())


def folded_row(folded: Classifier, edit: GateEdit, c: int) -> Classifier:
    model = fold_batchnorm(trained())
    model.network.load_state_dict(fold(folded.network.state_dict(), edit, [c]))
    return model


def test_wf_net_forgets_what_it_never_saw() -> None:
    # trained on darker pictures, tested on the real ones
    base = trained()
    strange = corners(400, seed=7)
    darker = strange.images[strange.index] // 4 * 3
    dim = ImageSet(darker, strange.index, torch.zeros(400, dtype=torch.int64))
    data = substitute(base, dim, Substitute(per_class=100))
    folded, edit = unlearn(base, WFNet(steps=150, batch=64), every_class(base), data)
    assert isinstance(edit, GateEdit)
    real = corners(200, seed=9)
    rates = []
    for c in range(4):
        answers = logits(folded_row(folded, edit, c), real).argmax(1)
        rates.append(forget_and_retain(answers, real.labels, [c]))
    assert sum(forget for forget, _ in rates) / 4 <= 0.2  # before: 1.0
    assert sum(retain for _, retain in rates) / 4 >= 0.85
