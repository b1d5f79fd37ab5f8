"""A file that computes something else stops `bandstop export` with 4, and nothing is written.

A fault is put in where the graph is made, of a network or of masks that are not the artifact's.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bandstop.cli.main import main
from bandstop.edit.artifact import save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, WeightEdit, edited
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.export import release as releases
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.onnx_file import to_onnx, with_weights
from bandstop.export.record import TensorRecord
from bandstop.export.record_files import load_release
from bandstop.export.release_graph import graph_of
from bandstop.export.spec import ExportSpec
from tests.releases import base, gates_artifact

Out = pytest.CaptureFixture[str]
Networks = tuple[Classifier, GateEdit | None]
Fault = Callable[[Classifier, GateEdit | None], Networks]
Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
LATER, NEXT = "stages.1.0.conv1", "stages.1.0.conv2"  # of one width
EDITED = ("conv1.weight", f"{LATER}.weight", "fc.weight")


def of_masks(change: Change) -> Fault:
    """Let the tables of masks, parameter name -> (classes, channels), be changed."""

    def fault(model: Classifier, gates: GateEdit | None) -> Networks:
        assert gates is not None
        return model, replace(gates, masks={**gates.masks, **change(dict(gates.masks))})

    return fault


def of_weights(change: Change) -> Fault:
    """Let the network's tensors be changed."""

    def fault(model: Classifier, gates: GateEdit | None) -> Networks:
        wrong = change(model.network.state_dict())
        return edited(model, WeightEdit(wrong)), gates

    return fault


def wrong_row(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Row 2 of one table is row 1."""
    table = masks[f"{LATER}.weight"]
    return {f"{LATER}.weight": table[[0, 1, 1, 3]]}


def last_row_wrong(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([table[:3], table[2:3]]) for name, table in masks.items()}


def rows_exchanged(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: table[[1, 0, 2, 3]] for name, table in masks.items()}


def exchanged(one: str, other: str) -> Change:
    return lambda masks: {one: masks[other], other: masks[one]}


def columns_exchanged(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    table = masks[f"{LATER}.weight"]
    return {f"{LATER}.weight": table[:, [1, 0, *range(2, table.shape[1])]]}


def unfolded_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{LATER}.weight": base().network.state_dict()[f"{LATER}.weight"]}


def unfolded_shift(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{LATER}.bias": torch.zeros_like(state[f"{LATER}.bias"])}


def stale(name: str) -> Change:
    """One layer is as it was before the edit."""
    return lambda _: {name: fold_batchnorm(base()).network.state_dict()[name]}


def row_not_folded(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """One layer is baked without its mask."""
    return {f"{LATER}.weight": torch.ones_like(masks[f"{LATER}.weight"])}


MODES: dict[str, list[str]] = {"gated": [], "baked": ["--forget", "1"], "weights": []}
FAULTS: dict[str, tuple[str, Fault]] = {
    "a wrong row": ("gated", of_masks(wrong_row)),
    "the last row wrong": ("gated", of_masks(last_row_wrong)),
    "two rows exchanged": ("gated", of_masks(rows_exchanged)),
    "tables of kernel and bias exchanged": (
        "gated",
        of_masks(exchanged(f"{LATER}.weight", f"{LATER}.bias")),
    ),
    "tables of two layers exchanged": (
        "gated",
        of_masks(exchanged(f"{LATER}.weight", f"{NEXT}.weight")),
    ),
    "columns exchanged": ("gated", of_masks(columns_exchanged)),
    "a scale not folded": ("weights", of_weights(unfolded_scale)),
    "a shift not folded": ("weights", of_weights(unfolded_shift)),
    "a scale not folded, gated": ("gated", of_weights(unfolded_scale)),
    "a shift not folded, gated": ("gated", of_weights(unfolded_shift)),
    "a stale first layer": ("weights", of_weights(stale("conv1.weight"))),
    "a stale layer": ("weights", of_weights(stale(f"{LATER}.weight"))),
    "a stale head": ("weights", of_weights(stale("fc.weight"))),
    "a row of another class baked": ("baked", of_masks(rows_exchanged)),
    "a mask not baked": ("baked", of_masks(row_not_folded)),
}


class Maker:
    """Makes files as `to_onnx` does, of one kind of graph by changing the weights of the first."""

    def __init__(self) -> None:
        self.first: dict[type, bytes] = {}

    def __call__(
        self,
        graph: PlainGraph | GatedGraph,
        inputs: Sequence[TensorRecord],
        outputs: Sequence[TensorRecord],
    ) -> bytes:
        if type(graph) not in self.first:
            self.first[type(graph)] = to_onnx(graph, inputs, outputs)
        file = with_weights(self.first[type(graph)], graph)
        assert file is not None
        return file


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker()


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artifact of gates, and one of an edit of the first layers and of the last."""
    folder = tmp_path_factory.mktemp("artifacts")
    gates_artifact(folder / "gates")
    parent = base()
    folded = fold_batchnorm(parent)
    state = folded.network.state_dict()
    edit = WeightEdit({name: state[name] * 0.5 for name in EDITED})
    request = ForgetRequest(classes=(2,))
    save_artifact(folder / "weights", folded, edit, method=SVD(), request=request, parent=parent)
    return folder


def export(artifacts: Path, mode: str, out: Path) -> int:
    kind, asked = ("weights", "baked") if mode == "weights" else ("gates", mode)
    argv = ["export", str(artifacts / kind), "--mode", asked, *MODES[mode]]
    return main([*argv, "--max-batch-size", "8", "--out", str(out)])


def made_with(fault: Fault) -> Callable[..., object]:
    def make(
        model: Classifier, gates: GateEdit | None, spec: ExportSpec
    ) -> tuple[PlainGraph | GatedGraph, dict[str, str] | None]:
        return graph_of(*fault(model, gates), spec)

    return make


@pytest.mark.parametrize("case", FAULTS)
def test_a_faulty_file_exits_with_four_and_leaves_nothing(
    case: str,
    artifacts: Path,
    maker: Maker,
    tmp_path: Path,
    capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode, fault = FAULTS[case]
    monkeypatch.setattr(releases, "to_onnx", maker)
    monkeypatch.setattr(releases, "graph_of", made_with(fault))
    assert export(artifacts, mode, tmp_path / "release") == 4
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.strip().splitlines()
    assert line.startswith("error: parity: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_same_without_a_fault_exits_with_zero(
    mode: str, artifacts: Path, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "to_onnx", maker)
    monkeypatch.setattr(releases, "graph_of", made_with(lambda model, gates: (model, gates)))
    assert export(artifacts, mode, tmp_path / "release") == 0
    assert load_release(tmp_path / "release").record.parity.max_abs <= 1e-4
