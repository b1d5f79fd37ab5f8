"""Images become what the model takes: the right pixels, or a refusal that names the image."""

import errno
import io
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from bandstop.client.errors import InvalidImage, InvalidInput
from bandstop.client.images import ImageLike, as_list, prepare, stack
from bandstop.client.pictures import MAX_PIXELS
from bandstop.client.served import Preprocess

RGB = Preprocess((4, 4), 3, (0.5,) * 3, (1.0,) * 3, None, "bilinear", "float32")
GREY = replace(RGB, channels=1, mean=(0.5,), std=(1.0,))
RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def one(image: ImageLike, preprocess: Preprocess = RGB) -> NDArray[np.generic]:
    return prepare([image], preprocess)[0]


def corners() -> Image.Image:
    """4x4, red at the top left, green at the top right, blue at the bottom left."""
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0], pixels[0, 3], pixels[3, 0] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one pixel's worth of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(b"\0" * 4)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_way_to_give_a_picture_gives_the_same_pixels(tmp_path: Path) -> None:
    expected = np.asarray(corners())
    file = tmp_path / "corners.png"
    corners().save(file)
    given: list[ImageLike] = [str(file), file, encoded(corners()), corners(), expected]
    given.append(expected[::-1].copy()[::-1])  # not contiguous
    for image in given:
        np.testing.assert_array_equal(one(image), expected)


def test_a_float_tensor_is_channels_first_in_zero_to_one() -> None:
    batch = stack(prepare([corners()], RGB), RGB)
    assert batch.shape == (1, 3, 4, 4)
    assert batch.dtype == np.float32
    assert batch[0, :, 0, 0].tolist() == [1, 0, 0]
    assert batch[0, :, 0, 3].tolist() == [0, 1, 0]


def test_a_byte_tensor_is_channels_last() -> None:
    wanted = replace(RGB, input="uint8")
    batch = stack(prepare([corners(), corners()], wanted), wanted)
    assert batch.shape == (2, 4, 4, 3)
    assert batch.dtype == np.uint8
    assert batch[1, 3, 0].tolist() == [0, 0, 255]


def test_floats_are_taken_as_they_are_beside_pictures() -> None:
    floats = np.linspace(0, 1, 48, dtype=np.float32).reshape(3, 4, 4)
    batch = stack(prepare([floats, corners()], RGB), RGB)
    np.testing.assert_array_equal(batch[0], floats)
    assert batch[1, 0, 0, 0] == 1


def test_a_batch_array_is_split_into_its_images() -> None:
    batch = np.zeros((5, 4, 4, 3), np.uint8)
    assert len(as_list(batch)) == 5
    assert [len(as_list(given)) for given in (batch[0], corners(), "a.png", [corners()] * 2)] == [
        1,
        1,
        1,
        2,
    ]


# EXIF orientation -> where the red corner of the stored picture belongs (row, column)
@pytest.mark.parametrize(
    ("orientation", "red"),
    [
        (1, (0, 0)),
        (2, (0, 3)),
        (3, (3, 3)),
        (4, (3, 0)),
        (5, (0, 0)),
        (6, (0, 3)),
        (7, (3, 3)),
        (8, (3, 0)),
    ],
)
def test_exif_orientation_is_honoured(orientation: int, red: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = one(encoded(corners(), "PNG", exif=exif))
    assert pixels[red].tolist() == list(RED)


def test_luma_is_the_weighted_sum_of_the_colours() -> None:
    # ITU-R 601: 0.299, 0.587, 0.114
    pixels = one(corners(), GREY)[..., 0]
    assert pixels.shape == (4, 4)
    assert [pixels[0, 0], pixels[0, 3], pixels[3, 0]] == [76, 150, 29]


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1)])
def test_grey_becomes_three_equal_channels(shape: tuple[int, ...]) -> None:
    pixels = one(np.full(shape, 77, np.uint8))
    assert (pixels == 77).all()
    assert pixels.shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, WHITE),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 10), (90, 90, 90)),
        ("RGBA", (255, 0, 0, 0), RED),
        ("CMYK", (0, 255, 255, 0), RED),
        ("YCbCr", (255, 128, 128), WHITE),
    ],
)
def test_modes_become_rgb(mode: str, colour: object, expected: tuple[int, ...]) -> None:
    picture = Image.new(mode, (4, 4), colour)  # type: ignore[arg-type]  # one of Pillow's colours
    assert one(picture)[1, 1].tolist() == list(expected)


def test_a_palette_with_transparency_becomes_rgb() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    file = encoded(picture, "PNG", transparency=bytes([128, 10]))
    assert one(file)[2, 2].tolist() == list(RED)


@pytest.mark.parametrize("suffix", [".jpg", ".txt", ""])
def test_the_content_counts_and_not_the_suffix(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"corners{suffix}"
    file.write_bytes(encoded(corners(), "PNG"))
    np.testing.assert_array_equal(one(file), np.asarray(corners()))


def test_a_colour_profile_is_dropped() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    file = encoded(corners(), "PNG", icc_profile=profile)
    assert "icc_profile" in Image.open(io.BytesIO(file)).info
    np.testing.assert_array_equal(one(file), np.asarray(corners()))


def test_a_picture_of_one_pixel_is_enlarged() -> None:
    assert (one(encoded(Image.new("RGB", (1, 1), RED))) == RED).all()


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert one(file)[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(9, 7), (7, 9), (3, 3), (40, 5)])
@pytest.mark.parametrize("resize", [None, 4, 6])
def test_resizing_equals_torchvision(
    interpolation: str, size: tuple[int, int], resize: int | None
) -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2.functional")
    modes = pytest.importorskip("torchvision.transforms").InterpolationMode
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    target = [4, 4] if resize is None else [resize]
    expected = transforms.resize(picture, target, modes(interpolation))
    expected = transforms.center_crop(expected, [4, 4])
    settings = replace(RGB, resize=resize, interpolation=interpolation)  # type: ignore[arg-type]  # a Literal
    found = one(picture, settings)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_a_wide_picture_is_cropped_in_the_middle() -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255
    assert (one(wide, replace(RGB, resize=4)) == 255).all()


BAD_BYTES = {
    "empty": (b"", "not an image"),
    "html": (b"<html>404</html>", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "not an image"),
    "header only": (encoded(corners())[:33], "not an image"),
    "too few rows": (png_header(4, 4), "damaged"),
    "no height": (png_header(4, 0), "damaged|not an image|4x0 pixels"),
    "large png": (png_header(65_500, 65_500), f"{MAX_PIXELS} pixels"),
    "larger than ours, not than Pillow's": (png_header(8_001, 8_000), f"{MAX_PIXELS}"),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_bytes_are_refused(name: str, tmp_path: Path) -> None:
    content, reason = BAD_BYTES[name]
    file = tmp_path / "bad.png"
    file.write_bytes(content)
    with pytest.raises(InvalidImage, match=reason) as caught:
        prepare([corners(), content], RGB)
    assert str(caught.value).startswith("image 1: ")
    with pytest.raises(InvalidImage, match=reason) as caught:
        prepare([file], RGB)
    assert str(caught.value).startswith(repr(str(file)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_a_file_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    whole, refused = one(content), 0
    for cut in range(0, len(content), 61):
        try:
            np.testing.assert_array_equal(one(content[:cut]), whole)
        except InvalidImage:
            refused += 1
    assert refused > 0.9 * len(content) / 61


def test_a_long_strip_is_refused_before_it_is_enlarged() -> None:
    strip = Image.new("L", (1, 60_000))
    with pytest.raises(InvalidImage, match=f"64x3840000 pixels, expected 1 to {MAX_PIXELS}"):
        prepare([strip], replace(RGB, size=(64, 64), resize=64))


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "loop", "nul"])
def test_what_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    given = "a\0b" if kind == "nul" else str(path)
    with pytest.raises(InvalidImage) as caught:
        prepare([given], RGB)
    assert str(caught.value).startswith(repr(given))
    assert caught.value.reasons == {0: str(caught.value)}


def test_an_undecodable_file_name_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\n.png")
    with pytest.raises(InvalidImage) as caught:
        prepare([path], RGB)
    assert str(caught.value).encode("utf-8").count(b"\n") == 0


F = np.zeros((3, 4, 4), np.float32)


@pytest.mark.parametrize(
    "image",
    [
        F.astype(np.float64),
        F.astype(np.float16),
        F.astype(">f4"),
        F.astype(np.int64),
        F.astype(bool),
        F.astype(complex),
        F.astype(object),
        F.astype(str),
        np.zeros((3, 4, 4), "V2"),  # what bfloat16 is to a NumPy that does not know it
        np.zeros((1, 1, 3, 4, 4), np.float32),
        F[0],
        F[None],
        F[:1],
        np.zeros((3, 4, 5), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        Image.new("I;16", (4, 4)),
        Image.new("I", (4, 4)),
        Image.new("F", (4, 4)),
        None,
        3,
    ],
    ids=lambda image: str(getattr(image, "dtype", getattr(image, "mode", image))),
)
def test_other_kinds_are_refused_without_a_cast(image: ImageLike) -> None:
    with pytest.raises(InvalidImage, match=r"^image 0: expected "):
        prepare([image], RGB)


@pytest.mark.parametrize("device", ["cpu", "meta"])  # cuda is refused by the same words
def test_a_tensor_of_torch_is_refused_and_not_copied_off_its_device(device: str) -> None:
    tensor = torch.zeros(3, 4, 4, requires_grad=True, device=device)
    with pytest.raises(InvalidImage, match=r"^image 0: expected .*got torch\.Tensor$"):
        prepare([tensor], RGB)  # type: ignore[list-item]  # the point


def test_an_image_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    (tmp_path / "secret.png").touch()
    with pytest.raises(InvalidImage, match=r"secret\.png': cannot be read: Permission denied"):
        prepare([tmp_path / "secret.png"], RGB)


def test_arrays_may_have_their_channels_first_or_last() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 7, 3), np.uint8)
    wide = replace(RGB, size=(4, 6))
    np.testing.assert_array_equal(one(pixels.transpose(2, 0, 1), wide), one(pixels, wide))
    np.testing.assert_array_equal(one(pixels[None, :, :, 0], GREY), one(pixels[:, :, 0], GREY))
    floats = rng.random((3, 4, 6), np.float32)
    np.testing.assert_array_equal(one(floats.transpose(1, 2, 0), wide), floats)
    np.testing.assert_array_equal(one(floats, wide), floats)


def test_what_fits_already_is_taken_unless_it_is_to_be_cropped() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    np.testing.assert_array_equal(one(pixels), pixels)
    np.testing.assert_array_equal(one(pixels, replace(RGB, resize=4)), pixels)
    cropped = replace(RGB, resize=6)
    np.testing.assert_array_equal(one(pixels, cropped), one(Image.fromarray(pixels), cropped))
    assert not np.array_equal(one(pixels, cropped), pixels)


def test_minus_zero_is_zero() -> None:
    np.testing.assert_array_equal(one(F * np.float32(-1)), F)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 1e38, -1e-3, 1.001, 255.0])
def test_floats_out_of_range_are_refused_at_their_place(value: float) -> None:
    bad = F.copy()
    bad[1, 2, 3] = value
    with pytest.raises(InvalidImage, match=r"expected values in \[0, 1\], got .* at \(1, 2, 3\)"):
        prepare([bad], RGB)


def test_tiny_and_read_only_floats_are_accepted() -> None:
    tiny = np.full_like(F, 1e-42)
    tiny.flags.writeable = False
    np.testing.assert_array_equal(one(tiny[:, ::-1]), tiny)


def test_floats_are_not_rounded_for_a_byte_model() -> None:
    with pytest.raises(InvalidImage, match="expected uint8"):
        prepare([F], replace(RGB, input="uint8"))


def test_all_bad_images_are_named_at_once() -> None:
    images: list[ImageLike] = [b"x", corners(), F * np.nan, "missing.png"]
    with pytest.raises(InvalidImage) as caught:
        prepare(images, RGB)
    assert sorted(caught.value.reasons) == [0, 2, 3]
    assert all(reason in str(caught.value) for reason in caught.value.reasons.values())


def test_very_many_bad_images_stay_one_readable_line() -> None:
    with pytest.raises(InvalidImage, match=r"and 992 more$") as caught:
        prepare([b""] * 1000, RGB)
    assert len(caught.value.reasons) == 1000


@pytest.mark.parametrize("given", [[], (), np.zeros((0, 4, 4, 3), np.uint8), None, {1: 2}])
def test_no_images_are_refused(given: object) -> None:
    with pytest.raises(InvalidInput, match=r"^images: expected"):
        as_list(given)  # type: ignore[arg-type]  # the point
