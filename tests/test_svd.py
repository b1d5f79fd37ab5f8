"""SVD unlearning on small networks, against the paper's way of computing it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bandstop.edit import svd_grid
from bandstop.edit.attention import SelfAttention
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, fold
from bandstop.edit.errors import DivergedError, InputError, NothingForgottenError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.method import Splits, split
from bandstop.edit.moments import (
    editable_layers,
    layer_rows,
    second_moments,
    summed,
    weight_matrix,
    weight_of,
)
from bandstop.edit.projection import Rows, normalised, project
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import PAPER, SVD
from bandstop.edit.svd_grid import ClassMoments, Grid, chosen_layers, unit_moments
from tests.networks import classifier, corners, tiny, trained

FORGET = ForgetRequest(classes=(2,))
ONE_POINT = SVD(
    alpha_r=(30.0,), alpha_f=(10.0,), retain_images=999, forget_images=999, depth=0.0, head=1.0
)


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
        edited[f"{name}.weight"] = torch.cat(groups).reshape(weight_of(layer).shape)
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


def test_layers_are_changed_by_their_share_of_the_papers_edit() -> None:
    model = fold_batchnorm(trained())
    state = model.network.state_dict()
    paper = ONE_POINT(model, FORGET, splits()).weights
    ours = replace(ONE_POINT, depth=2.0, head=1.5)(model, FORGET, splits()).weights
    count = len(paper)
    shares = [(i / count) ** 2 for i in range(1, count)] + [1.5]
    for (name, weight), share in zip(paper.items(), shares, strict=True):
        want = state[name] + share * (weight - state[name])
        torch.testing.assert_close(ours[name], want, rtol=0, atol=1e-6)


def test_an_image_to_forget_is_read_as_crops() -> None:
    model, seen = fold_batchnorm(trained()), []
    layer = model.network.get_submodule("conv1")
    layer.register_forward_pre_hook(lambda _m, x: seen.append(len(x[0])))
    replace(ONE_POINT, forget_images=5, crops=4)(model, FORGET, splits())
    assert 20 in seen
    with pytest.raises(InputError, match="leave crops at 0"):
        next(replace(ONE_POINT, crops=4).each(model, [1], data_splits()))


def test_grid_points_are_compared_on_so_many_images_of_each_side() -> None:
    few = replace(ONE_POINT, compare="accuracy", validate_images=7)
    trial = few(fold_batchnorm(trained()), FORGET, splits()).found["trials"]
    assert isinstance(trial, list)
    assert all(round(7 * share, 6) == round(7 * share) for share in trial[0][2:4])


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
        (lambda: SVD(depth=-1.0, head=float("nan")), "depth must be .*; head must be"),
        (lambda: SVD(validate_images=0), "validate_images must be 1 or more, got 0"),
        (lambda: SVD(max_rows=0), "max_rows must be 1 or more, got 0"),
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


class Attend(nn.Module):
    """A Transformer block's attention: packed, or with a linear layer each for q, k and v."""

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 6), nn.Linear(6, 4)
        self.attention = SelfAttention(6, 2, batch_first=True)
        self.parts = nn.ModuleList([] if packed else [nn.Linear(6, 6) for _ in range(3)])

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image[:, 0])  # each row of the image is a token
        if not self.parts:
            x = self.attention(x, x, x, need_weights=False)[0]
        else:
            qkv = torch.cat([part(x) for part in self.parts], dim=-1)
            x = self.attention.out_proj(self.attention.attend(qkv)[0])
        logits: Tensor = self.head(x.mean(1))
        return logits


def packed_and_split() -> tuple[Classifier, Classifier]:
    torch.manual_seed(0)
    packed, parted = Attend(packed=True), Attend(packed=False)
    parted.load_state_dict(packed.state_dict(), strict=False)
    for part, weight in zip(parted.parts, packed.attention.in_proj_weight.chunk(3), strict=True):
        part.load_state_dict({"weight": weight, "bias": torch.zeros(6)})
    return classifier(packed).double(), classifier(parted).double()


def test_packed_attention_is_edited_like_its_three_parts() -> None:
    packed, parted = packed_and_split()
    layers = chosen_layers(packed.network, ("*",), (), None)
    spaces = [unit_moments(packed, corners(40).of_classes([c]), layers) for c in (0, 1)]
    whole = Grid(layers, spaces[0], spaces[1]).weights(30.0, 10.0)
    layers = chosen_layers(parted.network, ("*",), ("attention",), None)
    spaces = [unit_moments(parted, corners(40).of_classes([c]), layers) for c in (0, 1)]
    parts = Grid(layers, spaces[0], spaces[1]).weights(30.0, 10.0)
    torch.testing.assert_close(
        whole["attention.in_proj_weight"],
        torch.cat([parts[f"parts.{i}.weight"] for i in range(3)]),
        rtol=0,
        atol=1e-12,
    )
    for name in ("attention.out_proj.weight", "embed.weight", "head.weight"):
        torch.testing.assert_close(whole[name], parts[name], rtol=0, atol=1e-12)


def test_fold_commutes_to_ten_digits() -> None:
    model = trained().double()
    folded = fold_batchnorm(model)
    sides = []
    for each in (model, folded):
        layers = chosen_layers(each.network, ("*",), (), None)
        spaces = [unit_moments(each, corners(40).of_classes([c]), layers) for c in (0, 1)]
        state = fold(
            each.network.state_dict(),
            WeightEdit(Grid(layers, spaces[0], spaces[1]).weights(30.0, 10.0)),
        )
        edited = trained().double() if each is model else fold_batchnorm(model)
        edited.network.load_state_dict(state)
        sides.append(edited if each is folded else fold_batchnorm(edited))
    for name, value in sides[0].network.state_dict().items():
        other = sides[1].network.state_dict()[name]
        assert float((value - other).norm()) <= 1e-10 * float(value.norm())


@pytest.mark.parametrize(
    ("setting", "edited"),
    [
        ({"last": 1}, {"fc"}),
        ({"last": 2}, {"conv3", "fc"}),
        ({"layers": ("conv*",)}, {"conv1", "conv2", "conv3"}),
        ({"layers": ("conv?", "fc"), "exclude": ("conv1", "*3")}, {"conv2", "fc"}),
        ({"layers": ("conv*",), "last": 1}, {"conv3"}),
        ({"last": 99}, {"conv1", "conv2", "conv3", "fc"}),
    ],
)
def test_only_chosen_layers_are_edited(setting: dict[str, Any], edited: set[str]) -> None:
    model = fold_batchnorm(trained())
    edit = replace(ONE_POINT, **setting)(model, FORGET, splits())
    assert set(edit.weights) == {f"{name}.weight" for name in edited}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layers": ("convv2",)}, r"'convv2' matches no layer \(there are conv2"),
        ({"exclude": ("conf1", "x")}, "'conf1' matches .*; 'x' matches no layer"),
        ({"exclude": ("*",)}, "no layer is left"),
        ({"last": 0}, "last must be 1 or more"),
        ({"layers": ()}, "layers must name a pattern"),
    ],
)
def test_layers_that_are_not_there_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(ONE_POINT, **setting)(fold_batchnorm(tiny()), FORGET, splits())


def test_the_report_says_what_is_gone_from_each_layer() -> None:
    model = fold_batchnorm(trained()).double()
    edit = replace(ONE_POINT, alpha_f=(1000.0,))(model, FORGET, splits())
    name = "conv2"  # in two groups
    layer = editable_layers(model.network)[name]
    for side, images in (("forget", splits().forget), ("retain", splits().retain)):
        rows = activations(model, images)[name]
        rows = rows / rows.square().sum((1, 2), keepdim=True).sqrt()
        old = weight_matrix(layer).double()
        new = edit.weights[f"{name}.weight"].reshape(old.shape)
        want = 1 - float((rows @ new.mT).square().sum() / (rows @ old.mT).square().sum())
        removed = edit.found[f"{side}_removed"]
        assert isinstance(removed, dict)
        assert removed[f"{name}.weight"] == pytest.approx(want, abs=1e-6)
    forget, retain = edit.found["forget_removed"], edit.found["retain_removed"]
    assert isinstance(forget, dict)
    assert isinstance(retain, dict)
    assert forget.keys() == retain.keys() == edit.weights.keys()
    assert sum(forget.values()) > sum(retain.values())


def data_splits(count: int = 80) -> DataSplits:
    prep = trained().preprocess
    return DataSplits(corners(count), corners(60, seed=5), corners(), tuple("abcd"), prep)


ALL = replace(ONE_POINT, retain_images=60, forget_images=20)


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_each_class_is_forgotten_as_if_alone(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all images read, the sum without a class is what that class alone retains."""
    monkeypatch.setattr(svd_grid, "_KEPT_MOMENTS", kept)
    model = fold_batchnorm(trained()).double()
    data = data_splits()
    found = dict(ALL.each(model, (0, 1, 2, 3), data))
    assert list(found) == [0, 1, 2, 3]
    for c, edit in found.items():
        assert isinstance(edit, WeightEdit)
        request = ForgetRequest((c,))
        alone = ONE_POINT(model, request, split(data, request))
        for name, weight in alone.weights.items():
            torch.testing.assert_close(edit.weights[name], weight, rtol=0, atol=1e-10)


def test_each_reads_every_image_once() -> None:
    model = fold_batchnorm(trained())
    seen: list[int] = []
    hook = model.network.get_submodule("conv1").register_forward_hook(
        lambda _m, x, _y: seen.append(len(x[0]))
    )
    moments = ClassMoments(model, corners(80), editable_layers(model.network))
    assert sum(seen) == 80
    moments.unit(2)
    assert sum(seen) == 80
    hook.remove()


def test_each_with_wide_layers_keeps_rows_of_all_classes() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model, images = classifier(network).double(), corners(40)
    layers = editable_layers(model.network)
    retain, forget = ClassMoments(model, images, layers).unit(1)
    alone = (unit_moments(model, images.without_classes([1]), layers), retain)
    assert isinstance(forget["1"], Rows)
    weight = weight_matrix(layers["1"])
    for a, b in zip(alone[0].values(), alone[1].values(), strict=True):
        torch.testing.assert_close(project(weight, a, 30.0), project(weight, b, 30.0))


@pytest.mark.parametrize("kept", [1 << 30, 0])
def test_classes_of_few_rows_add_up_to_a_moment(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd_grid, "_KEPT_MOMENTS", kept)
    monkeypatch.setattr(svd_grid, "_CLASS_ROWS", 20)
    model, images = fold_batchnorm(trained()).double(), corners(80)
    layers = {"conv3": editable_layers(model.network)["conv3"]}  # d = 72
    moments = ClassMoments(model, images, layers, 80, seed=4)
    parts = [
        second_moments(model, images.of_classes([c]), layers=layers, max_rows=20, seed=4)["conv3"]
        for c in range(4)
    ]
    weight = weight_matrix(layers["conv3"])
    for _ in range(2):  # a class is not changed by being asked for
        retain, forget = (side["conv3"] for side in moments.unit(2))
        assert isinstance(forget, Rows)
        assert isinstance(retain, Tensor)
        assert isinstance(parts[2], Rows)
        want = summed([part for c, part in enumerate(parts) if c != 2])
        for got, wanted in ((retain, want), (forget, summed([parts[2]]))):
            torch.testing.assert_close(
                project(weight, got, 30.0), project(weight, normalised(wanted), 30.0)
            )


def test_a_cap_that_nothing_reaches_changes_nothing() -> None:
    model = fold_batchnorm(trained())
    capped, every = (
        replace(ONE_POINT, max_rows=most)(model, FORGET, splits()) for most in (10_000, None)
    )
    assert all(torch.equal(weight, every.weights[n]) for n, weight in capped.weights.items())


def test_an_edit_from_some_rows_is_near_that_of_all() -> None:
    model = fold_batchnorm(trained())
    state = model.network.state_dict()
    capped, every = (
        replace(ONE_POINT, max_rows=most)(model, FORGET, splits(400)) for most in (2000, None)
    )
    for name, weight in every.weights.items():
        change = (weight - state[name]).norm()
        assert (capped.weights[name] - weight).norm() <= 0.2 * change, name
    assert not torch.equal(capped.weights["conv1.weight"], every.weights["conv1.weight"])


def test_a_class_that_cannot_be_forgotten_does_not_stop_the_others() -> None:
    setting = replace(ALL, alpha_r=(0.0,), alpha_f=(1e-9,), compare="accuracy")
    found = dict(setting.each(fold_batchnorm(trained()), (0, 1), data_splits()))
    assert [type(edit) for edit in found.values()] == [NothingForgottenError] * 2


def test_each_refuses_a_class_without_images() -> None:
    data = replace(data_splits(), train=corners(80).without_classes([1]))
    with pytest.raises(InputError, match="no forget images"):
        next(ALL.each(fold_batchnorm(trained()), (0, 1), data))


def test_a_network_of_nans_is_told() -> None:
    model = fold_batchnorm(tiny())
    nn.init.constant_(model.network.get_parameter("conv1.weight"), torch.nan)
    with pytest.raises(DivergedError, match="reads is not finite"):
        ONE_POINT(model, FORGET, splits())
