"""Linear CKA: what it must not notice, what it must, and which layers are compared."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.cka import cka, cka_to, linear_cka, outputs
from bandstop.edit.evaluation.observed import (
    Answers,
    Case,
    Observed,
    Subject,
    case_of,
    observe,
)
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import CLASS, DATA, INSTANCES, state
from tests.networks import classifier, corners, noise, tiny

CASE = case_of(replace(DATA, test=corners(400, seed=2)), CLASS)


def subject(model: Classifier, case: Case = CASE) -> Subject:
    return Subject("edited", model, observe(model, case))


def rotation(width: int, seed: int = 0) -> Tensor:
    orthogonal: Tensor = torch.linalg.qr(noise(width, width, seed=seed, dtype=torch.float64)).Q
    return orthogonal


X = noise(60, 8, dtype=torch.float64) * torch.linspace(0.5, 3, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    "same",
    [
        X,
        -7 * X,
        1e-5 * X,
        X @ rotation(8),
        X + 100,
        X[:, torch.randperm(8, generator=torch.Generator().manual_seed(0))],
        torch.cat((X, torch.ones(60, 3, dtype=torch.float64)), dim=1),
        3 * X @ rotation(8, seed=1) - 2,
    ],
    ids=["itself", "scale", "small", "rotation", "shift", "order", "constants", "all"],
)
def test_rotation_scale_and_shift_do_not_count(same: Tensor) -> None:
    assert linear_cka(X, same) == pytest.approx(1, abs=1e-9)
    assert linear_cka(same, X) == pytest.approx(1, abs=1e-9)


def test_other_linear_maps_do_count() -> None:
    stretched = X @ torch.diag(torch.tensor([20.0] + [0.1] * 7).double())
    assert linear_cka(X, stretched) < 0.5


@pytest.mark.parametrize(("n", "width"), [(500, 10), (100, 400), (30, 512)])
def test_independent_noise_is_not_alike_even_with_more_features_than_images(
    n: int, width: int
) -> None:
    # the estimate with a bias is about width / (n + width): 0.8 and 0.94 in the last two
    values = [
        linear_cka(noise(n, width, seed=seed), noise(n, width, seed=seed + 50))
        for seed in range(10)
    ]
    assert abs(sum(values) / 10) < 0.02
    assert max(map(abs, values)) < 0.2


def hsic(k: Tensor, m: Tensor) -> float:
    """Return the unbiased estimate, times n (n - 3), as its sum is written out in full."""
    n = len(k)
    k, m = k - k.diag().diag(), m - m.diag().diag()
    cross = (k.sum() * m.sum()) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(1))
    return float((k * m.T).sum() + cross)


def test_it_is_the_unbiased_estimate_in_its_other_form() -> None:
    y = X[:, :5] + noise(60, 5, seed=3, dtype=torch.float64)
    k, m = X @ X.T, y @ y.T
    expected = hsic(k, m) / (hsic(k, k) * hsic(m, m)) ** 0.5
    assert linear_cka(X, y) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 0.9


def test_features_that_are_all_the_same_are_like_nothing() -> None:
    constant = torch.full((60, 4), 0.3)
    assert linear_cka(X, constant) == 0.0
    assert linear_cka(X, constant + 1e-8 * noise(60, 4)) == 0.0
    assert linear_cka(constant, constant) == 0.0


def test_too_few_or_other_images_are_refused() -> None:
    with pytest.raises(InputError, match="4 images or more, got 3"):
        linear_cka(X[:3], X[:3])
    with pytest.raises(InputError, match="the same images, got 60 and 59"):
        linear_cka(X, X[1:])


def test_a_network_is_like_itself_in_every_layer_in_order() -> None:
    one = subject(fold_batchnorm(tiny()))
    found = cka(one, one, CASE)
    assert list(found) == ["conv1", "conv2", "conv3", "fc"]
    assert list(found.values()) == pytest.approx([1] * 4, abs=1e-9)
    assert cka_to(one, one, CASE).value == pytest.approx(1, abs=1e-9)


def test_only_layers_behind_a_change_differ() -> None:
    one = fold_batchnorm(tiny())
    two = fold_batchnorm(tiny())
    with torch.no_grad():
        two.network.get_parameter("conv2.weight").add_(noise(8, 4, 3, 3, seed=4))
    found = cka(subject(one), subject(two), CASE)
    assert found["conv1"] == pytest.approx(1, abs=1e-9)
    assert all(found[name] < 0.99 for name in ("conv2", "conv3", "fc"))


class Grown(nn.Module):
    """A network with one layer more than `tiny`, and without one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.extra = nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.extra(self.conv1(x).relu()).mean((2, 3)))
        return logits


def test_layers_that_both_have_are_compared() -> None:
    two = subject(classifier(Grown()))
    assert list(cka(subject(tiny()), two, CASE)) == ["conv1", "fc"]
    bare = subject(classifier(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))))
    with pytest.raises(InputError, match="no layer of the same name"):
        cka(bare, subject(tiny()), CASE)


def test_outputs_are_averaged_over_places_whatever_the_batch() -> None:
    model, images = tiny(), corners(230)
    image, _ = next(images.batches(230))
    found = outputs(model, images)
    first = model.network.get_submodule("conv1")((image - model.mean) / model.std)
    torch.testing.assert_close(found["conv1"], first.mean((2, 3)))
    torch.testing.assert_close(found["fc"], model(image))
    assert {name: tuple(y.shape) for name, y in found.items()} == {
        "conv1": (230, 8),
        "conv2": (230, 8),
        "conv3": (230, 12),
        "fc": (230, 4),
    }


def test_outputs_are_averaged_over_tokens() -> None:
    arch = Arch("bandstop:vit", {"patch": 4, "dim": 12, "depth": 1, "heads": 2})
    model = classifier(build(arch, 4, 1, (8, 8)))
    found = outputs(model, corners(10))
    assert all(len(y) == 10 and y.ndim == 2 for y in found.values())
    inner = {y.shape[1] for y in found.values()}
    assert {4, 12} <= inner


class Windows(nn.Module):
    """A network of which one layer is called with two rows an image."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Linear(32, 5)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.halves(x.reshape(-1, 32)).reshape(len(x), -1))
        return logits


def test_layers_without_one_row_an_image_are_left_out() -> None:
    assert list(outputs(classifier(Windows()), corners(130))) == ["fc"]


def test_the_network_stays_as_it_was_without_hooks() -> None:
    one = subject(tiny())
    before = state(one.model)
    cka(one, one, CASE)
    assert all(torch.equal(value, before[name]) for name, value in state(one.model).items())
    assert not any(module._forward_hooks for module in one.model.modules())


def told(features: Tensor, others: Tensor) -> Subject:
    """Return a subject with `features` of test images of class 2, and `others` of class 1."""
    labels = torch.tensor([2] * len(features) + [1] * len(others))
    test = Answers(torch.zeros(len(labels), 4), torch.cat((features, others)), labels)
    return Subject("edited", tiny(), Observed(test, test, test))


def test_features_of_forgotten_test_images_alone_are_compared() -> None:
    one, two = told(X, noise(50, 8).double()), told(3 * X, noise(50, 8, seed=1).double())
    found = cka_to(one, two, CASE)
    assert found.value == pytest.approx(1, abs=1e-9)
    assert found.n == 60
    assert cka_to(one, two, CASE, most=20).n == 20


def test_forgotten_images_themselves_are_compared_where_single_ones_were() -> None:
    case = case_of(DATA, INSTANCES)
    found = cka_to(subject(tiny(), case), subject(tiny(), case), case)
    assert (found.n, found.ci95) == (4, None)
    assert found.value == pytest.approx(1, abs=1e-9)


def test_the_interval_is_as_wide_as_values_vary() -> None:
    def pair(n: int, seed: int) -> tuple[Tensor, Tensor]:
        x = noise(n, 6, seed=seed, dtype=torch.float64)
        return x, x + 0.8 * noise(n, 6, seed=seed + 10_000, dtype=torch.float64)

    truth = linear_cka(*pair(1500, 0))
    none = torch.empty(0, 6, dtype=torch.float64)
    found = []
    for seed in range(1, 31):
        one, two = (told(x, none) for x in pair(40, seed))
        found.append(cka_to(one, two, CASE))
    spread = torch.tensor([f.value for f in found]).std().item()
    intervals = [f.ci95 or (0.0, 0.0) for f in found]
    width = sum(high - low for low, high in intervals) / len(intervals) / 2 / 1.96
    assert width == pytest.approx(spread, rel=0.3)
    assert sum(low <= truth <= high for low, high in intervals) >= 26  # of 30; 28 are expected
    assert all(high <= 1 for _, high in intervals)


def test_a_case_without_images_is_refused() -> None:
    case = case_of(DATA, ForgetRequest(classes=(2,)))
    case = replace(case, test=case.test.without_classes([2]))
    with pytest.raises(InputError, match="no test image of the classes"):
        cka(subject(tiny(), case), subject(tiny(), case), case)
