"""What every method promises, whatever it does: one row a method, the same tests for all."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bandstop.edit import artifact as artifacts
from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.arch import build
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.edits import Edit, GateEdit, WeightEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits
from bandstop.edit.logit_mask import LogitMask
from bandstop.edit.method import Method, Splits
from bandstop.edit.methods import METHODS
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.edit.train import Recipe, train
from bandstop.edit.unlearn import every_class, unlearn
from bandstop.edit.wf_net import WFNet

ARCH = Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"})
DIGITS = load_data("digits")
PREP = DIGITS.preprocess
NAMES = ("0", "1", "2", "3")
FOUR = range(4)  # four classes are enough to tell forgetting from damage
DATA = DataSplits(
    DIGITS.train.of_classes(FOUR),
    DIGITS.validate.of_classes(FOUR),
    DIGITS.test.of_classes(FOUR),
    NAMES,
    PREP,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A method at a setting that suits the toy data, and what it is allowed to leave and cost."""

    method: Method
    all_at_once: bool = False
    forget_acc: float = 0.02
    retain_loss: float = 0.03


CASES = {
    "svd": Case(SVD()),
    "wf-net": Case(WFNet(steps=150, batch=64), all_at_once=True),
    "logit-mask": Case(LogitMask(), forget_acc=0.0, retain_loss=0.0),
}


@pytest.fixture(scope="module")
def base() -> Classifier:
    recipe = Recipe(epochs=8, batch=32, lr=0.1, shift=1, flip=False)
    return train(ARCH, DATA, recipe, seed=0)


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(name: str, model: Classifier, c: int = 2) -> ForgetRequest:
    return every_class(model) if CASES[name].all_at_once else ForgetRequest(classes=(c,))


@pytest.fixture(scope="module")
def edited(name: str, base: Classifier) -> tuple[Classifier, Edit]:
    return unlearn(base, CASES[name].method, asked(name, base), DATA)


def applied(folded: Classifier, edit: Edit, c: int) -> Classifier:
    forget = [c] if isinstance(edit, GateEdit) else []
    network = fold_batchnorm(Classifier(build(ARCH, 4, 1, (8, 8)), ARCH, PREP, NAMES))
    network.network.load_state_dict(fold(folded.network.state_dict(), edit, forget))
    return network


def test_every_method_has_its_row() -> None:
    assert CASES.keys() == METHODS.keys()
    assert all(METHODS[name].name == name for name in METHODS)


def test_the_model_is_left_bit_for_bit(name: str, base: Classifier) -> None:
    folded = fold_batchnorm(base)
    before = {k: v.clone() for k, v in folded.state_dict().items()}
    state = torch.get_rng_state()
    request = asked(name, base)
    data = Splits(
        DATA.train.of_classes(request.classes),
        DATA.train.without_classes(request.classes),
        DATA.validate,
    )
    quick = CASES[name].method
    if isinstance(quick, WFNet):
        quick = replace(quick, steps=3)
    quick(folded, request, data)
    assert all(torch.equal(v, before[k]) for k, v in folded.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folded.modules())
    assert all(p.grad is None and p.requires_grad for p in folded.network.parameters())


def test_the_same_seed_gives_the_same_edit(
    name: str, base: Classifier, edited: tuple[Classifier, Edit]
) -> None:
    _, again = unlearn(base, CASES[name].method, asked(name, base), DATA)
    one, two = (e.masks if isinstance(e, GateEdit) else e.weights for e in (edited[1], again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_names_and_shapes_fit_the_network(edited: tuple[Classifier, Edit]) -> None:
    folded, edit = edited
    state = folded.network.state_dict()
    if isinstance(edit, WeightEdit):
        assert all(state[k].shape == v.shape for k, v in edit.weights.items())
        assert all(state[k].dtype == v.dtype for k, v in edit.weights.items())
    else:
        assert all(m.shape == (4, len(state[k])) for k, m in edit.masks.items())
        assert all(bool(((m >= 0) & (m <= 1)).all()) for m in edit.masks.values())


def test_it_forgets_and_retains(
    name: str, base: Classifier, edited: tuple[Classifier, Edit]
) -> None:
    case, (folded, edit) = CASES[name], edited
    labels = DATA.test.labels
    for c in range(4) if case.all_at_once else (2,):
        before = forget_and_retain(logits(base, DATA.test).argmax(1), labels, [c])
        after = forget_and_retain(
            logits(applied(folded, edit, c), DATA.test).argmax(1), labels, [c]
        )
        assert before[0] >= 0.9
        assert after[0] <= case.forget_acc
        assert after[1] >= before[1] - case.retain_loss


def test_it_survives_its_artifact(
    name: str, base: Classifier, edited: tuple[Classifier, Edit], tmp_path: Path
) -> None:
    folded, edit = edited
    artifacts.save_artifact(
        tmp_path / "a",
        folded,
        edit,
        method=CASES[name].method,
        request=asked(name, base),
        parent=base,
    )
    back = artifacts.load_artifact(tmp_path / "a")
    image = example(base, 4)
    if back.gates is None:
        assert torch.equal(back.model(image), applied(folded, edit, 2)(image))
    else:
        other = applied(back.model, back.gates, 1)
        assert torch.equal(other(image), applied(folded, edit, 1)(image))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (replace(DATA, class_names=("a", "b", "c", "d")), "class names"),
        (replace(DATA, preprocess=replace(PREP, size=(9, 8))), r"image size: model \(8, 8\)"),
        (replace(DATA, preprocess=replace(PREP, channels=3)), "channels: model 1, data 3"),
    ],
)
def test_model_and_data_must_fit(base: Classifier, data: DataSplits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unlearn(base, SVD(), ForgetRequest((1,)), data)
