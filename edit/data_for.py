"""A data set as a model is used to seeing it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from bandstop.edit.checkpoint import describe_checkpoint
from bandstop.edit.data import load_data
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, Preprocess
from bandstop.edit.manifest import read_manifest
from bandstop.edit.origin import Origin, is_artifact, is_checkpoint, origin_of

Interpolation = Literal["nearest", "bilinear", "bicubic"]
_INTERPOLATION: Mapping[str, Interpolation] = {"nearest": "nearest", "bicubic": "bicubic"}


def data_for(model: str, spec: str, *, seed: int = 0, image_size: int | None = None) -> DataSplits:
    """Return the data set `spec` divided and prepared as suits `model`.

    A checkpoint says how its images were prepared and by which seed they were divided, so that no
    image it was trained on comes back as a test image. A timm model is shown images as timm
    itself does. Any other gets images as they are, normalised by the statistics of the data.

    What an artifact has forgotten, or a checkpoint was trained without, is neither learnt nor
    validated on: these classes are left out of the training and validation images, and stay among
    the test images; forgotten instances are taken out of the training images, and kept as `gone`.

    Args:
        model: see `load_model`.
        spec: see `load_data`.
        seed: divides the data of a model that does not say how its own was.
        image_size: stretch images to this height and width.

    Raises:
        InputError: no such file, model or data, or data that the model cannot see.
        ArtifactError: the checkpoint is corrupt.
    """
    if is_artifact(model) or is_checkpoint(model):
        path, origin = Path(model), origin_of(model)
        record = read_manifest(path) if is_artifact(model) else describe_checkpoint(path)
        prep = record.preprocess.preprocess()
        if image_size is not None and (image_size, image_size) != prep.size:
            raise InputError(
                f"{model} takes images of {prep.size[0]}x{prep.size[1]}, "
                f"got image size {image_size}; leave it out"
            )
        own = seed if origin.split_seed is None else origin.split_seed
        return _without(load_data(spec, seed=own, preprocess=prep), origin)
    source, _, name = model.partition(":")
    if source == "timm":
        return load_data(spec, seed=seed, preprocess=timm_preprocess(name, image_size))
    return load_data(spec, seed=seed, image_size=image_size)


def _without(data: DataSplits, origin: Origin) -> DataSplits:
    train = data.train.without_classes(origin.forgotten)
    gone = torch.isin(train.index, torch.tensor(origin.instances, dtype=torch.int64))
    validate = data.validate.without_classes(origin.forgotten)
    return replace(
        data,
        train=train.take(~gone),
        validate=validate,
        gone=train.take(gone) if bool(gone.any()) else None,
    )


def timm_preprocess(name: str, image_size: int | None = None) -> Preprocess:
    """Return how timm prepares images for its model `name`.

    Raises:
        InputError: timm has no such model, or prepares images in a way that we do not.
    """
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise InputError(f"timm has no model {name!r}")
    channels, height, width = config.input_size
    mean, std = tuple(config.mean), tuple(config.std)
    if image_size is not None:
        return Preprocess((image_size, image_size), channels, mean, std)
    whole = config.crop_mode == "squash" and config.crop_pct == 1
    if height != width or not (whole or config.crop_mode == "center"):
        raise InputError(
            f"timm:{name} wants {height}x{width} images, crop mode {config.crop_mode}, "
            "which bandstop does not do; say --image-size N to stretch them"
        )
    resize = None if whole else math.floor(height / config.crop_pct)
    # "random" is for training
    how: Interpolation = _INTERPOLATION.get(config.interpolation, "bilinear")
    return Preprocess((height, width), channels, mean, std, resize, how)
