"""Requests for a served model, built from checked images; no input or output happens here."""

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from bandstop.client.images import Prepared, stack
from bandstop.client.served import ServedModel
from bandstop.client.wire import DTYPES, InferRequest, encode, lend

# Far below gRPC's 2 GiB; a server buffers a message whole before it looks at it.
MAX_MESSAGE_BYTES = 64 << 20
ITEM_BYTES = {datatype: np.dtype(code).itemsize for datatype, code in DTYPES.items()}


def batches(
    model: ServedModel,
    version: str,
    images: Sequence[Prepared],
    forget: NDArray[np.int64] | None,
) -> Iterator[InferRequest]:
    """Yield requests for `images` in their order, each within the model's largest batch.

    Args:
        model: that is asked.
        version: that is asked, "" for the server's choice.
        images: prepared for that version.
        forget: (n, slots), the classes to forget for each image; None for a baked model.
    """
    size = batch_size(model, version)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield batch(model, version, images[part], None if forget is None else forget[part])


def batch(
    model: ServedModel,
    version: str,
    images: Sequence[Prepared],
    forget: NDArray[np.int64] | None,
) -> InferRequest:
    """Return one request for all of `images`; arguments as for `batches`."""
    preprocess = model.spec(version).preprocess
    datatype = "UINT8" if preprocess.input == "uint8" else "FP32"
    pixels = stack(images, preprocess)
    # The caller may change his array while the request is under way; ours nobody changes.
    image = (lend if pixels.base is None else encode)("image", pixels, datatype)
    if forget is None:
        return InferRequest(model.name, version, (image,), ("logits",))
    inputs = (image, encode("forget_class", forget, "INT64"))
    return InferRequest(model.name, version, inputs, ("logits", "applied_forget_class"))


def batch_size(model: ServedModel, version: str) -> int:
    """Return how many images go into one request for `version` of `model`."""
    datatype, shape = model.spec(version).preprocess.tensor
    one = prod(shape[1:]) * ITEM_BYTES[datatype]
    return max(1, min(model.max_batch_size, MAX_MESSAGE_BYTES // one))
