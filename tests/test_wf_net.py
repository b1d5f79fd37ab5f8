"""WF-Net's loss, batches and training against known answers (oracles C.7)."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import PAPER, WFNet
from bandstop.edit.wf_objective import closed, expand, objective
from bandstop.edit.wf_start import initial_alphas
from bandstop.edit.wf_training import Best, clamp_, is_check
from tests.networks import classifier, corners, tiny, trained

QUICK = WFNet(steps=200, batch=64, validate_every=20)


def splits() -> Splits:
    return Splits(corners(200), corners(200).of_classes([]), corners(60, seed=5))


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [([3.0, 3.0], 0.0474259), ([-3.0, -3.0], 0.9525741), ([3.0, -3.0], 0.5), ([0.0], 0.5)],
)
def test_regulariser_is_the_mean_of_one_minus_mask(alpha: list[float], expected: float) -> None:
    assert float(closed({"a": torch.tensor([alpha])})) == pytest.approx(expected, abs=1e-6)


def test_half_is_forgotten_and_the_rest_expanded_under_other_rows() -> None:
    image, label = torch.arange(128.0).reshape(128, 1, 1, 1), torch.arange(128) % 5
    images, row, labels, forgotten = expand(image, label, 3, 5, torch.Generator().manual_seed(0))
    assert forgotten == 64
    assert len(images) == len(row) == len(labels) == 64 + 192
    assert torch.equal(row[:64], label[:64])
    assert not (row[64:] == labels[64:]).any()
    assert set(row[64:].tolist()) == set(range(5))
    kept = images[64:].flatten().long()
    assert torch.equal(kept.bincount(minlength=128)[64:], torch.full((64,), 3))
    assert torch.equal(labels, label[images.flatten().long()])


class Fixed(nn.Module):
    """Logits that do not depend on the image; the convolution is there to be gated."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        nothing: Tensor = 0 * self.conv(x).mean((1, 2, 3))[:, None]
        return nothing + self.logits


def test_objective_of_known_logits() -> None:
    model = classifier(Fixed([2.0, 0.0, 0.0]), classes=3)
    alphas = initial_alphas(model, 3.0)
    image, label = torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    retain, forget = 2.239545, 0.239545  # cross-entropies of label 1 and 0
    for setting, expected in (
        (WFNet(lambda0=1, lambda1=0, lambda2=0), retain),
        (WFNet(lambda0=0, lambda1=1, lambda2=0, floor=0.0), 4.17458),
        (WFNet(lambda0=0, lambda1=1, lambda2=0, floor=0.1), 1 / (forget + 0.1)),
        (WFNet(lambda0=0, lambda1=0, lambda2=2), 2 * 0.0474259),
        (WFNet(lambda0=2, lambda1=3, lambda2=1, floor=0.0), 2 * retain + 3 * 4.17458 + 0.0474259),
    ):
        net = Gated(model.network, tuple(gateable(model.network)))
        loss = objective(setting, model, net, alphas, image, label, torch.Generator())
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-4)


class Certain(nn.Module):
    """So sure of class 0 that its loss is exactly 0 in float32, where 1/0 has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.conv.weight = nn.Parameter(torch.full((1, 1, 1, 1), 10.0))
        self.conv.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        sure = self.conv(x).mean((1, 2, 3))
        return torch.stack([sure, torch.zeros_like(sure)], dim=1)


def test_a_certain_image_still_has_a_gradient() -> None:
    model = classifier(Certain(), classes=2)
    alphas = initial_alphas(model, 3.0)
    net = Gated(model.network, tuple(gateable(model.network)))
    image, label = torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    logits = net((image - model.mean) / model.std, {n: torch.ones(4, 1) for n in alphas})
    assert nn.functional.cross_entropy(logits, label).item() == 0.0
    setting = WFNet(lambda0=0, lambda2=0, floor=0.0)
    objective(setting, model, net, alphas, image, label, torch.Generator()).backward()
    grad = alphas["conv.weight"].grad
    assert grad is not None
    assert 0 < float(grad[0].abs().max()) < math.inf


def test_rows_absent_from_the_batch_feel_only_the_regulariser() -> None:
    model = fold_batchnorm(tiny())
    alphas = initial_alphas(model, 3.0)
    net = Gated(model.network, tuple(gateable(model.network)))
    image, label = torch.rand(4, 1, 8, 8), torch.tensor([1, 1, 0, 0])
    setting = WFNet(chi=1, lambda2=5.0)
    generator = torch.Generator().manual_seed(1)
    _, row, _, _ = expand(image, label, 1, 4, torch.Generator().manual_seed(1))
    objective(setting, model, net, alphas, image, label, generator).backward()
    count = sum(a.numel() for a in alphas.values())
    slope = 1 / (1 + math.exp(-3)) * (1 - 1 / (1 + math.exp(-3)))
    absent = sorted(set(range(4)) - set(row.tolist()))
    assert absent
    for alpha in alphas.values():
        assert alpha.grad is not None
        want = torch.full_like(alpha.grad[absent], -5.0 * slope / count)
        torch.testing.assert_close(alpha.grad[absent], want, rtol=1e-4, atol=0)
        assert (alpha.grad[1] - want[0]).abs().max() > 1e-6


def test_alphas_stay_within_the_bound() -> None:
    alphas = {"a": torch.tensor([[-9.0, 0.5, 9.0]])}
    clamp_(alphas, 3.0)
    assert alphas["a"].tolist() == [[-3.0, 0.5, 3.0]]
    masks = WFNet(steps=5, lr=50.0)(fold_batchnorm(tiny()), every_class(tiny()), splits()).masks
    flat = torch.cat([m.flatten() for m in masks.values()])
    assert flat.min() >= 0.047425
    assert flat.max() <= 0.952575


def test_regulariser_alone_opens_every_mask() -> None:
    setting = WFNet(steps=40, lambda0=0, lambda1=0, lr=1.0, schedule="constant")
    masks = setting(fold_batchnorm(tiny()), every_class(tiny()), splits()).masks
    assert all(torch.allclose(m, torch.full_like(m, 0.9525741)) for m in masks.values())


def test_validation_follows_five_times_an_epoch() -> None:
    per_epoch = 352
    steps = [s for s in range(1, 2 * per_epoch + 1) if is_check(s, per_epoch, None)]
    assert steps == [70, 141, 211, 282, 352, 422, 493, 563, 634, 704]
    assert [s for s in range(1, 10) if is_check(s, per_epoch, 3)] == [3, 6, 9]


def test_a_constant_validation_loss_stops_after_ten_more() -> None:
    best, seen = Best(), 0
    while not best.exhausted(10):
        seen += 1
        best.see_(seen, {"a": torch.tensor(float(seen))}, 1.0)
    assert seen == 11
    assert float(best.alphas["a"]) == 1.0
    assert best.step == 1


def test_the_best_alphas_are_kept_not_the_last() -> None:
    best = Best()
    alpha = torch.zeros(1)
    for step, loss in enumerate((3.0, 1.0, 2.0), start=1):
        alpha += 1
        best.see_(step, {"a": alpha}, loss)
    assert float(best.alphas["a"]) == 2.0


class TwoFilters(nn.Module):
    """Class 0 is seen by filter 0 alone, class 1 by filter 1 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (8, 8), bias=False)
        weight = torch.zeros(2, 1, 8, 8)
        weight[0, 0, :4], weight[1, 0, 4:] = 1.0, 1.0
        self.conv.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x).flatten(1) / 16
        return logits


def test_the_filter_of_a_class_is_shut_for_that_class_alone() -> None:
    images = torch.full((40, 1, 8, 8), 128, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    images[labels == 0, :, :4] = 255
    images[labels == 1, :, 4:] = 255
    half = ImageSet(images, torch.arange(40), labels)
    model: Classifier = classifier(TwoFilters(), classes=2)
    setting = WFNet(steps=200, batch=16, lambda2=0.1, schedule="constant")
    edit = setting(model, ForgetRequest((0, 1)), Splits(half, half.of_classes([]), half))
    mask = edit.masks["conv.weight"]
    assert mask.diagonal().max() < 0.1
    assert mask[[0, 1], [1, 0]].min() > 0.9


def test_every_class_is_forgotten_by_its_row_and_kept_by_the_others() -> None:
    model = fold_batchnorm(trained())
    edit = QUICK(model, every_class(model), splits())
    test = corners(200, seed=9)
    for c in range(4):
        after = fold_batchnorm(trained())
        after.network.load_state_dict(fold(model.network.state_dict(), edit, [c]))
        right = after(test.images[test.index] / 255).argmax(1) == test.labels
        assert right[test.labels == c].float().mean() <= 0.05
        assert right[test.labels != c].float().mean() >= 0.9


def test_backbone_is_left_alone_and_the_seed_decides() -> None:
    model = fold_batchnorm(trained())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one, two = (QUICK(model, every_class(model), splits()) for _ in range(2))
    other = replace(QUICK, seed=1)(model, every_class(model), splits())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(one.masks[k], two.masks[k]) for k in one.masks)
    assert not all(torch.equal(one.masks[k], other.masks[k]) for k in one.masks)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    model = fold_batchnorm(trained())
    nothing = replace(QUICK, lambda0=1e300)  # times a loss above 1e8, infinite
    state = model.network.state_dict()
    model.network.load_state_dict(state | {"fc.weight": state["fc.weight"] * -1e30})
    with pytest.raises(DivergedError, match="step 1"):
        nothing(model, every_class(model), splits())


@pytest.mark.parametrize(
    ("request_", "data", "message"),
    [
        (ForgetRequest((1,)), splits(), "every class"),
        (ForgetRequest((0, 1, 2, 3)), Splits(*[corners().of_classes([])] * 3), "two of each"),
    ],
)
def test_unusable_requests_are_refused(request_: ForgetRequest, data: Splits, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QUICK(fold_batchnorm(tiny()), request_, data)


def test_a_network_with_nothing_to_mask_is_refused() -> None:
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    model = classifier(mlp)
    with pytest.raises(InputError, match="it masks convolutions or attention"):
        QUICK(model, every_class(model), splits())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0, "batch": 1}, "steps must be 1 or more, got 0; batch must be 2"),
        ({"validate_every": 0}, "validate_every must be 1"),
        ({"chi": 0}, "chi must be 1"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"bound": -1.0}, "bound must be a number above 0"),
        ({"lambda1": math.nan}, "lambda1 must be a number from 0"),
        ({"lambda0": math.inf}, "lambda0 must be a number from 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(WFNet(), **wrong)


def test_the_papers_preset_runs() -> None:
    setting = replace(PAPER, steps=20)
    model = setting.prepare(trained())
    edit = setting(model, every_class(model), splits())
    assert isinstance(edit, GateEdit)
    assert edit.num_classes == 4
