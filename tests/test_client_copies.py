"""How often a batch's pixels are copied on their way into a message, and whose memory is sent."""

import tracemalloc
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from bandstop.client.images import prepare
from bandstop.client.messages import to_bytes
from bandstop.client.requests import batch
from bandstop.client.served import Preprocess, ServedModel, VersionSpec
from bandstop.client.wire import InferRequest

FLOATS = Preprocess((224, 224), 3, (0.5,) * 3, (1.0,) * 3, None, "bilinear", "float32")
SHAPE = (224, 224, 3)


def request(images: list[NDArray[np.generic]], input: Literal["float32", "uint8"]) -> InferRequest:
    preprocess = replace(FLOATS, input=input)
    model = ServedModel("m", {"1": VersionSpec(("a", "b"), preprocess, False, "0" * 64)}, 0, 8)
    return batch(model, "", prepare(images, preprocess), None)


def pixels(count: int, dtype: type[np.generic]) -> list[NDArray[np.generic]]:
    drawn = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)
    if dtype is np.uint8:
        return list(drawn)
    return list(np.ascontiguousarray(drawn.transpose(0, 3, 1, 2), np.float32) / np.float32(255))


CASES = [(np.uint8, "uint8"), (np.uint8, "float32"), (np.float32, "float32")]


@pytest.mark.parametrize(("given", "input"), CASES)
def test_a_batch_is_written_once_as_a_tensor_and_once_into_the_message(
    given: type[np.generic], input: Literal["float32", "uint8"]
) -> None:
    images = pixels(8, given)
    tracemalloc.start()
    try:
        asked = request(images, input)
        _, first = tracemalloc.get_traced_memory()
        sent = to_bytes(asked)
        _, both = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first <= 1.1 * len(sent)
    assert both <= 2.1 * len(sent)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("given", "input"), CASES)
def test_what_the_caller_does_to_his_images_later_is_not_sent(
    given: type[np.generic], input: Literal["float32", "uint8"], count: int
) -> None:
    images = pixels(count, given)
    wanted = b"".join(
        (i if input == "uint8" or given is np.float32 else i.transpose(2, 0, 1)).tobytes()
        for i in images
    )
    if input == "float32" and given is np.uint8:
        wanted = (np.frombuffer(wanted, np.uint8) / np.float32(255)).astype(np.float32).tobytes()
    asked = request(images, input)
    for image in images:
        image[:] = np.zeros((), image.dtype)
    assert to_bytes(asked).endswith(wanted)
