"""Replies of a served model, believed only after every check; no input or output happens here."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from bandstop.client.errors import NotFinite, PolicyNotApplied, ProtocolError, Refused
from bandstop.client.served import VERSION
from bandstop.client.wire import NUMPY_DTYPES, InferReply, InferRequest, Tensor

N = TypeVar("N", bound=np.generic)


class Answer(NamedTuple):
    """What the model said to one request.

    Attributes:
        version: that answered.
        logits: (n, classes) float32, finite.
        applied: (n, slots) int64, the classes that were forgotten; no slots for a baked model.
    """

    version: str
    logits: NDArray[np.float32]
    applied: NDArray[np.int64]


def check_source(reply: InferReply, request: InferRequest) -> None:
    """Refuse a reply that does not say that it comes from the model and version asked for.

    Raises:
        ProtocolError: it names another model or version, or none.
    """
    where = f"model {request.model}"
    if reply.model != request.model:
        raise ProtocolError(f"{where}: the reply comes from model {reply.model!r}")
    if VERSION.fullmatch(reply.version) is None or request.version not in ("", reply.version):
        raise ProtocolError(
            f"{where}: the reply comes from version {reply.version!r}, "
            f"expected {request.version or 'a number'}"
        )


def read_reply(
    reply: InferReply,
    request: InferRequest,
    classes: int,
    name: Callable[[int], str] = "image {}".format,
) -> Answer:
    """Return the answer that `reply` gives to `request`; `name` tells an image by its row.

    Raises:
        Refused: the model refused rows of the request.
        PolicyNotApplied: other classes were forgotten than requested.
        NotFinite: numbers of a row that was not refused are none.
        ProtocolError: an output is missing or malformed.
    """
    where = f"model {reply.model} version {reply.version}"
    sent = {tensor.name: tensor for tensor in request.inputs}
    rows = sent["image"].shape[0]
    logits: NDArray[np.float32] = _array(reply, "logits", "FP32", (rows, classes), where)
    if "forget_class" in sent:
        asked = sent["forget_class"]
        applied: NDArray[np.int64] = _array(
            reply, "applied_forget_class", "INT64", asked.shape, where
        )
        if applied.tobytes() != asked.data:
            _refuse_policy(applied, asked, where, name)
    else:
        applied = np.empty((rows, 0), np.int64)
    finite = np.isfinite(logits)
    if b"\0" in finite.tobytes():  # of few numbers faster than all()
        bad = np.flatnonzero(~finite.all(axis=1))
        raise NotFinite(f"{where}: logits are not finite for {_names(bad, name)}")
    return Answer(reply.version, logits, applied)


def _refuse_policy(
    applied: NDArray[np.int64], asked: Tensor, where: str, name: Callable[[int], str]
) -> NoReturn:
    wanted = np.frombuffer(asked.data, NUMPY_DTYPES["INT64"]).reshape(asked.shape)
    refused = np.flatnonzero((applied == -1).all(axis=1))
    if refused.size:
        asked = wanted[refused[0]].tolist()
        raise Refused(
            f"{where}: refused {_names(refused, name)}, forget_class {asked}; "
            "ask for classes that this version can forget"
        )
    wrong = np.flatnonzero((applied != wanted).any(axis=1))
    first = wrong[0]
    raise PolicyNotApplied(
        f"{where}: forget_class was not applied for {_names(wrong, name)}: "
        f"asked {wanted[first].tolist()}, applied {applied[first].tolist()}"
    )


def _array(
    reply: InferReply, name: str, datatype: str, shape: tuple[int, ...], where: str
) -> NDArray[N]:
    found = [tensor for tensor in reply.outputs if tensor.name == name]
    if len(found) != 1:
        raise ProtocolError(f"{where}: the reply holds {name} {len(found)} times, expected once")
    tensor: Tensor = found[0]
    if (tensor.datatype, tensor.shape) != (datatype, shape):
        raise ProtocolError(
            f"{where}: {name} must be {datatype} {list(shape)}, "
            f"got {tensor.datatype} {list(tensor.shape)}"
        )
    dtype = NUMPY_DTYPES[datatype]
    size = prod(shape) * dtype.itemsize
    if len(tensor.data) != size:
        raise ProtocolError(f"{where}: {name} has {len(tensor.data)} bytes, expected {size}")
    array: NDArray[N] = np.frombuffer(tensor.data, dtype).reshape(shape)
    return array


def _names(rows: NDArray[np.intp], name: Callable[[int], str]) -> str:
    more = ", ..." if rows.size > 5 else ""
    return ", ".join(name(int(row)) for row in rows[:5]) + more
