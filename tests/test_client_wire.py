"""Messages as bytes: sent as protobuf would send them, read as it would read them."""

import threading

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from bandstop.client import ProtocolError
from bandstop.client.layout import ReplyReader
from bandstop.client.messages import field_header, from_wire, to_bytes
from bandstop.client.wire import InferReply, InferRequest, Tensor, encode


def reply(
    fill: int = 1, rows: int = 2, version: str = "1", identity: str = ""
) -> service_pb2.ModelInferResponse:
    message = service_pb2.ModelInferResponse(model_name="m", model_version=version, id=identity)
    for name, datatype, shape, size in (
        ("logits", "FP32", (rows, 50), rows * 200),
        ("applied_forget_class", "INT64", (rows, 1), rows * 8),
    ):
        message.outputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_output_contents.append(bytes([fill]) * size)
    return message


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
def test_a_request_is_what_protobuf_makes_of_it(size: int) -> None:
    image = encode("image", np.arange(size, dtype=np.uint8), "UINT8")
    forget = encode("forget_class", np.array([[3], [4]]), "INT64")
    request = InferRequest("m", "7", (image, forget), ("logits", "applied_forget_class"))
    message = service_pb2.ModelInferRequest(model_name="m", model_version="7")
    for tensor in request.inputs:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.data)
    for name in request.outputs:
        message.outputs.add(name=name)
    assert service_pb2.ModelInferRequest.FromString(to_bytes(request)) == message
    if size:
        framed = service_pb2.ModelInferRequest(raw_input_contents=[image.data])
        assert framed.SerializeToString() == field_header(7, size) + image.data


def test_requests_that_differ_in_anything_do_not_share_their_beginning() -> None:
    base = InferRequest("m", "", (Tensor("image", "UINT8", (4,), b"1234"),), ("logits",))
    others = [
        base._replace(model="n"),
        base._replace(version="2"),
        base._replace(outputs=("logits", "applied_forget_class")),
        base._replace(inputs=(Tensor("images", "UINT8", (4,), b"1234"),)),
        base._replace(inputs=(Tensor("image", "FP32", (4,), b"1234"),)),
        base._replace(inputs=(Tensor("image", "UINT8", (1, 4), b"1234"),)),
    ]
    assert len({to_bytes(one) for one in (base, *others)}) == 7


@pytest.mark.parametrize(
    "follow",
    [
        reply(2),
        reply(9),
        reply(2, version="2"),
        reply(2, rows=3),
        reply(2, identity="x"),
        service_pb2.ModelInferResponse(model_name="m", model_version="1"),
    ],
)
def test_a_reply_is_read_as_protobuf_reads_it_whatever_came_before(
    follow: service_pb2.ModelInferResponse,
) -> None:
    reader = ReplyReader()
    for message in (reply(1), reply(3), follow, reply(4), follow):
        assert reader.read(message.SerializeToString()) == from_wire(message)


def test_a_known_layout_does_not_hide_a_change_anywhere_but_in_the_tensors() -> None:
    data = reply(1).SerializeToString()
    for at in range(len(data)):
        reader = ReplyReader()
        reader.read(data)
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert outcome(reader, changed) == outcome(ReplyReader(), changed)


def outcome(reader: ReplyReader, data: bytes) -> InferReply | str:
    try:
        return reader.read(data)
    except ProtocolError as error:
        return str(error)


def test_tensors_that_are_not_at_the_end_are_read_all_the_same() -> None:
    parts = reply(1), service_pb2.ModelInferResponse(id="late")
    reader = ReplyReader()
    for fill in (1, 2):
        data = reply(fill).SerializeToString() + parts[1].SerializeToString()
        assert reader.read(data).outputs == from_wire(reply(fill)).outputs


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x7f", reply().SerializeToString()[:-1]])
def test_bytes_that_are_no_message_are_a_protocol_error(data: bytes) -> None:
    reader = ReplyReader()
    reader.read(reply().SerializeToString())
    with pytest.raises(ProtocolError, match="no message"):
        reader.read(data)


def test_replies_of_several_threads_do_not_mix() -> None:
    reader = ReplyReader()
    wrong: list[int] = []

    def read(rows: int, version: str) -> None:
        message = reply(rows, rows, version)
        data, wanted = message.SerializeToString(), from_wire(message)
        wrong.extend(n for n in range(2000) if reader.read(data) != wanted)

    threads = [threading.Thread(target=read, args=(n % 3 + 1, str(n % 2))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
