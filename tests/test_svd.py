"""SVD unlearning on small networks, against the paper's way of computing it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import fold
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.moments import editable_layers, layer_rows, weight_matrix
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import PAPER, SVD
from tests.networks import classifier, corners, tiny, trained

FORGET = ForgetRequest(classes=(2,))
ONE_POINT = SVD(alpha_r=(30.0,), alpha_f=(10.0,), retain_images=999, forget_images=999)


def splits(count: int = 80) -> Splits:
    images = corners(count)
    return Splits(images.of_classes([2]), images.without_classes([2]), corners(60, seed=5))


def activations(model: Classifier, images: ImageSet) -> dict[str, Tensor]:
    """Return what every layer reads, all of it kept, (groups, n, d) in float64."""
    kept: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _m, x, name=name, layer=layer: kept.update({name: layer_rows(layer, x[0])})
        )
        for name, layer in editable_layers(model.network).items()
    ]
    with torch.no_grad():
        model(images.images[images.index].to(model.mean) / 255)
    for hook in hooks:
        hook.remove()
    return {name: rows.double() for name, rows in kept.items()}


def projector_by_svd(rows: Tensor, alpha: float) -> Tensor:
    u, sigma, _ = torch.linalg.svd(rows.T, full_matrices=False)
    share = sigma**2 / (sigma**2).sum()
    p: Tensor = (u * (alpha * share / ((alpha - 1) * share + 1))) @ u.T
    return p


def paper_way(model: Classifier, data: Splits, alpha_r: float, alpha_f: float) -> dict[str, Tensor]:
    """Return every edited weight as algorithm 1 of the paper has it: SVD of stored activations."""
    retain, forget = activations(model, data.retain), activations(model, data.forget)
    edited = {}
    for name, layer in editable_layers(model.network).items():
        groups = []
        for weight, r, f in zip(
            weight_matrix(layer).double(), retain[name], forget[name], strict=True
        ):
            p_f = projector_by_svd(f, alpha_f)
            p_dis = p_f - p_f @ projector_by_svd(r, alpha_r)
            groups.append(weight @ (torch.eye(len(p_dis)).double() - p_dis).T)
        edited[f"{name}.weight"] = torch.cat(groups).reshape(layer.weight.shape)
    return edited


def test_closed_form_equals_the_papers_svd() -> None:
    model = fold_batchnorm(tiny()).double()
    edit = ONE_POINT(model, FORGET, splits())
    want = paper_way(model, splits(), 30.0, 10.0)
    assert edit.weights.keys() == want.keys()
    for name, weight in edit.weights.items():
        torch.testing.assert_close(weight, want[name], rtol=0, atol=1e-6)
        assert not torch.equal(weight, model.network.state_dict()[name])


def test_only_kernels_change_and_every_layer_does() -> None:
    model = fold_batchnorm(trained())
    edit = SVD()(model, FORGET, splits())
    assert set(edit.weights) == {f"{n}.weight" for n in editable_layers(model.network)}
    changes = edit.found["relative_change"]
    assert isinstance(changes, dict)
    assert min(changes.values()) > 0
    for name, weight in edit.weights.items():
        old = model.network.state_dict()[name]
        assert weight.shape == old.shape
        assert weight.dtype == old.dtype


def test_fold_then_edit_equals_edit_then_fold() -> None:
    """BatchNorm scales rows of the weight, the edit multiplies from the right: they commute."""
    model = trained().double()
    edited = trained().double()
    edit = ONE_POINT(model, FORGET, splits())
    edited.network.load_state_dict(fold(model.network.state_dict(), edit))
    folded = fold_batchnorm(model)
    other = fold(folded.network.state_dict(), ONE_POINT(folded, FORGET, splits()))
    for name, value in fold_batchnorm(edited).network.state_dict().items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-9)


def test_two_classes_are_removed_together() -> None:
    model = fold_batchnorm(trained())
    images = corners(200)
    request = ForgetRequest(classes=(0, 3))
    data = Splits(
        images.of_classes(request.classes), images.without_classes(request.classes), corners(seed=5)
    )
    edit = SVD()(model, request, data)
    after = model.replaced(fold_batchnorm(trained()).network)
    after.network.load_state_dict(fold(model.network.state_dict(), edit))
    test = corners(200, seed=9)
    right = after(test.images[test.index] / 255).argmax(1) == test.labels
    forgotten = torch.isin(test.labels, torch.tensor(request.classes))
    assert right[forgotten].float().mean() <= 0.05
    assert right[~forgotten].float().mean() >= 0.9


def test_samples_are_as_many_of_each_class() -> None:
    images = corners(200)
    seen: list[int] = []

    class Counting(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            logits: Tensor = self.inner(x)
            return logits

    model = fold_batchnorm(tiny())
    model.network = Counting(model.network)
    setting = SVD(alpha_r=(10.0,), alpha_f=(1.0,), retain_images=30, forget_images=7)
    setting(model, FORGET, Splits(images.of_classes([2]), images.without_classes([2]), images))
    assert seen[:2] == [30, 7]


@pytest.mark.parametrize(
    ("setting", "data", "message"),
    [
        (SVD(), Splits(corners().of_classes([]), corners(), corners()), "no forget images"),
        (SVD(), Splits(corners(), corners().of_classes([]), corners()), "no retain images"),
        (
            SVD(),
            Splits(corners(), corners(), corners().without_classes([2])),
            "no forget validation images",
        ),
    ],
)
def test_unusable_settings_and_empty_sets_are_refused(
    setting: SVD, data: Splits, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        setting(fold_batchnorm(tiny()), FORGET, data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SVD(alpha_r=()), "alpha_r must be a list"),
        (lambda: SVD(alpha_f=(-1.0,)), "alpha_f must be a list of finite numbers >= 0"),
        (lambda: SVD(alpha_f=(float("nan"),)), "alpha_f"),
        (lambda: SVD(alpha_r=(float("inf"),), forget_images=0), "alpha_r .*; forget_images"),
        (lambda: SVD(retain_images=-5), "retain_images must be 1 or more, got -5"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], SVD], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_papers_preset_compares_accuracies() -> None:
    edit = PAPER(fold_batchnorm(trained()), FORGET, splits())
    trials = edit.found["trials"]
    assert isinstance(trials, list)
    assert all(round(t[3] * 15, 6) == round(t[3] * 15) for t in trials)  # of 15 forget images


def test_an_edit_that_is_no_better_than_none_is_refused() -> None:
    with pytest.raises(NothingForgottenError, match="none of 1 settings did better"):
        SVD(alpha_r=(0.0,), alpha_f=(1e-9,), compare="accuracy")(
            fold_batchnorm(trained()), FORGET, splits()
        )


class Bypassed(nn.Module):
    """Multiplies with a layer's weight without calling it, as MultiheadAttention does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x.flatten(1)), self.out.weight, self.out.bias)


def test_a_layer_that_is_never_called_is_named() -> None:
    with pytest.raises(InputError, match="never calls out"):
        ONE_POINT(classifier(Bypassed()), FORGET, splits())
