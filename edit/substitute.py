"""Training images where the original ones are gone: any images, as the frozen network sees them.

The labels are the frozen network's own answers. What it answers for strange images is uneven, so
classes are balanced: a class with many images gives those that the network is surest of, by a soft
ranking; one with few repeats them.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bandstop.edit.accuracy import logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.data import divide, read
from bandstop.edit.decode import store
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, Images, ImageSet, Preprocess
from bandstop.edit.sources import SUFFIXES


@dataclass(frozen=True, slots=True)
class Substitute:
    """How a training set is made of foreign images.

    Attributes:
        per_class: training images of each class, repeated where there are fewer.
        temperature: of the soft ranking; 0 takes the most probable images, infinity any.
        seed: divides training from validation images and ranks.
    """

    per_class: int = 500
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be drawn with."""
        if self.per_class < 1 or not self.temperature >= 0:
            raise InputError(
                "substitute: expected per_class >= 1 and temperature >= 0, "
                f"got {self.per_class} and {self.temperature}"
            )


def substitute(model: Classifier, images: ImageSet, setting: Substitute) -> DataSplits:
    """Return balanced training and validation sets of `images`, labelled by `model`.

    No image is in both; the test set is empty. The labels that `images` has are ignored.

    Args:
        model: the frozen network, left as it was.
        images: of the shape that `model` takes.
        setting: how many of each class, and how they are chosen.

    Raises:
        InputError: no images, or a class that `model` recognises in none of them.
    """
    if not len(images):
        raise InputError("substitute: no images")
    score, label = logits(model, images).log_softmax(1).max(1)
    if not bool(torch.isfinite(score).all()):
        raise InputError(f"substitute: {model.arch.name} answers NaN or infinity for some images")
    _check_classes(model, label)
    generator = torch.Generator().manual_seed(setting.seed)
    parts = divide(label, ["train"] * len(label), generator)
    sets = {
        name: _balanced(replace(images, labels=label), score, positions, count, setting, generator)
        for name, positions, count in (
            ("train", parts["train"], setting.per_class),
            ("validate", parts["validate"], _largest(label[parts["validate"]], setting.per_class)),
        )
    }
    nothing = images.take(parts["test"])
    return DataSplits(sets["train"], sets["validate"], nothing, model.class_names, model.preprocess)


def substitute_data(model: Classifier, spec: str, setting: Substitute) -> DataSplits:
    """Return the training and validation sets that `substitute` makes of the data `spec`.

    Args:
        model: the frozen network, left as it was.
        spec: as for `load_data`, or imagefolder:DIR with images right in it; what the source calls
            its test set is left out.
        setting: see `Substitute`.

    Raises:
        InputError: no such data, another image shape, or a class that no image looks like.
    """
    return substitute(model, _pool(spec, model.preprocess), setting)


def _pool(spec: str, prep: Preprocess) -> ImageSet:
    """Return all images of `spec` with label 0, prepared as `prep` says."""
    kind, _, rest = spec.partition(":")
    files = _files(Path(rest)) if kind == "imagefolder" else []
    images: Images
    if files:
        images = store(files, [str(file) for file in files], prep)
        index = torch.arange(len(files))
    else:
        source = read(spec, prep)
        images = source.images
        index = torch.where(torch.tensor([part != "test" for part in source.part]))[0]
    shape = tuple(images[index[:1]].shape[1:])
    if len(index) and shape != (prep.channels, *prep.size):
        raise InputError(
            f"substitute {spec}: images are {shape} (channels, height, width), "
            f"the model takes {(prep.channels, *prep.size)}"
        )
    return ImageSet(images, index, torch.zeros_like(index))


def _files(root: Path) -> list[Path]:
    """Return the images below `root` when it holds some itself, so is no folder of classes."""
    if not root.is_dir() or not any(_is_image(file) for file in root.iterdir()):
        return []
    return sorted(file for file in root.rglob("*") if _is_image(file))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _check_classes(model: Classifier, label: Tensor) -> None:
    counts = label.bincount(minlength=model.num_classes)
    absent = [model.class_names[c] for c in torch.where(counts == 0)[0].tolist()]
    if absent:
        some = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        raise InputError(
            f"substitute: in {len(label)} images the network recognises none of "
            f"{len(absent)} classes ({some}); give more varied images, or synthesise them"
        )


def _largest(label: Tensor, limit: int) -> int:
    return min(limit, int(label.bincount().max())) if len(label) else 0


def _balanced(
    images: ImageSet,
    score: Tensor,
    positions: Tensor,
    count: int,
    setting: Substitute,
    generator: torch.Generator,
) -> ImageSet:
    """Return `count` images of each class among `positions`, all as often or once more.

    The last of a class are drawn without repetition, by probability ** (1 / temperature): the
    highest of scores with Gumbel noise (Vieira 2014).
    """
    chosen = []
    for c in images.labels[positions].unique():
        members = positions[images.labels[positions] == c]
        noise = -torch.empty(len(members)).exponential_(generator=generator).log()
        hot = math.isinf(setting.temperature)
        rank = noise if hot else score[members] + setting.temperature * noise
        order = rank.argsort(descending=True, stable=True)
        chosen.append(members[order].repeat(-(-count // len(members)))[:count])
    return images.take(torch.cat(chosen)) if chosen else images.take(positions)
