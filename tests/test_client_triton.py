"""Both clients against a real Triton: the answers, a pinned version, a stop and a new start."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from bandstop.client import AsyncClient, Client, Unreachable
from bandstop.serve.errors import MachineError
from bandstop.serve.triton import Triton, find_server, start

pytestmark = pytest.mark.triton
LABELS = tuple(f"class {i}" for i in range(10))


def write_repository(root: Path, side: int = 4) -> Path:
    """A baked model `rows`: the logits are the first ten pixels of an image `side` wide."""
    folder = root / "rows"
    (folder / "1").mkdir(parents=True)
    nodes = [
        helper.make_node("Flatten", ["image"], ["pixels"]),
        helper.make_node("Slice", ["pixels", "from", "to", "axis"], ["logits"]),
    ]
    constants = {"from": np.array([0]), "to": np.array([10]), "axis": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")
    preprocess = {
        "size": [side, side], "channels": 3, "mean": [0.0] * 3, "std": [1.0] * 3, "resize": None,
        "interpolation": "nearest", "input": "float32",
    }  # fmt: skip
    parameters = {
        "labels.1": json.dumps(LABELS),
        "digest.1": "0" * 64,
        "preprocess.1": json.dumps(preprocess),
        "allow_none.1": "false",
    }
    (folder / "config.pbtxt").write_text(
        'name: "rows"\nbackend: "onnxruntime"\nmax_batch_size: 8\n'
        f'input [ {{ name: "image" data_type: TYPE_FP32 dims: [3, {side}, {side}] }} ]\n'
        'output [ { name: "logits" data_type: TYPE_FP32 dims: [10] } ]\n'
        + "".join(
            f'parameters {{ key: "{key}" value: {{ string_value: {json.dumps(value)} }} }}\n'
            for key, value in parameters.items()
        )
    )
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with contextlib.suppress(MachineError):
        find_server()
        with start(write_repository(tmp_path_factory.mktemp("client") / "repo")) as triton:
            yield triton
        return
    pytest.skip("no tritonserver is installed")


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((50, 3, 4, 4), np.float32)


def test_both_clients_answer_what_the_graph_says(
    server: Triton, images: NDArray[np.float32]
) -> None:
    expected = images.reshape(50, -1)[:, :10]

    async def ask() -> tuple[NDArray[np.float32], list[str]]:
        async with AsyncClient(server.url, "rows") as client:
            names = [one.names[0] async for one in client.stream(iter(images), top_k=1)]
            return await client.logits(images), names

    logits, names = asyncio.run(ask())
    np.testing.assert_array_equal(logits, expected)
    assert names == [LABELS[i] for i in expected.argmax(axis=1)]
    with Client(server.url, "rows", version="1") as client:
        assert client.ready()
        np.testing.assert_array_equal(client.logits(images), expected)
        assert [one.names[0] for one in client.stream(iter(images), top_k=1)] == names


def test_nobody_at_the_address_is_told(server: Triton) -> None:
    with Client(f"{server.url}.gone", "rows") as client:
        assert not client.ready()
        with pytest.raises(Unreachable):
            client.metadata()
