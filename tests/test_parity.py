"""Parity lets a faithful file through and catches each way in which a file can be wrong."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper

from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.export import parity
from bandstop.export.errors import ParityFailed
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.onnx_file import to_onnx
from bandstop.export.parity import check_parity
from bandstop.export.parity_asks import rows_to_check
from bandstop.export.session import CPU, CUDA, session
from bandstop.export.spec import ExportSpec, signature
from bandstop.export.tolerance import TOLERANCE
from tests.releases import base, gate_edit

GATED = ExportSpec("gated", forget_slots=2, allow_none=True, max_batch_size=16)
BAKED = ExportSpec("baked", forget=(1, 2), max_batch_size=16)


Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> Classifier:
    return fold_batchnorm(base())


@pytest.fixture(scope="module")
def gates(model: Classifier) -> GateEdit:
    return gate_edit(model)


@pytest.fixture(scope="module")
def file(model: Classifier, gates: GateEdit) -> bytes:
    inputs, outputs = signature(GATED, model.preprocess, model.num_classes)
    return to_onnx(GatedGraph(model, gates, GATED), inputs, outputs)


@pytest.fixture(scope="module")
def plain_file(model: Classifier) -> bytes:
    """The unmasked network in the place of a baked one."""
    inputs, outputs = signature(BAKED, model.preprocess, model.num_classes)
    return to_onnx(PlainGraph(model, BAKED), inputs, outputs)


def test_a_faithful_file_passes_and_the_check_is_told(
    file: bytes, model: Classifier, gates: GateEdit
) -> None:
    samples = (example(model, 3) * 255).to(torch.uint8)
    parity = check_parity(file, model, gates, GATED, samples)
    assert parity.max_abs <= 1e-5
    assert parity.tolerance == TOLERANCE
    assert (parity.rows, parity.rows_total, parity.images) == (5, 5, 11)
    assert parity.combinations == 10  # five pairs, each both ways round
    assert {1, 2, 5, 7, 16} <= set(parity.batches)
    assert parity.refused == 10
    assert parity.row_gap is not None
    assert parity.row_gap > 100 * TOLERANCE  # so a wrong row cannot go unseen


def edited(file: bytes, name: str, change: Callable[[Array], Array]) -> bytes:
    model = onnx.load_model_from_string(file)
    (tensor,) = (i for i in model.graph.initializer if i.name == name)
    value = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(value, name))
    return bytes(model.SerializeToString())


WRONG: dict[str, tuple[str, Callable[[Array], Array], str]] = {
    "rows swapped": ("gates.masks", lambda m: m[[1, 0, 2, 3, 4]], r"forget_class \[0, 0\]"),
    "last row wrong": (
        "gates.masks",
        lambda m: np.concatenate([m[:4], m[3:4]]),
        r"forget_class \[4, 4\]",
    ),
    "columns shifted": ("gates.masks", lambda m: np.roll(m, 1, axis=1), "a logit differs by"),
    "stale weight": ("conv1.weight", lambda w: w * 1.01, "a logit differs by"),
    "nan weight": ("fc.bias", lambda b: b * np.nan, "differs by inf"),
    "echo of the asked": ("gates.ids", lambda i: i[::-1], "says that it applied"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_caught(file: bytes, model: Classifier, gates: GateEdit, case: str) -> None:
    name, change, said = WRONG[case]
    with pytest.raises(ParityFailed, match=said) as caught:
        check_parity(edited(file, name, change), model, gates, GATED, None)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_noise_is_compared_beside_as_many_images_as_there_may_be(
    file: bytes, model: Classifier, gates: GateEdit
) -> None:
    mean = torch.tensor(model.preprocess.mean)[:, None, None]
    blank = mean.expand(64, *example(model, 1).shape[1:])  # the first layer makes nothing of them
    parity = check_parity(file, model, gates, GATED, blank)
    assert 8 < parity.images < 72  # of gates, not all of them are asked
    with pytest.raises(ParityFailed, match="a logit differs by"):
        check_parity(edited(file, *WRONG["stale weight"][:2]), model, gates, GATED, blank)


def test_slots_that_are_not_joined_by_minimum_are_caught(
    file: bytes, model: Classifier, gates: GateEdit
) -> None:
    graph = onnx.load_model_from_string(file)
    minimum = [n for n in graph.graph.node if n.op_type == "ReduceMin"][-1]
    minimum.op_type = "ReduceMax"
    with pytest.raises(ParityFailed, match="a logit differs by"):
        check_parity(graph.SerializeToString(), model, gates, GATED, None)


def test_a_graph_that_answers_a_bad_index_is_caught(
    file: bytes, model: Classifier, gates: GateEdit
) -> None:
    graph = onnx.load_model_from_string(file)
    (refusal,) = (n for n in graph.graph.node if n.output[0] == "logits")
    refusal.input[2] = refusal.input[1]  # the logits whether accepted or not
    with pytest.raises(ParityFailed, match="expected its row refused"):
        check_parity(graph.SerializeToString(), model, gates, GATED, None)


def test_a_baked_file_without_its_edit_is_caught(
    plain_file: bytes, model: Classifier, gates: GateEdit
) -> None:
    assert check_parity(plain_file, model, None, BAKED, None).rows_total == 1
    with pytest.raises(ParityFailed, match="image 0 in a batch of 1"):
        check_parity(plain_file, model, gates, BAKED, None)


def test_a_sample_of_many_rows_has_the_first_and_the_last() -> None:
    spec = ExportSpec("gated", allow_none=True)
    assert rows_to_check(spec, 100) == list(range(101))
    rows = rows_to_check(spec, 1000)
    assert (len(rows), rows[0], rows[-1]) == (100, 0, 1000)
    assert rows == sorted(set(rows))


class OnGpu:
    """A file that runs on the CPU and says that it runs on a GPU, where every logit is off."""

    def __init__(self, file: bytes, off: float, loaded: bool = True) -> None:
        self.runs = session(file)
        self.off = off
        self.loaded = loaded

    def get_providers(self) -> list[str]:
        return [CUDA, CPU] if self.loaded else [CPU]

    def run(self, names: None, feeds: dict[str, Array]) -> list[Array]:
        logits, *echo = self.runs.run(names, feeds)
        return [logits + np.float32(self.off), *echo]


def with_gpu(monkeypatch: pytest.MonkeyPatch, gpu: Callable[[bytes], OnGpu]) -> None:
    monkeypatch.setattr(parity, "providers", lambda: (CPU, CUDA))
    monkeypatch.setattr(
        parity, "session", lambda file, where: gpu(file) if where == CUDA else session(file)
    )


def test_a_gpu_is_held_to_the_same_tolerance(
    monkeypatch: pytest.MonkeyPatch, file: bytes, model: Classifier, gates: GateEdit
) -> None:
    with_gpu(monkeypatch, lambda file: OnGpu(file, off=TOLERANCE / 2))
    found = check_parity(file, model, gates, GATED, None)
    assert found.providers == [CPU, CUDA]
    assert TOLERANCE / 4 < found.max_abs <= TOLERANCE
    with_gpu(monkeypatch, lambda file: OnGpu(file, off=TOLERANCE * 2))
    with pytest.raises(ParityFailed, match="on CUDAExecutionProvider: a logit differs"):
        check_parity(file, model, gates, GATED, None)


def test_a_gpu_that_cannot_be_loaded_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file: bytes,
    model: Classifier,
    gates: GateEdit,
) -> None:
    with_gpu(monkeypatch, lambda file: OnGpu(file, off=1.0, loaded=False))
    found = check_parity(file, model, gates, GATED, None)
    assert found.providers == [CPU]
    assert "cannot load CUDAExecutionProvider here" in caplog.text
