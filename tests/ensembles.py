"""Releases that tell each other apart by names, weights and pixels, and pictures to ask about."""

import io
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from bandstop.client.images import prepare, stack
from bandstop.client.served import Preprocess
from bandstop.export.record import PreprocessRecord, ReleaseRecord, ServingRecord
from bandstop.export.session import CPU
from tests.readback_fakes import Made, made, write_release

# Triton's batcher lets a single request wait for 0.5 s now and then; that is not under test
PATIENT = ServingRecord(queue_timeout_us=10_000_000)
WAYS = ("bilinear", "nearest", "bicubic")


def lettered(letter: str, seed: int, mode: str = "gated") -> Made:
    """Return a release whose names begin with `letter` and that resizes in a way of its own."""
    release = made(mode, seed, scale=1.0)
    names = [f"{letter}{name}" if name else "" for name in release.record.class_names]
    preprocess = release.record.preprocess.model_copy(
        update={"interpolation": WAYS[seed % 3], "resize": None if seed % 2 else 10}
    )
    update = {"class_names": names, "preprocess": preprocess, "serving": PATIENT}
    return Made(release.record.model_copy(update=update), release.file)


def written(folder: Path, *releases: Made) -> list[Path]:
    return [write_release(folder / str(i), release) for i, release in enumerate(releases)]


def picture(seed: int = 0, size: tuple[int, int] = (23, 17), kind: str = "PNG") -> bytes:
    """Return an encoded RGB picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def preprocess_of(record: PreprocessRecord) -> Preprocess:
    """Return how the client prepares images for a release."""
    said = record.model_dump(exclude={"order"})
    lists = {key: tuple(said[key]) for key in ("size", "mean", "std")}
    return Preprocess(**{**said, **lists})


def tensor(pictures: list[bytes], record: ReleaseRecord) -> NDArray[np.generic]:
    """Return what the client would send."""
    preprocess = preprocess_of(record.preprocess)
    return stack(prepare(list(pictures), preprocess), preprocess)


def logits(pictures: list[bytes], release: Made, forget: list[int]) -> NDArray[np.float32]:
    """Return what a release answers to what the client would send."""
    fed: dict[str, NDArray[np.generic]] = {"image": tensor(pictures, release.record)}
    if release.record.forget.slots:
        fed["forget_class"] = np.array(forget, np.int64)[:, None]
    session = ort.InferenceSession(release.file, providers=[CPU])
    return np.asarray(session.run(["logits"], fed)[0], np.float32)
