import pytest
import torch

from bandstop.edit.edits import Edit, GateEdit, WeightEdit, fold
from bandstop.edit.errors import InputError

STATE = {"conv.weight": torch.ones(2, 1, 1, 1), "conv.bias": torch.tensor([1.0, -1.0])}
GATES = GateEdit(
    {
        "conv.weight": torch.tensor([[0.5, 1.0], [1.0, 0.25]]),
        "conv.bias": torch.tensor([[0.1, 1.0], [1.0, 0.2]]),
    }
)


def test_weight_edit_replaces_only_what_it_names() -> None:
    folded = fold(STATE, WeightEdit({"conv.bias": torch.zeros(2)}))
    assert torch.equal(folded["conv.bias"], torch.zeros(2))
    assert folded["conv.weight"] is STATE["conv.weight"]
    assert STATE["conv.bias"].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("forget", "weight", "bias"),
    [
        ((0,), [0.5, 1.0], [0.1, -1.0]),
        ((1,), [1.0, 0.25], [1.0, -0.2]),
        # the minimum is over masks, not over weight times mask: the negative bias must shrink too
        ((0, 1), [0.5, 0.25], [0.1, -0.2]),
        ((1, 0, 1), [0.5, 0.25], [0.1, -0.2]),
    ],
)
def test_gates_fold_by_the_minimum_over_masks(
    forget: tuple[int, ...], weight: list[float], bias: list[float]
) -> None:
    folded = fold(STATE, GATES, forget)
    assert folded["conv.weight"].flatten().tolist() == pytest.approx(weight)
    assert folded["conv.bias"].tolist() == pytest.approx(bias)


@pytest.mark.parametrize(
    ("edit", "forget", "message"),
    [
        (WeightEdit({"conv.bias": torch.zeros(2)}), (1,), "no rows"),
        (WeightEdit({"fc.bias": torch.zeros(2)}), (), "fc.bias: not a parameter"),
        (WeightEdit({"conv.bias": torch.zeros(3)}), (), r"expected shape \(2,\), got \(3,\)"),
        (GateEdit({"conv.bias": torch.zeros(2, 3)}), (0,), "expected shape"),
        (GATES, (), r"rows 0\.\.1"),
        (GATES, (2,), r"rows 0\.\.1"),
        (GATES, (-1,), r"rows 0\.\.1"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(
    edit: Edit, forget: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fold(STATE, edit, forget)


def test_all_misfits_are_told_at_once() -> None:
    edit = WeightEdit({"a": torch.zeros(1), "conv.bias": torch.zeros(5)})
    with pytest.raises(InputError, match=r"a: not a parameter.*; conv\.bias: expected"):
        fold(STATE, edit)
