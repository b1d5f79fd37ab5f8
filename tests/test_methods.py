"""What every method promises, whatever it does: one row a method, the same tests for all."""

import copy
import functools
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bandstop.edit.accuracy import accuracy, forget_and_retain, logits
from bandstop.edit.artifact import load_artifact, save_artifact
from bandstop.edit.baselines.bad_teacher import BadTeacher
from bandstop.edit.baselines.boundary_shrink import BoundaryShrink
from bandstop.edit.baselines.fine_tune import FineTune
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.baselines.neg_grad import NegGrad
from bandstop.edit.baselines.neg_grad_plus import NegGradPlus
from bandstop.edit.baselines.random_labels import RandomLabels
from bandstop.edit.baselines.retrain import Retrain
from bandstop.edit.baselines.salun import SalUn
from bandstop.edit.baselines.scrub import SCRUB
from bandstop.edit.baselines.ssd import SSD
from bandstop.edit.baselines.svd_head import SVDHead
from bandstop.edit.baselines.unsir import UNSIR
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data import load_data
from bandstop.edit.edits import Edit, GateEdit, WeightEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.l2ul import L2UL
from bandstop.edit.method import Method, split
from bandstop.edit.methods import METHODS, configured
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import SVD
from bandstop.edit.train import Recipe, train
from bandstop.edit.unlearn import every_class, unlearn
from bandstop.edit.wf_net import WFNet

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
class Network:
    """A small network and how it learns four digits in seconds."""

    arch: Arch
    recipe: Recipe


NETWORKS = {
    "cnn": Network(
        Arch("bandstop:resnet", {"width": 16, "blocks": "1-1"}),
        Recipe(epochs=8, batch=32, lr=0.1, shift=1, flip=False),
    ),
    "vit": Network(
        Arch("bandstop:vit", {"patch": 4, "dim": 32, "depth": 2, "heads": 2}),
        Recipe(epochs=25, batch=32, optimizer="adamw", lr=3e-3, shift=0, flip=False),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A method at a setting that suits the toy data, and what it is allowed to leave and cost.

    Attributes:
        method: the setting.
        all_at_once: whether it takes no request.
        instances: whether it forgets training images.
        forget_acc: of a forgotten class, or of these images, at most.
        retain_loss: of the other classes, or of all test images, at most.
        network_seed: of the network that is edited.
    """

    method: Method
    all_at_once: bool = False
    instances: bool = False
    forget_acc: float = 0.02
    retain_loss: float = 0.03
    network_seed: int = 0


L2 = L2UL(adversarial=40, eps=1.0)
INSTANCES = tuple(DATA.train.index[::200].tolist())

# Of the Transformer's forgotten classes two of some 45 test images may be left. WF-Net may also
# cost more there: it masks attention alone, and what a patch shows by itself passes beside all
# masks, so that closing a class takes more of the others along.
CASES = {
    ("svd", "cnn"): Case(SVD()),
    ("svd", "vit"): Case(SVD(), forget_acc=0.05),
    ("wf-net", "cnn"): Case(WFNet(steps=150, batch=64), all_at_once=True),
    ("wf-net", "vit"): Case(
        WFNet(steps=150, batch=64, lambda1=3.0, lambda2=0.1, lr=0.3),
        all_at_once=True,
        forget_acc=0.05,
        retain_loss=0.07,
    ),
    # pictures of a digit are all but alike here, so others go along: 0.07 and 0.15
    ("l2ul", "cnn"): Case(L2, instances=True, forget_acc=0.0, retain_loss=0.1),
    ("l2ul", "vit"): Case(replace(L2, depth=1.0), instances=True, forget_acc=0.0, retain_loss=0.2),
    ("fine-tune", "cnn"): Case(FineTune(epochs=20, batch=32, lr=0.05)),
    ("fine-tune", "vit"): Case(FineTune(epochs=60, batch=32, lr=0.05), retain_loss=0.05),
    ("neg-grad", "cnn"): Case(
        NegGrad(epochs=20, batch=32, lr=1e-3, check_every=1), retain_loss=0.05
    ),
    # nothing holds the other classes: they go along, here by 0.12 and with other seeds by 0.2
    ("neg-grad", "vit"): Case(
        NegGrad(epochs=20, batch=32, lr=1e-3, check_every=1), retain_loss=0.25
    ),
    ("neg-grad-plus", "cnn"): Case(NegGradPlus(epochs=20, batch=32, forget_batch=8)),
    ("neg-grad-plus", "vit"): Case(
        NegGradPlus(epochs=20, batch=32, forget_batch=8, lr=0.03), retain_loss=0.05
    ),
    ("random-labels", "cnn"): Case(RandomLabels(epochs=10, batch=32, forget_batch=8)),
    ("random-labels", "vit"): Case(
        RandomLabels(epochs=20, batch=32, forget_batch=8), retain_loss=0.05
    ),
    ("salun", "cnn"): Case(SalUn(epochs=10, batch=32, forget_batch=8)),
    ("salun", "vit"): Case(SalUn(epochs=20, batch=32, forget_batch=8), retain_loss=0.05),
    # of four networks so narrow two lose half of the rest at any alpha; this one bears 5 to 20
    ("ssd", "cnn"): Case(SSD(alpha=14, batch=32), network_seed=3),
    # nothing mends what the others lose with the shrunk weights: 0.06 to 0.12, by the seed
    ("ssd", "vit"): Case(SSD(alpha=3, batch=64), forget_acc=0.05, retain_loss=0.15),
    ("scrub", "cnn"): Case(SCRUB(epochs=10, batch=32, forget_batch=32, lr=0.01)),
    ("scrub", "vit"): Case(SCRUB(epochs=10, batch=32, forget_batch=32, lr=0.02), retain_loss=0.08),
    ("logit-mask", "cnn"): Case(LogitMask(), forget_acc=0.0, retain_loss=0.0),
    ("logit-mask", "vit"): Case(LogitMask(), forget_acc=0.0, retain_loss=0.0),
    ("retrain", "cnn"): Case(Retrain(epochs=8)),
    ("retrain", "vit"): Case(Retrain()),
    ("unsir", "cnn"): Case(
        UNSIR(noise_images=32, noise_passes=1, batch=32, impair_lr=5e-3, repair_lr=5e-3)
    ),
    ("unsir", "vit"): Case(
        UNSIR(noise_images=32, noise_passes=1, batch=32, impair_lr=3e-3, repair_lr=1e-3),
        retain_loss=0.05,
    ),
    # It makes the class unsure, not wrong (see test_baselines_bad_teacher): which one is a little
    # likelier than the rest is the untrained network's doing. On the Transformer that is the class
    # itself, so accuracy tells nothing there.
    ("bad-teacher", "cnn"): Case(BadTeacher(epochs=10, batch=32, lr=3e-3), forget_acc=0.15),
    ("bad-teacher", "vit"): Case(BadTeacher(epochs=10, batch=32, lr=3e-3), forget_acc=1.0),
    ("boundary-shrink", "cnn"): Case(BoundaryShrink(epochs=10, batch=32, lr=2e-3)),
    ("boundary-shrink", "vit"): Case(BoundaryShrink(epochs=10, batch=32, lr=1e-3)),
    ("svd-head", "cnn"): Case(SVDHead()),
    # twice the change leaves the Transformer's head up to half of a class
    ("svd-head", "vit"): Case(SVDHead(head=3.0)),
}
Row = tuple[str, str]  # method and network


@pytest.fixture(params=CASES, ids="-".join)
def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@functools.cache
def trained(network: str, seed: int) -> Classifier:
    return train(NETWORKS[network].arch, DATA, NETWORKS[network].recipe, seed=seed)


def base(row: Row) -> Classifier:
    return trained(row[1], CASES[row].network_seed)


@functools.cache
def edited(row: Row) -> tuple[Classifier, Edit]:
    model = base(row)
    return unlearn(model, CASES[row].method, asked(row, model), DATA)


def asked(row: Row, model: Classifier) -> ForgetRequest:
    if CASES[row].instances:
        return ForgetRequest(instances=INSTANCES)
    return every_class(model) if CASES[row].all_at_once else ForgetRequest(classes=(2,))


def quick(row: Row) -> Method:
    """Return the method with less work, where forgetting does not matter."""
    method = CASES[row].method
    if isinstance(method, WFNet):
        return replace(method, steps=3)
    if isinstance(method, L2UL):
        return replace(method, adversarial=2, attack_steps=2, lr=0.01, penalty=0.0)
    return configured(method, {"epochs": 1}) if hasattr(method, "epochs") else method


def applied(folded: Classifier, edit: Edit, c: int) -> Classifier:
    forget = [c] if isinstance(edit, GateEdit) else []
    model = folded.replaced(copy.deepcopy(folded.network))
    model.network.load_state_dict(fold(folded.network.state_dict(), edit, forget))
    return model


def right(model: Classifier, images: ImageSet) -> float:
    return accuracy(logits(model, images).argmax(1), images.labels)


def test_every_method_has_its_row_for_every_network() -> None:
    assert CASES.keys() == set(itertools.product(METHODS, NETWORKS))
    assert all(METHODS[name].name == name for name in METHODS)


def test_the_model_is_left_bit_for_bit(row: Row) -> None:
    folded = fold_batchnorm(base(row))
    before = {k: v.clone() for k, v in folded.state_dict().items()}
    state = torch.get_rng_state()
    request = asked(row, folded)
    quick(row)(folded, request, split(DATA, request))
    assert all(torch.equal(v, before[k]) for k, v in folded.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in folded.modules())
    assert all(p.grad is None and p.requires_grad for p in folded.network.parameters())


def test_the_same_seed_gives_the_same_edit(row: Row) -> None:
    model = base(row)
    edits = [unlearn(model, quick(row), asked(row, model), DATA)[1] for _ in range(2)]
    one, two = (e.masks if isinstance(e, GateEdit) else e.weights for e in edits)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_names_and_shapes_fit_the_network(row: Row) -> None:
    folded, edit = edited(row)
    state = folded.network.state_dict()
    if isinstance(edit, WeightEdit):
        assert all(state[k].shape == v.shape for k, v in edit.weights.items())
        assert all(state[k].dtype == v.dtype for k, v in edit.weights.items())
    else:
        assert all(m.shape == (4, len(state[k])) for k, m in edit.masks.items())
        assert all(bool(((m >= 0) & (m <= 1)).all()) for m in edit.masks.values())


def test_it_forgets_and_retains(row: Row) -> None:
    case, model = CASES[row], base(row)
    folded, edit = edited(row)
    labels = DATA.test.labels
    if case.instances:
        own, now = split(DATA, asked(row, model)).forget, applied(folded, edit, 2)
        assert right(model, own) >= 0.9
        assert right(now, own) <= case.forget_acc
        assert right(now, DATA.test) >= right(model, DATA.test) - case.retain_loss
        return
    for c in range(4) if case.all_at_once else (2,):
        before = forget_and_retain(logits(model, DATA.test).argmax(1), labels, [c])
        after = forget_and_retain(
            logits(applied(folded, edit, c), DATA.test).argmax(1), labels, [c]
        )
        assert before[0] >= 0.9
        assert after[0] <= case.forget_acc
        assert after[1] >= before[1] - case.retain_loss


def test_it_survives_its_artifact(row: Row, tmp_path: Path) -> None:
    case, model = CASES[row], base(row)
    folded, edit = edited(row)
    out, request = tmp_path / "a", asked(row, model)
    save_artifact(out, folded, edit, method=case.method, request=request, parent=model)
    back = load_artifact(out)
    image = example(model, 4)
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
def test_model_and_data_must_fit(data: DataSplits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unlearn(base(("svd", "cnn")), SVD(), ForgetRequest((1,)), data)
