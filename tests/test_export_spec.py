"""What an artifact cannot give is refused before any work, all misfits at once."""

from dataclasses import replace

import pytest

from bandstop.edit.artifact import Artifact
from bandstop.edit.edits import GateEdit
from bandstop.export.errors import SpecError
from bandstop.export.spec import ExportSpec, check_original, check_spec, signature
from tests.releases import base, gates_artifact, weights_artifact


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return gates_artifact(tmp_path_factory.mktemp("artifacts") / "gates")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return weights_artifact(tmp_path_factory.mktemp("artifacts") / "weights")


FOR_GATES = {
    "gated": (ExportSpec("gated"), None),
    "two slots": (ExportSpec("gated", forget_slots=2, allow_none=True, always_forget=(1,)), None),
    "baked row": (ExportSpec("baked", forget=(1, 2)), None),
    "baked nothing": (ExportSpec("baked"), "forget: name the classes"),
    "gated with classes": (ExportSpec("gated", forget=(1,)), "forget: only for baked"),
    "baked with slots": (ExportSpec("baked", forget=(1,), forget_slots=2), "forget_slots: only"),
    "baked with none": (ExportSpec("baked", forget=(1,), allow_none=True), "allow_none: only"),
    "baked always": (ExportSpec("baked", forget=(1,), always_forget=(2,)), "always_forget: only"),
    "unknown class": (ExportSpec("baked", forget=(4,)), "expected classes 0..3, got [4]"),
    "negative class": (ExportSpec("gated", always_forget=(-1,)), "always_forget: expected cl"),
    "class twice": (ExportSpec("baked", forget=(1, 1)), "each class once"),
    "all classes": (ExportSpec("baked", forget=(0, 1, 2, 3)), "leave at least one"),
    "no slot": (ExportSpec("gated", forget_slots=0), "forget_slots: expected 1..4, got 0"),
    "too many slots": (ExportSpec("gated", forget_slots=5), "forget_slots: expected 1..4"),
    "no batch": (ExportSpec("gated", max_batch_size=0), "max_batch_size: expected 1..1024"),
    "steps beyond halves": (
        ExportSpec("gated", table="uint16", precision="fp16"),
        "table: uint16 counts to 65535, fp16 to 65504; take float16",
    ),
    "original": (ExportSpec("original"), "an artifact is exported gated or baked"),
}


@pytest.mark.parametrize("case", FOR_GATES)
def test_what_gates_can_give(gates: Artifact, case: str) -> None:
    spec, said = FOR_GATES[case]
    if said is None:
        check_spec(spec, gates)
        return
    with pytest.raises(SpecError) as caught:
        check_spec(spec, gates)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_weights_are_baked_already(weights: Artifact) -> None:
    check_spec(ExportSpec("baked"), weights)
    with pytest.raises(SpecError, match="svd edits weights and has no gates; export it baked"):
        check_spec(ExportSpec("gated"), weights)
    with pytest.raises(SpecError, match="already in its weights"):
        check_spec(ExportSpec("baked", forget=(1,)), weights)


def test_gates_of_some_layers_are_served_but_not_of_other_things(gates: Artifact) -> None:
    assert gates.gates is not None
    masks = dict(gates.gates.masks)
    some = {name: mask for name, mask in masks.items() if name.startswith("stages.1.")}
    check_spec(ExportSpec("gated"), Artifact(gates.manifest, gates.model, GateEdit(some)))
    del masks["conv1.weight"]
    other = GateEdit({**masks, "fc.weight": masks["conv1.bias"]})
    odd = Artifact(gates.manifest, gates.model, other)
    check_spec(ExportSpec("baked", forget=(1,)), odd)
    with pytest.raises(SpecError, match=r"mode: conv1\.bias, fc\.weight: no graph has such gates"):
        check_spec(ExportSpec("gated"), odd)


def test_a_backbone_that_adapted_to_its_masks_is_not_served_without_them(gates: Artifact) -> None:
    params = {**gates.manifest.params, "bn": "adapt"}
    adapted = replace(gates, manifest=gates.manifest.model_copy(update={"params": params}))
    check_spec(ExportSpec("gated"), adapted)
    with pytest.raises(SpecError, match="allow_none: BatchNorm adapted to the masks"):
        check_spec(ExportSpec("gated", allow_none=True), adapted)


def test_all_misfits_come_in_one_line(gates: Artifact) -> None:
    spec = ExportSpec("baked", forget=(9,), allow_none=True, max_batch_size=5000)
    with pytest.raises(SpecError) as caught:
        check_spec(spec, gates)
    assert str(caught.value).count(";") == 2
    assert "\n" not in str(caught.value)


def test_an_original_forgets_nothing() -> None:
    check_original(ExportSpec("original"), 4)
    for spec in (ExportSpec("baked"), ExportSpec("original", forget=(1,))):
        with pytest.raises(SpecError):
            check_original(spec, 4)


def test_the_interface_follows_the_spec() -> None:
    prep = base().preprocess

    def shown(spec: ExportSpec) -> list[tuple[str, str, list[int]]]:
        inputs, outputs = signature(spec, prep, 4)
        return [(t.name, t.dtype, t.shape) for t in (*inputs, *outputs)]

    assert shown(ExportSpec("baked", input="uint8")) == [
        ("image", "UINT8", [8, 8, 1]),
        ("logits", "FP32", [4]),
    ]
    assert shown(ExportSpec("gated", forget_slots=3)) == [
        ("image", "FP32", [1, 8, 8]),
        ("forget_class", "INT64", [3]),
        ("logits", "FP32", [4]),
        ("applied_forget_class", "INT64", [3]),
    ]
