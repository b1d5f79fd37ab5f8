"""Replies read without protobuf where only the tensors' bytes differ from the reply before."""

from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from tritonclient.grpc import service_pb2

from bandstop.client.errors import ProtocolError
from bandstop.client.messages import field_header, from_wire
from bandstop.client.wire import InferReply, Tensor

_CONTENTS = service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER


class _Layout(NamedTuple):
    """A reply apart from its tensors' bytes.

    Attributes:
        size: in bytes.
        head: all that comes before the first tensor's field.
        reply: that was read by protobuf; its tensors' bytes are not used.
        frames: for each tensor the field header before its bytes, where that starts, and where the
            bytes start and end.
    """

    size: int
    head: bytes
    reply: InferReply
    frames: tuple[tuple[bytes, int, int, int], ...]


class ReplyReader:
    """Reads replies; safe for threads.

    Taking a message apart by protobuf costs more than all our checks. A reply of the size of one
    before, with the same bytes everywhere but in its tensors, is the same message but for those.
    """

    def __init__(self) -> None:
        """Know no reply yet."""
        self._known: _Layout | None = None

    def read(self, data: bytes) -> InferReply:
        """Return the reply in `data`, as `from_wire` does; raises ProtocolError as it does."""
        known = self._known
        if known is not None and len(data) == known.size and data.startswith(known.head):
            same = [data.startswith(header, at) for header, at, _, _ in known.frames]
            if all(same):
                outputs = [
                    Tensor(tensor.name, tensor.datatype, tensor.shape, data[start:end])
                    for tensor, (_, _, start, end) in zip(
                        known.reply.outputs, known.frames, strict=True
                    )
                ]
                return InferReply(known.reply.model, known.reply.version, tuple(outputs))
        try:
            message = service_pb2.ModelInferResponse.FromString(data)
        except DecodeError as error:
            raise ProtocolError(f"the reply is no message of Triton's: {error}") from error
        reply = from_wire(message)
        self._known = _layout(data, reply)
        return reply


def _layout(data: bytes, reply: InferReply) -> _Layout | None:
    """Return how `data` holds `reply`; None where its tensors are not all at its end."""
    contents = [(field_header(_CONTENTS, len(t.data)), t.data) for t in reply.outputs]
    at = len(data) - sum(len(header) + len(content) for header, content in contents)
    head, frames = data[: max(at, 0)], []
    for header, content in contents:
        start = at + len(header)
        frames.append((header, at, start, start + len(content)))
        at = start + len(content)
    framed = b"".join(part for pair in contents for part in pair)
    if head + framed != data or _has_contents(head):
        return None
    return _Layout(len(data), head, reply, tuple(frames))


def _has_contents(head: bytes) -> bool:
    """Return whether `head`, as a message, holds a tensor's bytes or is none."""
    try:
        message = service_pb2.ModelInferResponse.FromString(head)
    except DecodeError:  # cut in the middle of a field
        return True
    return bool(message.raw_output_contents)
