"""Image files become the same pixels for training as for a served model."""

import io
import warnings
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from bandstop.client.images import prepare
from bandstop.client.served import Preprocess as ServedPreprocess
from bandstop.edit.decode import Shape, open_image, store, to_array
from bandstop.edit.errors import InputError
from bandstop.edit.images import Preprocess


def photo(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    shape = (size[1], size[0], bands)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels if bands > 1 else pixels[:, :, 0])


def saved(image: Image.Image, form: str = "PNG", orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def see_through() -> bytes:
    buffer = io.BytesIO()
    photo().quantize(8).save(buffer, "PNG", transparency=bytes(range(8)))
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "colour": lambda: saved(photo()),
    "grey": lambda: saved(photo("L")),
    "transparent": lambda: saved(photo("RGBA")),
    "palette": see_through,
    "tall": lambda: saved(photo(size=(11, 40))),
    "exact": lambda: saved(photo(size=(8, 8))),
    "jpeg": lambda: saved(photo(), "JPEG"),
    "on its side": lambda: saved(photo(), "JPEG", 6),
    "mirrored": lambda: saved(photo(), "PNG", 2),
    "one pixel": lambda: saved(photo(size=(1, 1))),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", [None, 8, 10, 13])
@pytest.mark.parametrize("how", ["nearest", "bilinear", "bicubic"])
def test_training_and_serving_see_the_same_pixels(
    channels: Literal[1, 3], resize: int | None, how: Literal["nearest", "bilinear", "bicubic"]
) -> None:
    half = (0.5,) * channels
    served = ServedPreprocess((8, 6), channels, half, half, resize, how, "uint8")
    shape = Shape(channels, (8, 6), resize, how)
    for name, make in PICTURES.items():
        ours = to_array(open_image(make(), name), shape, name)
        (theirs,) = prepare([make()], served)
        assert np.array_equal(ours, theirs.transpose(2, 0, 1)), name


def test_a_picture_on_its_side_has_the_size_it_has_upright() -> None:
    files = [saved(photo(), "JPEG", 8), saved(photo(size=(23, 37)), "JPEG")]
    images = store(files, ["turned", "upright"], None)
    assert images[torch.arange(2)].shape == (2, 3, 37, 23)


@pytest.mark.parametrize(("channels", "mode"), [(1, "RGB"), (3, "L")])
def test_a_model_s_preparation_decides_the_channels(channels: int, mode: str) -> None:
    want = Preprocess((5, 4), channels, (0.5,) * channels, (0.5,) * channels, resize=6)
    images = store([saved(photo(mode)), saved(photo(mode, (9, 9)))], ["a", "b"], want)
    assert images[torch.arange(2)].shape == (2, channels, 5, 4)


def test_formats_that_start_programs_are_not_opened() -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    with pytest.raises(InputError, match="image x: not a readable image"):
        open_image(script, "x")


def test_nothing_is_said_about_transparency() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_array(open_image(see_through(), "x"), Shape(3, (8, 8)), "x")


def test_damaged_orientations_are_read_or_refused_and_nothing_else() -> None:
    whole, generator = saved(photo(), "JPEG", 6), np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(2, 80, 3):  # where EXIF stands
            damaged[place] = generator.integers(256)
        try:
            to_array(open_image(bytes(damaged), "x"), Shape(3, (8, 8)), "x")
        except InputError as error:
            assert "image x: " in str(error)  # noqa: PT017  # most are read
