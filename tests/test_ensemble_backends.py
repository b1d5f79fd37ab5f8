"""The two steps of an ensemble, with the server's Python interface played by a small fake."""

import importlib.util
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bandstop.client import images as ours
from bandstop.client.predictions import predictions
from bandstop.client.replies import Answer
from bandstop.client.served import Preprocess
from bandstop.serve.install import OUR_BACKENDS
from bandstop.serve.probe import PIXEL
from tests.ensembles import picture


@dataclass(frozen=True)
class Tensor:
    name: str
    array: Any

    def as_numpy(self) -> Any:
        return self.array


@dataclass(frozen=True)
class Request:
    inputs: dict[str, Any]
    wanted: Sequence[str] = ("image", "names", "probabilities", "indices")

    def requested_output_names(self) -> Sequence[str]:
        return self.wanted


@dataclass(frozen=True)
class Response:
    output_tensors: Sequence[Tensor] = ()
    error: Any = None


class TritonError(Exception):
    INTERNAL, INVALID_ARG = 13, 3

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class TritonModelException(Exception):  # noqa: N818  # the server's name
    pass


def _input(request: Request, name: str) -> Tensor | None:
    return Tensor(name, request.inputs[name]) if name in request.inputs else None


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import a backend as the server would."""
    fake = ModuleType("triton_python_backend_utils")
    vars(fake).update(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        get_input_tensor_by_name=_input,
    )
    monkeypatch.setitem(sys.modules, fake.__name__, fake)

    def loaded(name: str) -> Any:
        file = OUR_BACKENDS / name / "model.py"
        spec = importlib.util.spec_from_file_location(f"{name}_under_test", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


def opened(module: Any, config: dict[str, Any], version: str = "3") -> Any:
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_version": version})
    return model


# --- decoding

PLAIN: dict[str, Any] = {
    "size": [8, 6],
    "channels": 3,
    "mean": [0.5] * 3,
    "std": [0.2] * 3,
    "resize": None,
    "interpolation": "bilinear",
    "input": "float32",
}


def decoder(module: Any, **changed: object) -> Any:
    preprocess = json.dumps({**PLAIN, **changed})
    return opened(module, {"parameters": {"preprocess.3": {"string_value": preprocess}}})


def encoded(*pictures: bytes) -> Request:
    return Request({"encoded": np.array(pictures, np.object_).reshape(-1, 1)})


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def noise(mode: str, size: tuple[int, int] = (21, 13)) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    return saved(noise("RGB"), "JPEG", exif=exif)


def frames(kind: str) -> bytes:
    more = [noise("RGB").rotate(180)]
    return saved(noise("RGB"), kind, save_all=True, append_images=more, duration=50)


PICTURES: dict[str, bytes] = {
    "jpeg": saved(noise("RGB"), "JPEG", quality=90),
    "grey jpeg": saved(noise("L"), "JPEG"),
    "cmyk jpeg": saved(noise("CMYK"), "JPEG"),
    "turned jpeg": turned(),
    "png": saved(noise("RGB"), "PNG"),
    "transparent png": saved(noise("RGBA"), "PNG"),
    "palette png": saved(noise("P"), "PNG", transparency=3),
    "bits png": saved(noise("1"), "PNG"),
    "grey and alpha png": saved(noise("LA"), "PNG"),
    "animated png": frames("PNG"),
    "webp": saved(noise("RGB"), "WEBP"),
    "animated webp": frames("WEBP"),
    "one pixel": PIXEL,
    "tall": saved(noise("RGB", (3, 90)), "PNG"),
    "exact": saved(noise("RGB", (6, 8)), "PNG"),
}
WAYS: list[dict[str, Any]] = [
    {},
    {"input": "uint8"},
    {"resize": 11, "interpolation": "bicubic"},
    {"resize": 8, "interpolation": "nearest", "channels": 1, "mean": [0.0], "std": [1.0]},
    {"channels": 1, "mean": [0.0], "std": [1.0], "input": "uint8"},
    {"channels": 1, "mean": [0.0], "std": [1.0], "order": "L"},
    {"order": "RGB"},
]


def client_side(changed: dict[str, Any]) -> Preprocess:
    said = {k: v for k, v in {**PLAIN, **changed}.items() if k != "order"}
    return Preprocess(**{**said, **{key: tuple(said[key]) for key in ("size", "mean", "std")}})


@pytest.mark.parametrize("changed", WAYS, ids=str)
def test_pixels_are_those_that_the_client_would_send(
    load: Callable[[str], Any], changed: dict[str, Any]
) -> None:
    module, preprocess = load("bandstop_images"), client_side(changed)
    (reply,) = decoder(module, **changed).execute([encoded(*PICTURES.values())])
    expected = ours.stack(ours.prepare(list(PICTURES.values()), preprocess), preprocess)
    found = reply.output_tensors[0].array
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert found.flags["C_CONTIGUOUS"]


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that says to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


JPEG = PICTURES["jpeg"]
BAD: dict[str, bytes] = {
    "nothing": b"",
    "text": b"no picture at all",
    "truncated": JPEG[: len(JPEG) // 2],
    "header alone": JPEG[:20],
    "many pixels": bomb(9000, 8000),
    "a bomb": bomb(60_000, 60_000),
    "deep": saved(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD)
def test_what_the_client_refuses_is_refused_alone_and_for_the_same_reason(
    load: Callable[[str], Any], name: str
) -> None:
    good, alone, mixed = decoder(load("bandstop_images")).execute(
        [encoded(JPEG), encoded(BAD[name]), encoded(JPEG, BAD[name])]
    )
    assert good.error is None
    assert alone.error.code == mixed.error.code == TritonError.INVALID_ARG
    (reason,) = ours.decode([BAD[name]], client_side({})).reasons.values()
    known = "JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM", "JPEG, PNG, WEBP"
    assert str(alone.error) == reason.replace(*known)
    assert str(mixed.error) == str(alone.error).replace("image 0", "image 1")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_strangers_reach_three_decoders_only(load: Callable[[str], Any], kind: str) -> None:
    (reply,) = decoder(load("bandstop_images")).execute([encoded(saved(noise("RGB"), kind))])
    assert "not an image of a known format (JPEG, PNG, WEBP)" in str(reply.error)


def test_all_bad_pictures_of_a_request_are_named_up_to_eight(load: Callable[[str], Any]) -> None:
    (reply,) = decoder(load("bandstop_images")).execute([encoded(JPEG, *[b"x"] * 10)])
    assert str(reply.error).count("not an image") == 8
    assert str(reply.error).endswith("; and 2 more")


def test_a_request_that_is_none_fails_alone(load: Callable[[str], Any]) -> None:
    module = load("bandstop_images")
    first, second = decoder(module).execute([Request({}), encoded(JPEG)])
    assert first.error.code == TritonError.INTERNAL
    assert second.error is None
    huge = type("Huge", (bytes,), {"__len__": lambda self: (1 << 28) + 1})(b"x")
    with pytest.raises(module.Refused, match="268435457 bytes, expected at most 268435456"):
        module.open_picture(huge)


@pytest.mark.parametrize(
    "changed",
    [
        {"interpolation": "lanczos"},
        {"input": "int8"},
        {"channels": 4},
        {"order": "BGR"},
        {"channels": 1, "order": "RGB"},
        {"resize": 7},  # the crop is larger
        {"crop": 3},
    ],
    ids=str,
)
def test_a_way_to_prepare_that_is_not_known_keeps_the_step_from_loading(
    load: Callable[[str], Any], changed: dict[str, object]
) -> None:
    with pytest.raises(TritonModelException, match=r"preprocess\.3: not what bandstop publishes"):
        decoder(load("bandstop_images"), **changed)


def test_a_version_of_which_the_configuration_says_nothing_does_not_load(
    load: Callable[[str], Any],
) -> None:
    for name in ("bandstop_images", "bandstop_names"):
        with pytest.raises(TritonModelException, match=r"\.3: not what bandstop publishes"):
            opened(load(name), {"parameters": {}, "input": [], "output": []})


# --- names

LABELS = ["cat", "", "na\u00efve", "bird"]


def namer(module: Any, top_k: int = 2, *, gated: bool = True) -> Any:
    tensors = ["logits", "applied_forget_class"] if gated else ["logits"]
    return opened(
        module,
        {
            "parameters": {
                "labels.3": {"string_value": json.dumps(LABELS)},
                "labels.2": {"string_value": json.dumps(LABELS[::-1])},
            },
            "input": [{"name": name} for name in tensors],
            "output": [{"name": "names", "dims": [str(top_k)]}],
        },
    )


def asked(logits: Any, applied: Any = None, wanted: Sequence[str] | None = None) -> Request:
    inputs = {"logits": np.array(logits, np.float32)}
    if applied is not None:
        inputs["applied_forget_class"] = np.array(applied, np.int64)
    return Request(inputs, wanted or ("names", "probabilities", "indices"))


def named(reply: Response) -> dict[str, Any]:
    return {tensor.name: tensor.array for tensor in reply.output_tensors}


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_names_are_those_that_the_client_would_give(load: Callable[[str], Any], top_k: int) -> None:
    rng = np.random.default_rng(0)
    logits = np.vstack([rng.normal(size=(5, 4)) * 9, [[1, 1, 1, 1]], [[0, 900, -900, 900]]])
    applied = rng.integers(0, 4, (7, 2))
    (reply,) = namer(load("bandstop_names"), top_k).execute([asked(logits, applied)])
    answer = Answer("3", logits.astype(np.float32), applied)
    found = named(reply)
    for row, expected in enumerate(predictions([answer], LABELS, top_k)):
        assert tuple(n.decode() for n in found["names"][row]) == expected.names
        np.testing.assert_allclose(found["probabilities"][row], expected.probabilities, rtol=1e-6)
        assert [LABELS[i] or f"#{i}" for i in found["indices"][row]] == list(expected.names)
    assert found["probabilities"].dtype == np.float32
    assert found["indices"].dtype == np.int64


NAN = float("nan")


@pytest.mark.parametrize(
    ("logits", "applied", "code", "reason"),
    [
        ([[NAN] * 4], [[-1]], TritonError.INVALID_ARG, "image 0: forget_class is no class"),
        ([[1, 2, 3, 4], [5] * 4], [[0], [-1]], TritonError.INVALID_ARG, "image 1: forget_class"),
        ([[5] * 4], [[2, -1]], TritonError.INVALID_ARG, "image 0: forget_class"),
        ([[1, 2, 3, NAN]], [[1]], TritonError.INTERNAL, "image 0: logits that are no numbers"),
        ([[1, 2, 3, 4], [float("inf")] * 4], None, TritonError.INTERNAL, "image 1: logits"),
    ],
)
def test_a_refused_row_gets_no_name_and_refuses_no_other_request(
    load: Callable[[str], Any], logits: Any, applied: Any, code: int, reason: str
) -> None:
    step = namer(load("bandstop_names"), gated=applied is not None)
    fine = asked([[1, 2, 3, 4]], None if applied is None else [[0] * len(applied[0])])
    bad, good = step.execute([asked(logits, applied), fine])
    assert bad.error.code == code
    assert reason in str(bad.error)
    assert bad.output_tensors == ()
    assert named(good)["names"].tolist() == [[b"bird", "na\u00efve".encode()]]


def test_only_what_was_asked_for_is_returned(load: Callable[[str], Any]) -> None:
    (reply,) = namer(load("bandstop_names"), gated=False).execute(
        [asked([[4, 3, 2, 1]], wanted=("names",))]
    )
    assert {k: v.tolist() for k, v in named(reply).items()} == {"names": [[b"cat", b"#1"]]}


@pytest.mark.parametrize("top_k", [0, 5])
def test_more_names_than_classes_keep_the_step_from_loading(
    load: Callable[[str], Any], top_k: int
) -> None:
    with pytest.raises(TritonModelException, match="expected 1 to 4 of them"):
        namer(load("bandstop_names"), top_k)


def test_a_server_without_pillow_says_what_to_do(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TritonModelException, match="bandstop serve --install"):
        load("bandstop_images")


def test_the_picture_of_probes_is_one(load: Callable[[str], Any]) -> None:
    (reply,) = decoder(load("bandstop_images")).execute([encoded(PIXEL, picture())])
    assert not reply.output_tensors[0].array[0].any()


def test_backends_are_whole_in_one_file() -> None:
    found = sorted(p.relative_to(OUR_BACKENDS) for p in OUR_BACKENDS.glob("bandstop_*/*.py"))
    assert found == [Path("bandstop_images/model.py"), Path("bandstop_names/model.py")]
    for file in found:
        assert "import bandstop" not in (OUR_BACKENDS / file).read_text()
        assert "from bandstop" not in (OUR_BACKENDS / file).read_text()
