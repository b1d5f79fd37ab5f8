"""Where images come from; every reader returns labelled images by split, as the source has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bandstop.edit.decode import Encoded, Want, store
from bandstop.edit.errors import InputError
from bandstop.edit.images import Images

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
# those that keep their images in memory as arrays, with labels and class names
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
FOLDERS = {"train": "train", "val": "validate", "validation": "validate", "test": "test"}


@dataclass(frozen=True, slots=True)
class Source:
    """All images of a data set.

    Attributes:
        images: the store.
        labels: (n,) int64.
        part: of each image "train", "validate" or "test" where the source says so; "" where the
            split is left to us.
        class_names: by label.
    """

    images: Images
    labels: Tensor
    part: Sequence[str]
    class_names: tuple[str, ...]


def read_digits() -> Source:
    """Return scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8 pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy((data.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    return Source(images, labels, [""] * len(labels), tuple(str(n) for n in data.target_names))


def read_parquet(paths: Sequence[Path], want: Want) -> Source:
    """Return the images of parquet files in the Hugging Face layout.

    A struct column with a field `bytes` holds the encoded image, `label` its class. Where the one
    file given is called train.parquet and test.parquet lies beside it, that is the test set.
    """
    if len(paths) == 1 and paths[0].name == "train.parquet":
        beside = paths[0].with_name("test.parquet")
        paths = [*paths, beside] if beside.is_file() else paths
    official = len(paths) == 2 and paths[1].name == "test.parquet"
    encoded: list[Encoded] = []
    labels: list[int] = []
    names: list[str] = []
    part: list[str] = []
    known: dict[int, str] = {}
    for path in paths:
        rows, classes, named = _read_rows(path)
        part += [("test" if path is paths[1] else "train") if official else ""] * len(rows)
        names += [f"{path.name} row {i}" for i in range(len(rows))]
        encoded += rows
        labels += classes
        known |= named
    if not labels:
        raise InputError(f"data parquet:{paths[0]}: no rows")
    count = max(*known, *labels, 0) + 1
    if count > len(known) + len(labels):
        raise InputError(f"data parquet:{paths[0]}: label {count - 1} in {len(labels)} rows")
    outside = sorted({c for c in labels if known and c not in known})
    if outside:
        raise InputError(
            f"data parquet:{paths[0]}: label {outside[0]} has no name among the {len(known)} known"
        )
    class_names = tuple(known.get(c, str(c)) for c in range(count))
    return Source(store(encoded, names, want), torch.tensor(labels), part, class_names)


def read_imagefolder(root: Path, want: Want) -> Source:
    """Return the images of a folder with a folder a class, or with train, val and test folders.

    Only beside a folder `train` are `val` and `test` anything but classes.
    """
    if not root.is_dir():
        raise InputError(f"data imagefolder:{root}: no such folder")
    parts = [d for d in _folders(root) if d.name in FOLDERS]
    divided = any(d.name == "train" for d in parts)
    places = [(FOLDERS[d.name], d) for d in parts] if divided else [("", root)]
    classes = sorted({d.name for _, place in places for d in _folders(place)})
    files: list[Encoded] = []
    labels: list[int] = []
    part: list[str] = []
    for name, place in places:
        for c, folder in enumerate(classes):
            found = sorted(p for p in (place / folder).rglob("*") if p.suffix.lower() in SUFFIXES)
            files += found
            labels += [c] * len(found)
            part += [name] * len(found)
    if not files:
        raise InputError(f"data imagefolder:{root}: no images in class folders")
    names = [str(file) for file in files]
    return Source(store(files, names, want), torch.tensor(labels), part, tuple(classes))


def read_torchvision(name: str, root: Path, want: Want) -> Source:
    """Return a data set of torchvision that lies at `root`; nothing is downloaded."""
    from torchvision import datasets

    if name not in TORCHVISION:
        raise InputError(f"data torchvision:{name}: expected one of {', '.join(TORCHVISION)}")
    if isinstance(want, int):
        raise InputError("--image-size is not supported for torchvision data sets")
    make = getattr(datasets, name)
    try:
        sets = {"train": make(root, train=True), "test": make(root, train=False)}
    except (RuntimeError, OSError, ValueError, LookupError, AssertionError) as error:
        reason = " ".join(str(error).split()) or "corrupt"
        raise InputError(f"data torchvision:{name}@{root}: {reason}") from error
    arrays = [torch.as_tensor(np.asarray(part.data)) for part in sets.values()]
    images = torch.cat([a[:, None] if a.ndim == 3 else a.permute(0, 3, 1, 2) for a in arrays])
    labels = torch.cat([torch.as_tensor(part.targets).long() for part in sets.values()])
    part = [key for key, data in sets.items() for _ in range(len(data.targets))]
    return Source(images.contiguous(), labels, part, tuple(map(str, sets["train"].classes)))


def _folders(place: Path) -> list[Path]:
    return sorted(d for d in place.iterdir() if d.is_dir() and not d.name.startswith("."))


def _read_rows(path: Path) -> tuple[list[Encoded], list[int], Mapping[int, str]]:
    """Return encoded images, labels and the class names that the file knows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise InputError(f"data parquet:{path}: no such file") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"data parquet:{path}: not a readable parquet file") from error
    image = [
        field.name
        for field in table.schema
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    if not image or "label" not in table.column_names:
        raise InputError(
            f"data parquet:{path}: expected an image column with bytes and a column label, "
            f"got {', '.join(table.column_names)}"
        )
    rows: list[Encoded] = [row and row["bytes"] for row in table.column(image[0]).to_pylist()]
    labels: list[int] = table.column("label").to_pylist()
    bad = [i for i, (r, c) in enumerate(zip(rows, labels, strict=True)) if not _usable(r, c)]
    if bad:
        raise InputError(f"data parquet:{path}: row {bad[0]} has no image bytes or no label >= 0")
    return rows, labels, _class_names(table.schema.metadata or {}, table, labels)


def _usable(row: object, label: object) -> bool:
    return isinstance(row, bytes) and isinstance(label, int) and label >= 0


def _class_names(
    metadata: Mapping[bytes, bytes], table: object, labels: Sequence[int]
) -> dict[int, str]:
    """Return the names from the Hugging Face metadata, else from a column `name`."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return dict(enumerate(features["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        pass
    if "name" in table.column_names:  # type: ignore[attr-defined]  # a pyarrow table
        names = table.column("name").to_pylist()  # type: ignore[attr-defined]  # a pyarrow table
        return dict(zip(labels, map(str, names), strict=True))
    return {}
