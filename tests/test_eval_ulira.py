"""U-LiRA against Gaussians whose separation is known, and shadow networks that are fakes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.classifier import Classifier
from bandstop.edit.data import statistics
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure
from bandstop.edit.evaluation.shadows import seen, shadow_scores
from bandstop.edit.evaluation.ulira import (
    log_likelihood_ratio,
    logit_scaled,
    separation,
    ulira,
    ulira_of,
)
from bandstop.edit.images import DataSplits
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import state_sha256
from bandstop.edit.wf_net import WFNet
from tests.networks import corners, noise, tiny

PHI = NormalDist().cdf


def drawn(
    pairs: int, images: int = 60, *, apart: float = 0, wider: float = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return scores whose mean and deviation differ from image to image, of either kind.

    Args:
        pairs: of networks.
        images: seen by each.
        apart: the means of the two kinds, in deviations.
        wider: the deviation of the unlearned in those of the retrained.
        seed: of the draws.
    """
    centre, spread = 5 * noise(images, seed=seed), (0.5 * noise(images, seed=seed + 1)).exp()
    one, other = (noise(pairs, images, seed=seed + k, dtype=torch.float64) for k in (2, 3))
    return centre + spread * (apart + wider * one), centre + spread * other


# scores


def test_the_score_is_the_logit_of_the_true_classes_probability() -> None:
    answers = 3 * noise(50, 6, dtype=torch.float64)
    labels = torch.arange(50) % 6
    p = answers.softmax(1)[torch.arange(50), labels]
    torch.testing.assert_close(logit_scaled(answers, labels), (p / (1 - p)).log())
    assert logit_scaled(answers.float(), labels).dtype == torch.float64


def test_a_probability_that_rounds_to_0_or_1_has_a_score() -> None:
    answers = torch.tensor([[300.0, 0.0, 0.0], [0.0, -1e4, 0.0]])
    scores = logit_scaled(answers, torch.tensor([0, 1]))
    torch.testing.assert_close(
        scores, torch.tensor([300 - math.log(2), -1e4 - math.log(2)], dtype=torch.float64)
    )


def test_the_likelihood_ratio_of_many_networks_is_that_of_the_gaussians() -> None:
    # N(1, 2^2) against N(-1, 1), and what lies between
    # 0.1: means and deviations of 40,000 draws are known to a hundredth
    shadows, other = (noise(40_000, 1, seed=s, dtype=torch.float64) for s in (1, 2))
    for x in (-2.0, 0.0, 2.0):
        ratio = log_likelihood_ratio(torch.tensor([x]), 1 + 2 * shadows, other - 1)
        expected = NormalDist(1, 2).pdf(x) / NormalDist(-1, 1).pdf(x)
        assert ratio.item() == pytest.approx(math.log(expected), abs=0.1)


def test_few_networks_borrow_the_variance_of_the_other_images() -> None:
    # variances 2 and 8, mean 5, of one degree of freedom beside two of the mean: 4 and 6
    two = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    ratio = log_likelihood_ratio(torch.tensor([1.0, 1.0]), two + 1, two)
    torch.testing.assert_close(ratio, torch.tensor([1 / 8, 1 / 12], dtype=torch.float64))


# telling apart


@pytest.mark.parametrize(
    ("unlearned", "retrained", "area", "balanced"),
    [
        ([3.0, 4.0], [1.0, 2.0], 1.0, 1.0),
        ([1.0, 2.0], [3.0, 4.0], 0.0, 0.0),
        ([1.0, 1.0], [1.0, 1.0], 0.5, 0.5),
        ([1.0, 3.0], [2.0, 0.0], 0.75, 0.5),
        ([1.0, 2.0, 4.0, 5.0], [0.0, 1.5, 1.6, 3.0], 12 / 16, 0.75),
        ([1.0], [1.0, 0.0], 0.75, 0.75),  # a tie counts half
    ],
)
def test_areas_and_accuracies_that_are_counted_by_hand(
    unlearned: list[float], retrained: list[float], area: float, balanced: float
) -> None:
    ours, theirs = torch.tensor(unlearned), torch.tensor(retrained)
    assert separation(ours, theirs).tolist() == pytest.approx([area, balanced])
    assert separation(theirs, ours).tolist() == pytest.approx([1 - area, 1 - balanced])
    both = separation(torch.stack((ours, ours + 9)), torch.stack((theirs, theirs)))
    assert both[0].tolist() == pytest.approx([area, balanced])
    assert both[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("apart", "wider", "area", "balanced"),
    [
        # ratios are N(d^2 / 2, d^2) and N(-d^2 / 2, d^2)
        (1.0, 1.0, PHI(1 / math.sqrt(2)), PHI(1 / 2)),
        (2.0, 1.0, PHI(2 / math.sqrt(2)), PHI(2 / 2)),
        # ratios rise with the distance from the mean: P(2 |a| > |b|) of two standard normals
        (0.0, 2.0, 2 / math.pi * math.atan(2), None),
    ],
)
def test_gaussians_of_known_separation_are_told_apart_as_the_formula_says(
    apart: float, wider: float, area: float, balanced: float | None
) -> None:
    # 0.03: the fits are of 29 networks, and 3,000 scores are of each kind
    found = ulira(*drawn(30, 100, apart=apart, wider=wider))
    assert found["ulira_auc"].value == pytest.approx(area, abs=0.03)
    if balanced is not None:
        assert found["ulira_balanced_acc"].value == pytest.approx(balanced, abs=0.03)
    low, high = interval(found["ulira_auc"])
    assert low < found["ulira_auc"].value < high
    assert 0.005 < high - low < 0.05


def interval(measure: Measure) -> tuple[float, float]:
    assert measure.ci95 is not None
    return measure.ci95


@pytest.mark.parametrize("pairs", [3, 4])
def test_networks_of_one_kind_are_not_told_apart(pairs: int) -> None:
    # a network that its own Gaussian was fitted on would be told nearly always; 60 sets
    found = [ulira(*drawn(pairs, 40, seed=10 * s)) for s in range(60)]
    for key in ("ulira_auc", "ulira_balanced_acc"):
        values = torch.tensor([f[key].value for f in found])
        assert values.mean().item() == pytest.approx(0.5, abs=0.025)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    found = [interval(ulira(*drawn(5, 40, seed=10 * s))["ulira_auc"]) for s in range(40)]
    held = sum(low <= 0.5 <= high for low, high in found)
    assert held >= 36  # the jackknife of so few pairs is too wide here, never too narrow


def test_neither_kind_nor_the_order_of_pairs_or_images_matters() -> None:
    unlearned, retrained = drawn(5, apart=0.7)
    expected = ulira(unlearned, retrained)
    pairs, images = torch.tensor([4, 2, 0, 1, 3]), noise(60).argsort()
    same = ulira(unlearned[pairs][:, images], retrained[pairs][:, images])
    assert same["ulira_auc"].value == pytest.approx(expected["ulira_auc"].value, abs=1e-9)
    assert interval(same["ulira_auc"]) == pytest.approx(interval(expected["ulira_auc"]))
    swapped = ulira(retrained, unlearned)
    assert swapped["ulira_auc"].value == pytest.approx(expected["ulira_auc"].value, abs=1e-9)


@pytest.mark.parametrize("odd", range(5))
def test_every_pair_is_held_out_once_and_scored_itself(odd: int) -> None:
    # one unlearned network looks retrained: only its own fold falls, by all there is
    unlearned, retrained = drawn(5, 200, apart=200)
    unlearned[odd] = retrained.mean(0)
    found = ulira(unlearned, retrained)
    assert found["ulira_auc"].value == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    ("pairs", "known"), [(3, False), (4, True)], ids=["three pairs", "four pairs"]
)
def test_an_interval_needs_four_pairs(pairs: int, known: bool) -> None:
    for measure in ulira(*drawn(pairs, apart=1)).values():
        assert (measure.ci95 is not None) == known
        assert measure.n == pairs
        assert measure.note == f"{pairs} pairs of networks, 60 images"


def test_more_pairs_make_it_surer_and_no_interval_leaves_0_to_1() -> None:
    few, many = (interval(ulira(*drawn(n, apart=1))["ulira_auc"]) for n in (4, 24))
    assert many[1] - many[0] < few[1] - few[0]
    # 0.973 and half a width of 0.044
    assert interval(ulira(*drawn(4, apart=3))["ulira_auc"])[1] == 1.0


def test_networks_that_are_told_every_time_leave_no_interval() -> None:
    found = ulira(*drawn(6, apart=200))
    assert [m.value for m in found.values()] == [1.0, 1.0]
    assert [m.ci95 for m in found.values()] == [None, None]


def test_scores_that_are_all_alike_tell_nothing() -> None:
    same = noise(1, 20).expand(5, -1)
    assert ulira(same, same)["ulira_auc"].value == 0.5
    assert ulira(same, same + 1)["ulira_auc"].value == 1.0


# one network


def test_a_network_is_told_as_the_formula_says() -> None:
    unlearned, retrained = drawn(60, 500, apart=1)
    found = ulira_of(unlearned[0], retrained[0], unlearned[1:], retrained[1:])
    assert found["ulira_auc"].value == pytest.approx(
        PHI(1 / math.sqrt(2)), abs=0.05
    )  # 3 deviations
    assert found["ulira_balanced_acc"].value == pytest.approx(PHI(1 / 2), abs=0.06)
    assert found["ulira_auc"].n == 500
    swapped = ulira_of(retrained[0], unlearned[0], unlearned[1:], retrained[1:])
    assert swapped["ulira_auc"].value == pytest.approx(1 - found["ulira_auc"].value)


# refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda u, r: (u[:2], r[:2]), r"of 3 or more networks .*\(2, 60\)"),
        (lambda u, r: (u[:3], r), r"\(3, 60\).*\(4, 60\)"),
        (lambda u, r: (u[:, :0], r[:, :0]), "on the same images"),
        (lambda u, r: (u[0], r[0]), "expected scores"),
        (lambda u, r: (u, r / 0), r"NaN or infinite among the \['retrained'\]"),
    ],
)
def test_scores_that_say_nothing_are_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        ulira(*change(*drawn(4)))
    assert "\n" not in str(refused.value)


def test_a_target_of_other_images_is_refused() -> None:
    unlearned, retrained = drawn(4)
    with pytest.raises(InputError, match="expected 60 scores of the target, got 9"):
        ulira_of(unlearned[0, :9], retrained[0, :9], unlearned[1:], retrained[1:])
    with pytest.raises(InputError, match="of 2 or more networks"):
        ulira_of(unlearned[0], retrained[0], unlearned[1:2], retrained[1:2])


# shadow networks


def data() -> DataSplits:
    images = corners(80)
    names = tuple(f"class {c}" for c in range(4))
    return DataSplits(images, corners(40, 1), corners(40, 2), names, statistics(images))


THIRD = ForgetRequest(classes=(2,))


@dataclass
class Trained:
    """Gives a network of random weights for each seed, and notes what was asked."""

    asked: list[tuple[ForgetRequest | None, int]]

    def __call__(self, request: ForgetRequest | None, seed: int) -> Classifier:
        self.asked.append((request, seed))
        return tiny(seed)


@dataclass(frozen=True, slots=True)
class Raises:
    """A method that raises the bias of the first class by its seed."""

    name: ClassVar[str] = "raises"
    seed: int = 0

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        bias = model.network.state_dict()["fc.bias"].clone()
        bias[0] += 10 * self.seed
        return WeightEdit({"fc.bias": bias})


def test_each_seed_gives_a_pair_and_the_method_takes_it_too() -> None:
    trains = Trained([])
    shadows = list(shadow_scores(trains, data(), Raises(seed=99), THIRD, (4, 7)))
    assert trains.asked == [(None, 4), (THIRD, 4), (None, 7), (THIRD, 7)]
    forget = data().train.of_classes((2,))
    stays = data().test.without_classes((2,))
    for shadow, seed in zip(shadows, (4, 7), strict=True):
        model = trains(None, seed)
        before = logits(model, forget)
        after = before.clone()
        after[:, 0] += 10 * seed
        assert shadow.seed == seed
        close(shadow.original.scores, logit_scaled(before, forget.labels))
        close(shadow.unlearned.scores, logit_scaled(after, forget.labels))
        close(shadow.retrained.scores, shadow.original.scores)  # as the fake trains them
        assert shadow.original.forget_acc == accuracy(before.argmax(1), forget.labels)
        assert shadow.unlearned.forget_acc == accuracy(after.argmax(1), forget.labels)
        assert shadow.original.test_retain_acc == accuracy(
            logits(model, stays).argmax(1), stays.labels
        )


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_single_images_are_looked_at_when_they_are_forgotten() -> None:
    request = ForgetRequest(instances=(1, 5, 30))
    model = Trained([])(None, 0)
    found = seen(model, data(), request)
    three = data().train.take(torch.tensor([1, 5, 30]))
    close(found.scores, logit_scaled(logits(model, three), three.labels))
    everything = data().test
    assert found.test_retain_acc == accuracy(logits(model, everything).argmax(1), everything.labels)


def test_looking_at_a_network_leaves_it_as_it_was() -> None:
    model = Trained([])(None, 0)
    before = state_sha256(model.network.state_dict())
    list(shadow_scores(lambda *_: model, data(), LogitMask(), THIRD, (0,)))
    assert state_sha256(model.network.state_dict()) == before
    assert not model.training


def test_a_logit_mask_hides_the_class_from_accuracy_alone() -> None:
    shadows = list(shadow_scores(Trained([]), data(), LogitMask(), THIRD, range(3)))
    never = torch.stack([s.retrained.scores for s in shadows])
    masked = torch.stack([s.unlearned.scores for s in shadows])
    assert [s.unlearned.forget_acc for s in shadows] == [0.0] * 3
    assert ulira(masked, never)["ulira_auc"].value == 1.0


def test_gates_are_folded_for_the_class() -> None:
    quick = WFNet(steps=2, batch=16)
    (shadow,) = shadow_scores(Trained([]), data(), quick, THIRD, (0,))
    assert not torch.equal(shadow.unlearned.scores, shadow.original.scores)
    with pytest.raises(InputError, match="wf-net forgets classes, not instances"):
        list(shadow_scores(Trained([]), data(), quick, ForgetRequest(instances=(1,)), (0,)))
