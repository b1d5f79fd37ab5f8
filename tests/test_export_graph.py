"""What a served graph answers, asked through ONNX Runtime; and what its file holds."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.export.graph import GatedGraph, PlainGraph, served_names
from bandstop.export.onnx_file import to_onnx
from bandstop.export.parity import masked_logits
from bandstop.export.spec import ExportSpec, signature
from tests.releases import base, gate_edit

CLASSES = 4
TOLERANCE = 1e-5
Array = npt.NDArray[np.generic]


class Served(NamedTuple):
    """A file and how to ask it."""

    file: bytes
    session: ort.InferenceSession

    def ask(self, image: Tensor, forget: list[list[int]]) -> tuple[Array, Array]:
        feeds = {"image": image.numpy(), "forget_class": np.array(forget, dtype=np.int64)}
        logits, applied = self.session.run(None, feeds)
        return logits, applied

    def weights(self) -> dict[str, Array]:
        model = onnx.load_model_from_string(self.file)
        return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def served(graph: GatedGraph | PlainGraph, spec: ExportSpec) -> Served:
    inputs, outputs = signature(spec, base().preprocess, CLASSES)
    file = to_onnx(graph, inputs, outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4  # a refusal by ONNX Runtime is expected in one test
    return Served(file, ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]))


@pytest.fixture(scope="module")
def model() -> Classifier:
    return fold_batchnorm(base())


@pytest.fixture(scope="module")
def gates(model: Classifier) -> GateEdit:
    return gate_edit(model)


@pytest.fixture(scope="module")
def single(model: Classifier, gates: GateEdit) -> Served:
    spec = ExportSpec("gated")
    return served(GatedGraph(model, gates, spec), spec)


@pytest.fixture(scope="module")
def double(model: Classifier, gates: GateEdit) -> Served:
    """Two slots, with the row of nothing, class 1 always forgotten, bytes as input."""
    spec = ExportSpec("gated", forget_slots=2, allow_none=True, always_forget=(1,), input="uint8")
    return served(GatedGraph(model, gates, spec), spec)


def as_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def test_each_sample_has_its_own_row(single: Served, model: Classifier, gates: GateEdit) -> None:
    image = example(model, 8)
    rows = [3, 0, 2, 1, 1, 0, 3, 2]
    logits, applied = single.ask(image, [[r] for r in rows])
    assert applied.tolist() == [[r] for r in rows]
    for i, row in enumerate(rows):
        wanted = masked_logits(model, gates, [row], image[i : i + 1])[0]
        other = masked_logits(model, gates, [(row + 1) % CLASSES], image[i : i + 1])[0]
        assert logits[i] == pytest.approx(wanted.numpy(), abs=TOLERANCE)
        assert np.abs(logits[i] - other.numpy()).max() > 1e-2


@pytest.mark.parametrize("bad", [-1, 4, -4, 5, 2**31, 2**32 + 3, 2**62, -(2**63)])
def test_a_bad_index_refuses_its_row_alone(single: Served, model: Classifier, bad: int) -> None:
    image = example(model, 4)
    wanted, _ = single.ask(image, [[2], [0], [1], [3]])
    logits, applied = single.ask(image, [[2], [bad], [1], [3]])
    assert np.isnan(logits[1]).all()
    assert applied.tolist() == [[2], [-1], [1], [3]]
    others = [0, 2, 3]
    assert (logits[others] == wanted[others]).all()


def test_one_bad_slot_refuses_the_whole_row(double: Served, model: Classifier) -> None:
    pixels = as_bytes(example(model, 3))
    logits, applied = double.ask(pixels, [[0, 5], [-1, 2], [4, 2]])
    assert np.isnan(logits[:2]).all()
    assert np.isfinite(logits[2]).all()
    assert applied.tolist() == [[-1, -1], [-1, -1], [4, 2]]


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_any_batch_size_is_served(single: Served, model: Classifier, batch: int) -> None:
    image = example(model, batch)
    logits, _ = single.ask(image, [[i % CLASSES] for i in range(batch)])
    alone, _ = single.ask(image[:1], [[0]])
    assert logits.shape == (batch, CLASSES)
    assert logits[0] == pytest.approx(alone[0], abs=TOLERANCE)


def test_slots_are_joined_by_their_minimum(
    double: Served, model: Classifier, gates: GateEdit
) -> None:
    pixels = as_bytes(example(model, 5))
    image = pixels.permute(0, 3, 1, 2).float() / 255
    asked = [[0, 2], [2, 0], [3, 3], [4, 2], [4, 4]]
    logits, applied = double.ask(pixels, asked)
    assert applied.tolist() == asked
    sets = [[0, 1, 2], [0, 1, 2], [1, 3], [1, 2], [1]]  # class 1 is always among them
    for i, forget in enumerate(sets):
        wanted = masked_logits(model, gates, forget, image[i : i + 1])[0].numpy()
        assert logits[i] == pytest.approx(wanted, abs=TOLERANCE)


def test_nothing_can_be_asked_for_only_where_allowed(
    single: Served, double: Served, model: Classifier
) -> None:
    image = example(model, 1)
    assert np.isnan(single.ask(image, [[CLASSES]])[0]).all()
    assert np.isfinite(double.ask(as_bytes(image), [[CLASSES, CLASSES]])[0]).all()


def test_rows_without_the_class_always_forgotten_are_not_in_the_file(
    double: Served, gates: GateEdit, model: Classifier
) -> None:
    table = double.weights()["gates.masks"]
    names = [n for n in model.network.state_dict() if n in gates.masks]
    always = torch.cat([gates.masks[n][1] for n in names]).numpy()
    assert table.shape == (CLASSES + 1, len(always))
    assert (table <= always).all()
    assert (table[CLASSES] == always).all()


def test_weights_are_called_as_in_the_network(single: Served, model: Classifier) -> None:
    weights = single.weights()
    for name, value in model.network.state_dict().items():
        assert (weights[name] == value.numpy()).all(), name
    ours = {"gates.masks", "gates.ids", "gates.refused", "preprocess.mean", "preprocess.std"}
    others = {n for n in weights if not n.startswith("constant_")} - ours
    assert others == set(model.network.state_dict())


def test_the_file_tells_nothing_of_where_it_was_made(single: Served) -> None:
    for trace in (b"site-packages", b"forward", b".py", b"pkg.torch", str(Path.cwd()).encode()):
        assert trace not in single.file


def test_masks_are_joined_before_any_weight(double: Served) -> None:
    nodes = onnx.load_model_from_string(double.file).graph.node
    made = {name: node for node in nodes for name in node.output}
    (split,) = (node for node in nodes if node.op_type == "Split")
    minimum = made[split.input[0]]
    assert minimum.op_type == "ReduceMin"
    gather = made[minimum.input[0]]
    assert (gather.op_type, gather.input[0]) == ("Gather", "gates.masks")


def test_the_range_is_checked_before_anything_is_looked_up(single: Served) -> None:
    graph = onnx.load_model_from_string(single.file).graph
    readers = {n.op_type for n in graph.node if "forget_class" in n.input}
    assert readers == {"GreaterOrEqual", "Less", "Where"}
    assert "ReduceMin" not in {n.op_type for n in graph.node}


def test_a_plain_graph_takes_bytes_as_well(model: Classifier) -> None:
    spec = ExportSpec("baked", input="uint8")
    graph = PlainGraph(model, spec)
    assert set(served_names(graph).values()) >= set(model.network.state_dict())
    plain = served(graph, spec)
    image = (example(model, 3) * 255).round() / 255
    (logits,) = plain.session.run(None, {"image": as_bytes(image).numpy()})
    with torch.no_grad():
        assert logits == pytest.approx(model(image).numpy(), abs=TOLERANCE)
    assert not any(name.startswith("gates") for name in plain.weights())
