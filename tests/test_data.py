"""Data sets: what is read, how it is divided, and what is refused."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bandstop.edit import decode
from bandstop.edit.data import divide, load_data
from bandstop.edit.decode import Decoded, Shape, open_image, store, to_array
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.sources import read_digits


def picture(value: int, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> bytes:
    """Return a PNG of one value, `size` being width and height."""
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, classes: int = 2) -> tuple[list[bytes], list[int]]:
    return [picture(10 * i) for i in range(count)], [i % classes for i in range(count)]


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] = (),
    features: Sequence[str] = (),
) -> Path:
    columns = {
        "img": pa.array(
            [image and {"bytes": image, "path": None} for image in images],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "label": pa.array(labels, pa.int64()),
    }
    if names:
        columns["name"] = pa.array(names)
    table = pa.table(columns)
    if features:
        about = {"info": {"features": {"label": {"names": list(features)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(table, path)
    return path


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def sizes(data: DataSplits) -> tuple[int, int, int]:
    return len(data.train), len(data.validate), len(data.test)


def values(images: ImageSet) -> list[int]:
    """Return the first channel's first pixel of each image."""
    return images.images[images.index][:, 0, 0, 0].tolist()


# digits


def test_digits_are_all_there_from_black_to_white() -> None:
    source = read_digits()
    assert source.images[torch.arange(1797)].shape == (1797, 1, 8, 8)
    assert source.images[torch.arange(1797)].dtype == torch.uint8
    values = source.images[torch.arange(1797)].unique().tolist()
    assert values == [round(v * 255 / 16) for v in range(17)]
    assert source.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert source.class_names == tuple("0123456789")


def test_splits_are_disjoint_complete_and_stratified() -> None:
    data = load_data("digits", seed=3)
    parts = (data.train, data.validate, data.test)
    together = torch.cat([part.index for part in parts])
    assert together.sort().values.tolist() == list(range(1797))
    for part, share in zip(parts, (0.6, 0.15, 0.25), strict=True):
        counts = part.labels.bincount(minlength=10) / read_digits().labels.bincount()
        torch.testing.assert_close(counts, torch.full((10,), share), atol=0.01, rtol=0)


def test_the_seed_alone_decides_the_split() -> None:
    torch.manual_seed(1)
    first = load_data("digits", seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = load_data("digits", seed=5), load_data("digits", seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.train.index, again.train.index)
    assert torch.equal(first.validate.index, again.validate.index)
    assert not torch.equal(first.test.index, other.test.index)


def test_statistics_are_of_the_training_images() -> None:
    data = load_data("digits")
    pixels = data.train.images[data.train.index].double() / 255
    assert data.preprocess.mean[0] == pytest.approx(pixels.mean().item(), abs=1e-4)
    assert data.preprocess.std[0] == pytest.approx(pixels.std().item(), abs=1e-4)
    assert (data.preprocess.size, data.preprocess.channels) == ((8, 8), 1)


# division


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (20, (12, 3, 5))]
)
def test_a_class_of_few_images_keeps_one_to_train_on(
    count: int, expected: tuple[int, int, int]
) -> None:
    labels = torch.zeros(count, dtype=torch.int64)
    parts = divide(labels, [""] * count, torch.Generator())
    assert tuple(len(parts[name]) for name in ("train", "validate", "test")) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (["train"] * 10 + ["test"] * 4, (9, 1, 4)),
        (["train"] * 10 + ["validate"] * 4, (9, 1, 4)),  # the only held out images are the test
        (["train"] * 10 + ["validate"] * 3 + ["test"] * 4, (10, 3, 4)),
    ],
)
def test_what_the_source_divides_stays_divided(
    part: list[str], expected: tuple[int, int, int]
) -> None:
    parts = divide(torch.zeros(len(part), dtype=torch.int64), part, torch.Generator())
    assert tuple(len(parts[name]) for name in ("train", "validate", "test")) == expected
    assert set(parts["test"].tolist()) == set(range(len(part) - 4, len(part)))


# parquet


@pytest.mark.parametrize(
    ("names", "features", "expected"),
    [
        ((), ("cat", "dog"), ("cat", "dog")),
        (("hen", "owl") * 6, (), ("hen", "owl")),
        ((), (), ("0", "1")),
        (("hen", "owl") * 6, ("cat", "dog", "fox"), None),  # fox has no image
    ],
)
def test_parquet_class_names_come_from_metadata_else_the_name_column_else_numbers(
    tmp_path: Path,
    names: Sequence[str],
    features: Sequence[str],
    expected: tuple[str, ...] | None,
) -> None:
    path = write_parquet(tmp_path / "all.parquet", *rows(12), names=names, features=features)
    if expected is None:
        with pytest.raises(InputError, match="no training image of fox"):
            load_data(f"parquet:{path}")
    else:
        assert load_data(f"parquet:{path}").class_names == expected


def test_parquet_rows_keep_their_labels_and_order(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "all.parquet", *rows(12, classes=3))
    data = load_data(f"parquet:{path}")
    for part in (data.train, data.validate, data.test):
        assert [v // 10 for v in values(part)] == part.index.tolist()
        assert (part.index % 3).tolist() == part.labels.tolist()
    assert data.preprocess.size == (5, 6)


def test_test_parquet_beside_train_parquet_is_the_test_set(tmp_path: Path) -> None:
    train = write_parquet(tmp_path / "train.parquet", *rows(20))
    test = write_parquet(tmp_path / "test.parquet", [picture(255)] * 4, [0, 1, 0, 1])
    for spec in (f"parquet:{train}", f"parquet:{train},{test}"):
        data = load_data(spec)
        assert sizes(data) == (18, 2, 4)
        assert values(data.test) == [255] * 4


def test_several_parquet_files_are_one_source(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "a.parquet", *rows(12))
    second = write_parquet(tmp_path / "b.parquet", *rows(8))
    assert sum(sizes(load_data(f"parquet:{first},{second}"))) == 20


def test_bad_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    images, labels = rows(4)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"label": [1], "text": ["x"]}), plain)
    unlabelled = tmp_path / "unlabelled.parquet"
    pq.write_table(pa.table({"img": [{"bytes": images[0]}]}), unlabelled)
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(write_parquet(tmp_path / "good.parquet", images, labels).read_bytes()[:-9])
    made = {
        "image": write_parquet(tmp_path / "i.parquet", [*images[:2], b"no", images[3]], labels),
        "cut": write_parquet(tmp_path / "c.parquet", [*images[:3], images[3][:48]], labels),
        "none": write_parquet(tmp_path / "n.parquet", [images[0], None], [0, 1]),
        "negative": write_parquet(tmp_path / "m.parquet", images, [0, 1, 0, -1]),
        "unlabelled row": write_parquet(tmp_path / "u.parquet", images, [0, None, 0, 1]),
        "huge": write_parquet(tmp_path / "h.parquet", images, [0, 1, 0, 10**12]),
        "empty": write_parquet(tmp_path / "e.parquet", [], []),
        "one class": write_parquet(tmp_path / "o.parquet", images, [0] * 4),
        "gap": write_parquet(tmp_path / "g.parquet", images, [0, 2, 0, 2]),
    }
    expected = {
        plain: "expected an image column with bytes and a column label, got label, text",
        unlabelled: "expected an image column with bytes and a column label, got img",
        corrupt: "not a readable parquet file",
        tmp_path / "absent.parquet": "no such file",
        made["image"]: "i.parquet row 2: not a readable image",
        made["cut"]: "c.parquet row 3: truncated or corrupt",
        made["none"]: "row 1 has no image bytes or no label >= 0",
        made["negative"]: "row 3 has no image bytes or no label >= 0",
        made["unlabelled row"]: "row 1 has no image bytes or no label >= 0",
        made["huge"]: "label 1000000000000 in 4 rows",
        made["empty"]: "no rows",
        made["one class"]: "expected two classes or more",
        made["gap"]: "no training image of 1",
    }
    for path, message in expected.items():
        with pytest.raises(InputError) as refused:
            load_data(f"parquet:{path}")
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


# folders


def folder(root: Path, parts: Sequence[str], each: int = 10) -> Path:
    names = [f"{p}{c}/{i}.png" for p in parts for c in ("dog", "cat") for i in range(each)]
    return write_folder(root, {name: picture(50 if "cat" in name else 200) for name in names})


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("",), (12, 4, 4)),
        (("train/", "val/"), (18, 2, 20)),
        (("train/", "val/", "test/"), (20, 20, 20)),
    ],
)
def test_folders_are_classes_by_name(
    tmp_path: Path, parts: Sequence[str], expected: tuple[int, int, int]
) -> None:
    data = load_data(f"imagefolder:{folder(tmp_path, parts)}")
    assert data.class_names == ("cat", "dog")
    assert sizes(data) == expected
    for part in (data.train, data.validate, data.test):
        assert values(part) == [(50, 200)[c] for c in part.labels.tolist()]


def test_other_files_and_hidden_folders_are_left_out(tmp_path: Path) -> None:
    root = folder(tmp_path, ("",))
    write_folder(root, {"cat/notes.txt": b"x", ".cache/a.png": b"x", "read.me": b"x"})
    data = load_data(f"imagefolder:{root}")
    assert data.class_names == ("cat", "dog")
    assert sum(sizes(data)) == 20


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    root = folder(tmp_path, ("",))
    write_folder(root, {f"test/{i}.png": picture(0) for i in range(6)})
    assert load_data(f"imagefolder:{root}").class_names == ("cat", "dog", "test")


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "cat").mkdir(parents=True)
    fake = write_folder(folder(tmp_path / "fake", ("",)), {"cat/x.png": b"<html>"})
    mixed = write_folder(folder(tmp_path / "mixed", ("",)), {"cat/x.png": picture(0, (9, 9))})
    late = write_folder(folder(tmp_path / "late", ("train/",)), {"test/fox/x.png": picture(0)})
    for root, message in {
        tmp_path / "absent": "no such folder",
        empty: "no images in class folders",
        fake: f"{fake}/cat/x.png: not a readable image",
        mixed: "images have 2 sizes (6x5, 9x9, ...); say --image-size N",
        late: "no training image of fox",
    }.items():
        with pytest.raises(InputError) as refused:
            load_data(f"imagefolder:{root}")
        assert message in str(refused.value)


def test_a_deleted_class_is_no_reason_to_measure_nothing_on_test_images(tmp_path: Path) -> None:
    divided = write_folder(
        folder(tmp_path / "divided", ("train/",)), {"test/fox/x.png": picture(0)}
    )
    prep = load_data(f"imagefolder:{folder(tmp_path / 'plain', ('',))}").preprocess
    data = load_data(f"imagefolder:{divided}", preprocess=prep, to_train=False)
    assert data.class_names == ("cat", "dog", "fox")
    assert data.test.labels.tolist() == [2]
    # what is divided here would be divided in another way without the class
    path = write_parquet(tmp_path / "all.parquet", *rows(12), features=("cat", "dog", "fox"))
    with pytest.raises(InputError, match="no training image of fox"):
        load_data(f"parquet:{path}", preprocess=prep, to_train=False)


def test_an_image_size_makes_mixed_images_one_size(tmp_path: Path) -> None:
    root = write_folder(folder(tmp_path, ("",)), {"cat/x.png": picture(50, (9, 9))})
    data = load_data(f"imagefolder:{root}", image_size=4)
    assert data.preprocess.size == (4, 4)
    assert values(data.train) == [(50, 200)[c] for c in data.train.labels.tolist()]


@pytest.mark.parametrize(("extra", "channels"), [(picture(9, mode="L"), 1), (picture(9), 3)])
def test_images_are_grey_only_if_all_are(tmp_path: Path, extra: bytes, channels: int) -> None:
    files = {f"{c}/{i}.png": picture(99, mode="L") for c in "ab" for i in range(6)}
    root = write_folder(tmp_path, files | {"a/x.png": extra})
    assert load_data(f"imagefolder:{root}").preprocess.channels == channels


# torchvision


def idx(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return `array` as MNIST's files have it: type, dimensions, big-endian sizes, bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def fashion(root: Path) -> Path:
    for part, count in (("train", 40), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.tile(labels[:, None, None] * 20, (1, 28, 28)).astype(np.uint8)
        raw = "FashionMNIST/raw/" + part
        files = {f"{raw}-images-idx3-ubyte": idx(images), f"{raw}-labels-idx1-ubyte": idx(labels)}
        write_folder(root, files)
    return root


def test_torchvision_sets_are_read_where_they_lie(tmp_path: Path) -> None:
    data = load_data(f"torchvision:FashionMNIST@{fashion(tmp_path)}")
    assert sizes(data) == (30, 10, 20)
    assert data.class_names[0] == "T-shirt/top"
    assert (data.preprocess.size, data.preprocess.channels) == ((28, 28), 1)
    assert values(data.test) == [20 * c for c in data.test.labels.tolist()]


def test_torchvision_sets_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    damaged = fashion(tmp_path / "damaged") / "FashionMNIST/raw/train-images-idx3-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:99])
    for spec, message in {
        f"FashionMNIST@{tmp_path}": "not found",
        f"CIFAR10@{tmp_path}": "not found",
        f"FashionMNIST@{tmp_path / 'damaged'}": "torchvision:FashionMNIST",
        f"FakeData@{tmp_path}": "expected one of MNIST",
        f"os@{tmp_path}": "expected one of MNIST",
    }.items():
        with pytest.raises(InputError, match=message):
            load_data(f"torchvision:{spec}")
    with pytest.raises(InputError, match="image-size is not supported"):
        load_data(f"torchvision:FashionMNIST@{tmp_path}", image_size=8)


@pytest.mark.parametrize("spec", ["", "mnist", "parquet:", "digits:8", "torchvision:MNIST", "a:b"])
def test_an_unknown_spec_is_told_the_forms(spec: str) -> None:
    with pytest.raises(InputError, match="expected digits, parquet:FILE, imagefolder:DIR or"):
        load_data(spec)


@pytest.mark.parametrize("size", [0, -1, 8193, 9])
def test_an_image_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="image size"):
        load_data("digits", image_size=size)


# decoding


def test_images_decoded_when_asked_for_are_those_decoded_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [picture(i, mode="L") for i in range(200)]  # more than one task
    names = [str(i) for i in range(200)]
    at_once = store(files, names, None)
    monkeypatch.setattr(decode, "_IN_MEMORY", 0)
    later = store(files, names, None)
    assert isinstance(at_once, torch.Tensor)
    assert isinstance(later, Decoded)
    assert len(later) == len(at_once) == 200
    for index in (torch.arange(200), torch.tensor([7, 3, 3, 199]), torch.arange(0)):
        assert torch.equal(later[index], at_once[index])
        assert later[index].dtype == at_once[index].dtype == torch.uint8


def test_a_whole_image_is_stretched() -> None:
    wide = Image.new("L", (40, 10))
    wide.paste(255, (20, 0, 40, 10))
    array = to_array(wide, Shape(1, (4, 4)))
    assert array.shape == (1, 4, 4)
    assert array[0, :, 0].tolist() == [0] * 4
    assert array[0, :, 3].tolist() == [255] * 4


def sixteen_bits() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 0x1200], [0x8000, 0xFFFF]], np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_sixteen_bits_keep_their_upper_eight() -> None:
    images = store([sixteen_bits()], ["deep"], None)
    assert images[torch.tensor([0])].tolist() == [[[[0, 0x12], [0x80, 0xFF]]]]


def saved(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable image"),
        (b"GIF89a", "not a readable image"),
        (b"P6\n1x 12\n255\n", "not a readable image"),  # Pillow raises ValueError here
        (b"P5\n8001 8001\n255\n", "64016001|8001x8001 exceeds"),
        (b"P5\n20000 20000\n255\n", "not a readable image"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "32 bits a pixel"),
        (picture(3)[:48], "truncated or corrupt"),
    ],
)
def test_a_bad_image_is_refused_by_name(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"image cat 7: .*({message})"):
        to_array(open_image(content, "cat 7"), Shape(3, (8, 8)), "cat 7")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # before our refusal
def test_damaged_images_are_read_or_refused_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (12, 10, 3), dtype=np.uint8))

    def damage(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[generator.integers(min(30, len(content)))] = generator.integers(256)
        damaged[generator.integers(len(content))] = generator.integers(256)
        return bytes(damaged)

    for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM"):
        content, refused = saved(noise, form), 0
        for _ in range(100):
            try:
                to_array(open_image(damage(content), "x"), Shape(3, (8, 8)), "x")
            except InputError:
                refused += 1
        assert refused > 0, form
