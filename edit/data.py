"""Data sets by name, divided into training, validation and test images by a seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bandstop.edit.decode import Want
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, ImageSet, Preprocess
from bandstop.edit.sources import (
    Source,
    read_digits,
    read_imagefolder,
    read_parquet,
    read_torchvision,
)

SHARES = {"validate": 0.15, "test": 0.25}  # of a source that is not divided
VALIDATION_SHARE = 0.1  # of the training images of a source with its own test set
_STATISTICS_OF = 10_000  # training images that mean and deviation are computed from
_LARGEST = 8192  # of an image's sides
FORMS = "digits, parquet:FILE, imagefolder:DIR or torchvision:NAME@ROOT"


def load_data(
    spec: str,
    *,
    seed: int = 0,
    image_size: int | None = None,
    preprocess: Preprocess | None = None,
    to_train: bool = True,
) -> DataSplits:
    """Return the data set that `spec` names; `seed` alone decides the split.

    Args:
        spec: digits, parquet:FILE[,FILE], imagefolder:DIR or torchvision:NAME@ROOT.
        seed: divides what the source has not divided itself, class by class.
        image_size: stretch images to this height and width; needed where sizes differ.
        preprocess: prepare images as a model wants them, instead; None: mean and deviation are
            computed from the training images.
        to_train: whether every class needs a training image. False lets classes be without that
            were deleted, where the source has test images of its own and `preprocess` is given:
            elsewhere images that a network has learnt could come back as test images.

    Raises:
        InputError: no such data, or data that nothing can be trained on.
    """
    if image_size is not None and not 1 <= image_size <= _LARGEST:
        raise InputError(f"image size must be 1..{_LARGEST}, got {image_size}")
    source = read(spec, preprocess or image_size)
    names = source.class_names
    if len(names) < 2:
        raise InputError(f"data {spec}: expected two classes or more, got {names}")
    parts = divide(source.labels, source.part, torch.Generator().manual_seed(seed))
    sets = {n: ImageSet(source.images, i, source.labels[i]) for n, i in parts.items()}
    counts = sets["train"].labels.bincount(minlength=len(names))
    empty = [names[c] for c in torch.where(counts == 0)[0].tolist()]
    if empty and (to_train or "" in source.part or preprocess is None):
        raise InputError(f"data {spec}: no training image of {', '.join(empty[:5])}")
    prep = preprocess or statistics(sets["train"])
    _check_shape(spec, next(part for part in sets.values() if len(part)), prep)
    return DataSplits(sets["train"], sets["validate"], sets["test"], names, prep)


def read(spec: str, want: Want) -> Source:
    """Return all images that `spec` names.

    Raises:
        InputError: a spec of no known form, or data that cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if spec == "digits":
        if isinstance(want, int) and want != 8:
            raise InputError(f"digits are 8x8 pixels, got image size {want}")
        return read_digits()
    if kind == "parquet" and rest:
        return read_parquet([Path(p) for p in rest.split(",")], want)
    if kind == "imagefolder" and rest:
        return read_imagefolder(Path(rest), want)
    if kind == "torchvision" and "@" in rest:
        name, _, root = rest.partition("@")
        return read_torchvision(name, Path(root), want)
    raise InputError(f"no data {spec!r}; expected {FORMS}")


def divide(labels: Tensor, part: Sequence[str], generator: torch.Generator) -> dict[str, Tensor]:
    """Return the positions of the training, validation and test images.

    A source that is not divided is divided class by class, by SHARES. One with a validation but no
    test set has that as its test set; validation images are then taken from the training images.
    """
    given = {
        name: torch.tensor([p == name for p in part]) for name in ("", "train", "validate", "test")
    }
    if not given["test"].any():
        given["test"], given["validate"] = given["validate"], given["test"]
    if given[""].any():
        return _held_out(labels, given[""], SHARES, generator)
    if not given["validate"].any():
        shares = {"validate": VALIDATION_SHARE}
        return _held_out(labels, given["train"], shares, generator) | {
            "test": torch.where(given["test"])[0]
        }
    return {name: torch.where(given[name])[0] for name in ("train", "validate", "test")}


def statistics(images: ImageSet) -> Preprocess:
    """Return the preprocessing of these images, with their mean and deviation per channel."""
    some = images.take(torch.arange(len(images))[:: -(-len(images) // _STATISTICS_OF)])
    pixels = torch.cat([image for image, _ in some.batches(500)])
    mean = pixels.mean((0, 2, 3)).tolist()
    std = pixels.std((0, 2, 3)).clamp_min(1e-3).tolist()
    return Preprocess(
        size=(pixels.shape[2], pixels.shape[3]),
        channels=pixels.shape[1],
        mean=tuple(round(v, 4) for v in mean),
        std=tuple(round(v, 4) for v in std),
    )


def _check_shape(spec: str, images: ImageSet, prep: Preprocess) -> None:
    """Refuse a source of arrays, which are not resized, where a model wants another shape."""
    shape = tuple(images.images[images.index[:1]].shape[1:])
    if shape != (prep.channels, *prep.size):
        raise InputError(
            f"data {spec}: images are {shape} (channels, height, width), "
            f"the model takes {(prep.channels, *prep.size)}"
        )


def _held_out(
    labels: Tensor, among: Tensor, shares: Mapping[str, float], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return `train` and each of `shares`, drawn class by class from the positions `among`."""
    taken: dict[str, list[Tensor]] = {name: [] for name in ("train", *shares)}
    for c in labels.unique():
        members = torch.where(among & (labels == c))[0]
        members, total = members[torch.randperm(len(members), generator=generator)], len(members)
        for name, share in shares.items():
            # a class of few images keeps one to be trained on
            count = min(max(1, round(total * share)), max(0, len(members) - 1))
            taken[name].append(members[:count])
            members = members[count:]
        taken["train"].append(members)
    return {name: torch.cat(parts).sort().values for name, parts in taken.items()}
