"""The reference of forgetting: networks retrained without it, each trained once and kept."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bandstop.edit.checkpoint import describe_checkpoint, load_checkpoint, save_checkpoint
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError, InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.judge import evenly
from bandstop.edit.method import split
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import canonical_json, sha256
from bandstop.edit.train import Recipe, train, training_digest

_FINGERPRINT = 64  # training images whose pixels tell data sets of the same labels apart


def retrained(
    cache: Path,
    arch: Arch,
    data: DataSplits,
    recipe: Recipe,
    request: ForgetRequest | None,
    seed: int,
    device: str = "cpu",
    *,
    split_seed: int | None = None,
    trust_factory: bool = False,
) -> Classifier:
    """Return the network trained without what `request` forgets; trained once, then read.

    It is kept as the checkpoint `KEY.safetensors`; KEY is a digest of all that decides the
    training but the device. An interrupted training goes on from `KEY.partial`, and ends with the
    same bytes. Of several processes that ask for the same network one trains it, the others wait.

    Args:
        cache: the folder; made where there is none.
        arch: the network.
        data: with the images to forget.
        recipe: how to train.
        request: what is left out; None trains on everything, as the original was.
        seed: of weights, order and augmentation.
        device: where to train, and where the network is put.
        split_seed: that `data` was divided by. The checkpoint says it, so that whoever reads it
            divides the data in the same way; None: it is `seed`.
        trust_factory: see `build`.

    Raises:
        InputError: a class without training images, no image that is left, or no usable folder.
        ArtifactError: a file of the cache is corrupt or of another network.
        DivergedError: the loss became NaN or infinite.
    """
    left = data if request is None else remaining(data, request)
    without = () if request is None else request.classes
    key = _key(arch, left, recipe, without, seed)
    file, partial = cache / f"{key}.safetensors", cache / f"{key}.partial"
    if not file.exists():
        with _locked(cache, key) as lock:
            if not file.exists():  # nobody made it while we waited
                model = train(
                    arch,
                    left,
                    recipe,
                    seed=seed,
                    device=device,
                    partial=partial,
                    trust_factory=trust_factory,
                )
                recorded = seed if split_seed is None else split_seed
                save_checkpoint(file, model, seed=recorded, without=without, recipe=recipe)
                partial.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)  # nobody needs it once the file is there
    return _read(file, arch, left, without, trust=trust_factory).to(device)


def remaining(data: DataSplits, request: ForgetRequest) -> DataSplits:
    """Return `data` with no training image to forget and no validation image of its class.

    Raises:
        InputError: an instance that is no training image, or a class that has none.
    """
    known = set(data.train.labels.unique().tolist())
    missing = [c for c in request.classes if c not in known]
    if missing:
        raise InputError(
            f"retraining without the classes {missing}: they have no training images; expected "
            f"indices among {sorted(known)}"
        )
    kept = split(data, request).retain
    return replace(data, train=kept, validate=data.validate.without_classes(request.classes))


def _key(arch: Arch, data: DataSplits, recipe: Recipe, without: tuple[int, ...], seed: int) -> str:
    record = {
        "training": training_digest(arch, data, recipe, seed, None),
        "pixels": fingerprint(data.train),
        "without": list(without),
    }
    return sha256(canonical_json(record))


def fingerprint(images: ImageSet) -> str:
    """Return a digest of some of the pixels, which tells data sets of the same labels apart."""
    some = evenly(images, _FINGERPRINT)
    pixels = some.images[some.index].contiguous()
    return sha256(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes())


@contextmanager
def _locked(cache: Path, key: str) -> Iterator[Path]:
    """Keep other processes from training the network `key`; yield the file that does it."""
    lock = cache / f"{key}.lock"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise InputError(
            f"cache {cache}: not a folder that can be written ({error.strerror}); choose another"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
        yield lock


def _read(
    file: Path, arch: Arch, data: DataSplits, without: tuple[int, ...], *, trust: bool
) -> Classifier:
    """Return the network in `file`, which must be the one that was asked for."""
    mend = f"remove {file} to train it again"
    try:
        gone = describe_checkpoint(file).without
        model = load_checkpoint(file, trust_factory=trust)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {mend}") from error
    found = (model.arch, model.class_names, model.preprocess, gone)
    if found != (arch, data.class_names, data.preprocess, without):
        raise ArtifactError(f"{file}: holds another network than its name says; {mend}")
    return model
