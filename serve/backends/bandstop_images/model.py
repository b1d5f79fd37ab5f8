"""Triton backend `bandstop_images`: encoded pictures become the tensor that a model takes.

Runs inside the server's own environment (NumPy, Pillow) and imports nothing of ours. What it does
to a picture is what the Python client does, with the same limits and the same messages: turned
upright by EXIF, made grey or RGB (colour profiles and transparency are dropped, of several frames
the first counts), resized. It reads fewer formats, since here the bytes come from strangers.
"""

import io
import json

import numpy as np
import triton_python_backend_utils as pb

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as missing:
    raise pb.TritonModelException(
        "Pillow is missing in the server's environment: run bandstop serve --install, or "
        "pip install pillow in the container"
    ) from missing

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 28
# what convert() would cut off at 255 without a word
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
KEYS = {"size", "channels", "mean", "std", "resize", "interpolation", "input"}


class Refused(Exception):  # noqa: N818  # the event: this picture cannot be used
    """Why a picture cannot be used."""


class TritonPythonModel:
    """One instance of one version."""

    def initialize(self, args):
        """Read how pictures are prepared for this version."""
        config = json.loads(args["model_config"])
        self.preprocess = read_preprocess(config, args["model_version"])

    def execute(self, requests):
        """Answer each request by itself; one with a bad picture is refused alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            encoded = pb.get_input_tensor_by_name(request, "encoded").as_numpy()
            image = prepared(encoded.reshape(-1), self.preprocess)
        except Refused as error:
            return refusal(error, pb.TritonError.INVALID_ARG)
        except Exception as error:
            return refusal(f"{type(error).__name__}: {error}", pb.TritonError.INTERNAL)
        return pb.InferenceResponse(output_tensors=[pb.Tensor("image", image)])


def refusal(reason, code):
    """Return the response that refuses a request."""
    return pb.InferenceResponse(error=pb.TritonError(str(reason), code))


def read_preprocess(config, version):
    """Return how pictures are prepared for `version`, as its release says.

    Raises:
        TritonModelException: the configuration does not say it, or says what is not known here.
    """
    key = f"preprocess.{version}"
    text = config.get("parameters", {}).get(key, {}).get("string_value", "")
    try:
        found = json.loads(text)
        fits = set(found) - {"order"} == KEYS and found["interpolation"] in INTERPOLATIONS
        fits = fits and found["input"] in ("float32", "uint8") and found["channels"] in (1, 3)
        order = "L" if fits and found["channels"] == 1 else "RGB"
        fits = fits and found.get("order", order) == order  # releases did not always tell it
        resize = found["resize"] if fits else None
        fits = fits and (resize is None or resize >= max(found["size"]))
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise pb.TritonModelException(f"parameter {key}: not what bandstop publishes: {text[:200]}")
    return found


def prepared(encoded, preprocess):
    """Return encoded pictures (n,) as (n, c, h, w) float32 in [0, 1] or (n, h, w, c) uint8.

    Raises:
        Refused: with the reason for each picture that cannot be used.
    """
    pixels, reasons = [], []
    for position, content in enumerate(encoded):
        try:
            pixels.append(fit(open_picture(content), preprocess))
        except Refused as error:
            reasons.append(f"image {position}: {error}")
    if reasons:
        more = f"; and {len(reasons) - 8} more" if reasons[8:] else ""
        raise Refused("; ".join(reasons[:8]) + more)
    stacked = np.stack(pixels)
    if preprocess["input"] == "uint8":
        return stacked
    scaled = stacked.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(scaled)


def open_picture(content):
    """Return the picture in `content`, decoded and turned upright.

    Raises:
        Refused: there is none, or it is too large.
    """
    if len(content) > MAX_BYTES:
        raise Refused(f"{len(content)} bytes, expected at most {MAX_BYTES}")
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(f"not an image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"over the limit of {MAX_PIXELS} pixels") from error
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise Refused(f"damaged: {_reason(error)}") from error
    _check_pixels(picture.size)
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # same
        raise Refused(f"damaged: {_reason(error)}") from error


def fit(picture, preprocess):
    """Return `picture` as uint8 (h, w, c) of the model's size.

    Raises:
        Refused: it has more than 8 bits a channel, or cannot be resized.
    """
    channels = preprocess["channels"]
    colour = _convert(picture, "L" if channels == 1 else "RGB")
    pixels = np.asarray(_resize(colour, preprocess), dtype=np.uint8)
    return pixels.reshape(*preprocess["size"], channels)


def _reason(error):
    return " ".join(str(error).split()) or type(error).__name__


def _check_pixels(size):
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise Refused(f"{width}x{height} pixels, expected 1 to {MAX_PIXELS} in all")


def _convert(picture, mode):
    if picture.mode in DEEP_MODES:
        raise Refused(f"expected 8 bits a channel, got mode {picture.mode}; convert it first")
    if picture.mode == "P" and "transparency" in picture.info:
        # Pillow warns when transparency is lost on the way from a palette to RGB
        picture = picture.convert("RGBA")
    try:
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise Refused(f"mode {picture.mode} cannot become {mode}") from error


def _resize(picture, preprocess):
    height, width = preprocess["size"]
    kind = Image.Resampling[preprocess["interpolation"].upper()]
    if preprocess["resize"] is None:
        return picture.resize((width, height), kind)
    shorter = min(picture.size)
    # rounded as torchvision does: down here, half to even below
    new = tuple(int(preprocess["resize"] * side / shorter) for side in picture.size)
    _check_pixels(new)
    picture = picture.resize(new, kind)
    left, top = round((new[0] - width) / 2.0), round((new[1] - height) / 2.0)
    return picture.crop((left, top, left + width, top + height))
