"""The proof that an ensemble answers with one version of its model, and as that should."""

import io
import json
import time

import numpy as np
from PIL import Image

from bandstop.client.errors import ClientError, listed
from bandstop.client.wire import InferReply, InferRequest, Tensor, encode
from bandstop.export.canary import pixels
from bandstop.export.ensemble_config import IMAGES
from bandstop.export.errors import NotServed
from bandstop.export.readback_calls import Calls, Patience, explained
from bandstop.export.readback_checks import compare, config_misses, state_misses
from bandstop.export.record import PreprocessRecord, ReleaseRecord

NAMED = ("names", "probabilities", "indices")


def prove_images(
    calls: Calls, patience: Patience, model: str, version: int, record: ReleaseRecord, top_k: int
) -> None:
    """Refuse unless the ensemble of `model` answers pictures with `version`, as recorded.

    The pictures are those of the release's canary, written so that decoding gives the recorded
    pixels; so the logits must be the recorded ones too.

    Raises:
        NotServed: naming every miss.
    """
    name, misses = f"{model}{IMAGES}", list[str]()
    try:
        misses += _ready(calls, patience, name, version)
        config = calls.config(name, str(version))
        misses += config_misses(config, {version: record}, [version])
        pinned = {(s.model_name, s.model_version) for s in config.ensemble_scheduling.step}
        misses += [
            f"step {step} is taken in version {number}, expected {version}"
            for step, number in sorted(pinned)
            if number != version
        ]
        misses += _answers(calls, name, version, record, top_k)
    except ClientError as error:
        misses.append(explained(error, calls.headers))
    if misses:
        raise NotServed(f"model {name} is not served as it should be: {listed(misses)}")


def _ready(calls: Calls, patience: Patience, name: str, version: int) -> list[str]:
    """Return what is wrong with the states of the versions, once they had time to settle."""
    began = time.monotonic()
    while True:
        misses = list(state_misses(calls.states(name), {version: None}))
        if not misses or time.monotonic() - began > patience.settle:
            return misses
        time.sleep(patience.pause)


def _answers(calls: Calls, name: str, version: int, record: ReleaseRecord, top_k: int) -> list[str]:
    forget = record.canary.forget if record.canary else [[0] * record.forget.slots]
    replies = []
    for first in range(0, len(forget), record.max_batch_size):
        rows = forget[first : first + record.max_batch_size]
        replies.append(calls.infer(_question(name, record, first, rows)))
    misses = list(compare(replies, version, record).misses)
    if not misses:
        misses = [miss for reply in replies for miss in _name_misses(reply, record, top_k)]
    return misses


def _question(name: str, record: ReleaseRecord, first: int, rows: list[list[int]]) -> InferRequest:
    """Return the request for rows of the canary from number `first` on."""
    pictures = [picture(first + row, record.preprocess) for row in range(len(rows))]
    data = b"".join(len(p).to_bytes(4, "little") + p for p in pictures)
    inputs = [Tensor("encoded", "BYTES", (len(rows), 1), data)]
    for tensor in record.inputs[1:]:
        asked = np.array(rows, np.int64).reshape(len(rows), *tensor.shape)
        inputs.append(encode(tensor.name, asked, tensor.dtype))
    wanted = (*(tensor.name for tensor in record.outputs), *NAMED)
    return InferRequest(name, "", tuple(inputs), wanted)


def picture(row: int, preprocess: PreprocessRecord) -> bytes:
    """Return the canary's image number `row` as a PNG that decodes to just these pixels."""
    height, width = preprocess.size
    image = pixels(row, preprocess.channels, height, width).transpose(1, 2, 0)
    if preprocess.resize is not None:  # what is cropped off again
        side = preprocess.resize
        whole = np.zeros((side, side, preprocess.channels), np.uint8)
        top, left = round((side - height) / 2.0), round((side - width) / 2.0)
        whole[top : top + height, left : left + width] = image
        image = whole
    flat = image[:, :, 0] if preprocess.channels == 1 else image
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(flat)).save(file, "PNG")
    return file.getvalue()


def _name_misses(reply: InferReply, record: ReleaseRecord, top_k: int) -> list[str]:
    """Tell where names, probabilities and indices are not those of the logits beside them."""
    found = {tensor.name: tensor for tensor in reply.outputs}
    if missing := [name for name in NAMED if name not in found]:
        return [f"output {', '.join(missing)} is missing"]
    classes = len(record.class_names)
    logits = np.frombuffer(found["logits"].data, "<f4").reshape(-1, classes).astype(np.float64)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    named = [record.class_names[i] or f"#{i}" for i in best.reshape(-1)]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), best, axis=1)
    given = np.frombuffer(found["probabilities"].data, "<f4")
    misses = []
    if not np.array_equal(np.frombuffer(found["indices"].data, "<i8"), best.reshape(-1)):
        misses.append("indices are not those of the largest logits")
    if strings(bytes(found["names"].data)) != [name.encode() for name in named]:
        misses.append(f"names are not those of version {reply.version}: expected {_told(named)}")
    if given.shape != (best.size,) or np.abs(given - chosen.reshape(-1)).max() > 1e-5:
        misses.append("probabilities are not those of the logits")
    return misses


def strings(data: bytes) -> list[bytes]:
    """Return the elements of a tensor of type BYTES: each has its length before it."""
    found, at = [], 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        found.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def _told(names: list[str]) -> str:
    return json.dumps(names[:5], ensure_ascii=False)
