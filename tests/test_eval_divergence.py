"""Divergences against known values: one-hot against uniform answers, and a formula by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.divergence import (
    activation_distance,
    js,
    js_div,
    untrained_twins,
    zrf,
)
from bandstop.edit.evaluation.observed import Case, Subject, answers, observe
from bandstop.edit.images import ImageSet
from bandstop.edit.request import ForgetRequest
from tests.networks import classifier, corners, noise, tiny
from tests.test_eval_accuracies import asked, logits, said, subject

CLASS = ForgetRequest(classes=(1,))


def one_hot(classes: int, n: int = 3) -> Tensor:
    answer = torch.zeros(n, classes)
    answer[:, 0] = 1e4
    return answer


def of(answer: Tensor) -> Subject:
    """Return a network that answers so to the images to forget."""
    nothing = said("")
    return subject(logits(answer, torch.zeros(len(answer)).long()), nothing, nothing)


class Says(nn.Module):
    """Answers `answer` (classes,) to every image."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(1, len(answer))
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(answer)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean((1, 2, 3))[:, None])
        return logits


def saying(answer: Tensor) -> Classifier:
    return classifier(Says(answer), classes=len(answer))


def forgetting(images: ImageSet) -> Case:
    return replace(asked(CLASS), forget=images)


def one_class(n: int) -> ImageSet:
    images = corners(n)
    return replace(images, labels=torch.zeros(n).long())


@pytest.mark.parametrize(("classes", "rest"), [(10, 0.4744), (1000, 0.3108)])
def test_one_hot_against_uniform_is_known_in_nats(classes: int, rest: float) -> None:
    found = 1 - js(one_hot(classes), torch.zeros(3, classes))
    assert found.tolist() == pytest.approx([rest] * 3, abs=5e-5)


def test_divergence_is_that_of_the_formula() -> None:
    p, q = noise(5, 7, dtype=torch.float64), 2 * noise(5, 7, seed=1, dtype=torch.float64)
    a, b = p.softmax(1), q.softmax(1)
    m = (a + b) / 2
    wanted = ((a * (a / m).log()).sum(1) + (b * (b / m).log()).sum(1)) / 2
    torch.testing.assert_close(js(p, q), wanted, rtol=1e-9, atol=1e-12)


def test_divergence_is_symmetric_bounded_and_zero_for_equal_answers() -> None:
    p, q = 5 * noise(50, 6), 5 * noise(50, 6, seed=1)
    torch.testing.assert_close(js(p, q), js(q, p))
    assert bool((js(p, q) > 0).all())
    assert bool((js(p, q) < math.log(2)).all())
    torch.testing.assert_close(js(p, p + 3), torch.zeros(50).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("off", [-1e4, -math.inf])
def test_probabilities_of_zero_do_no_harm(off: float) -> None:
    p, q = torch.tensor([[0.0, off]]), torch.tensor([[off, 0.0]])
    torch.testing.assert_close(js(p, q), torch.tensor([math.log(2)]).double())
    assert js(p, p).tolist() == [0.0]


def test_divergence_of_other_shapes_is_refused() -> None:
    with pytest.raises(InputError, match=r"js: .*got \(3, 4\) and \(1, 4\)"):
        js(torch.zeros(3, 4), torch.zeros(1, 4))


@pytest.mark.parametrize(("classes", "rest"), [(10, 0.4744), (1000, 0.3108)])
def test_zrf_of_a_sure_network_is_the_reference_and_not_the_copied_one(
    classes: int, rest: float
) -> None:
    images = one_class(6)
    model = saying(one_hot(classes)[0])
    network = Subject("edited", model, observe(model, forgetting(images)))
    found = zrf(network, [answers(saying(torch.zeros(classes)), images)])
    assert found.value == pytest.approx(rest, abs=5e-5)
    assert abs(found.value - 0.744) > 0.2
    assert found.n == 6


def test_zrf_is_a_mean_over_networks_and_its_interval_over_images() -> None:
    images = one_class(8)
    network = of(torch.cat((one_hot(4, 4), torch.zeros(4, 4))))
    twins = [answers(twin, images) for twin in (saying(torch.zeros(4)), saying(one_hot(4)[0]))]
    found = zrf(network, twins)
    single = 1 - js(one_hot(4, 1), torch.zeros(1, 4)).item()
    assert found.value == pytest.approx((1 + single) / 2, abs=1e-6)  # each image meets both
    assert found.n == 8
    assert found.ci95 == pytest.approx((found.value, found.value), abs=1e-6)
    alone = zrf(network, twins[:1])
    assert alone.ci95 is not None
    assert alone.ci95[1] - alone.ci95[0] > 0.1  # images differ


def test_zrf_of_other_images_or_without_networks_is_refused() -> None:
    network = of(one_hot(4, 6))
    with pytest.raises(InputError, match="zrf: needs networks with random weights"):
        zrf(network, [])
    with pytest.raises(InputError, match="zrf: compares two networks on the same images"):
        zrf(network, [answers(saying(torch.zeros(4)), one_class(5))])
    with pytest.raises(InputError, match="zrf: needs training images to forget, got none"):
        zrf(of(torch.zeros(0, 4)), [answers(saying(torch.zeros(4)), one_class(0))])


RESNET = Arch("bandstop:resnet", {"width": 4, "blocks": "1"})


def resnet() -> Classifier:
    one = tiny()
    model = Classifier(nn.Identity(), RESNET, one.preprocess, one.class_names, bn_folded=True)
    return fold_batchnorm(untrained_twins(model, 1, seed=9)[0])


def test_twins_have_fresh_weights_and_fresh_statistics() -> None:
    model = resnet()
    before = copy.deepcopy(model.state_dict())
    twins = untrained_twins(model)
    assert len(twins) == 3
    firsts = [next(twin.network.parameters()) for twin in twins]
    assert not torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[1], firsts[2])
    norms = [m for t in twins for m in t.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.running_mean is not None
        assert not bool(norm.running_mean.any())
    for twin in twins:
        assert not any(module.training for module in twin.modules())
        assert twin.bn_folded is False
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_twins_answer_an_image_alike_in_any_company() -> None:
    # BatchNorm in training mode would look at the batch
    images = corners(12)
    twin = untrained_twins(resnet(), 1)[0]
    together = answers(twin, images).logits
    alone = answers(twin, images.take(torch.arange(1))).logits
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    again = answers(twin, images).logits
    torch.testing.assert_close(together, again, rtol=0, atol=0)


def test_twins_follow_the_seed_and_are_no_starting_point_of_a_training() -> None:
    one, same, other = (untrained_twins(resnet(), 1, seed=s)[0] for s in (0, 0, 1))
    weights = [next(twin.network.parameters()) for twin in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    start = build(RESNET, 4, 1, (8, 8), seed=0)  # of the weights of a network trained with seed 0
    assert not any(
        torch.equal(next(twin.network.parameters()), next(start.parameters()))
        for twin in untrained_twins(resnet(), 3, seed=0)
    )


def test_twins_of_nothing_or_of_foreign_code_are_refused() -> None:
    with pytest.raises(InputError, match="count must be at least 1, got 0"):
        untrained_twins(resnet(), 0)
    with pytest.raises(InputError, match="trust-factory"):
        untrained_twins(tiny())


def test_distance_of_one_hot_from_uniform_is_known() -> None:
    found = activation_distance(of(one_hot(10)), of(torch.zeros(3, 10)))
    assert found.value == pytest.approx(0.948683, abs=1e-6)
    assert found.n == 3


def test_distance_is_a_mean_of_norms_over_images() -> None:
    one, other = torch.cat((one_hot(2, 1), torch.zeros(1, 2))), torch.zeros(2, 2)
    found = activation_distance(of(one), of(other))
    assert found.value == pytest.approx(math.sqrt(0.5) / 2, abs=1e-6)
    opposite = torch.tensor([[1e4, 0], [0, 1e4]])  # differences that are 0 on average
    found = activation_distance(of(opposite), of(other))
    assert found.value == pytest.approx(math.sqrt(0.5), abs=1e-6)


def test_divergence_from_retrained_is_of_the_images_to_forget() -> None:
    found = js_div(of(one_hot(10, 4)), of(torch.zeros(4, 10)))
    assert found.value == pytest.approx(1 - 0.4744, abs=5e-5)
    assert found.n == 4
    assert js_div(of(one_hot(10)), of(one_hot(10))).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("metric", [js_div, activation_distance])
def test_other_images_are_not_compared(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(InputError, match="compares two networks on the same images"):
        metric(of(one_hot(10, 4)), of(one_hot(10, 3)))
    with pytest.raises(InputError, match="needs training images to forget, got none"):
        metric(of(torch.zeros(0, 4)), of(torch.zeros(0, 4)))
