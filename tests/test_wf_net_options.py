"""WF-Net's options: tied masks, chosen layers, sets of classes, frozen BatchNorm, Transformers."""

from dataclasses import replace
from itertools import combinations
from typing import Any, Literal

import pytest
import torch
from torch.func import functional_call

from bandstop.edit.arch import build
from bandstop.edit.batchnorm import example, fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.gates import Gated, bias_of, gateable, rows
from bandstop.edit.images import DataSplits
from bandstop.edit.method import Splits
from bandstop.edit.unlearn import every_class, settled, unlearn
from bandstop.edit.wf_net import PAPER, WFNet
from bandstop.edit.wf_objective import expand, objective
from bandstop.edit.wf_start import initial_alphas
from bandstop.edit.wf_training import Best
from tests.networks import TinyNet, classifier, corners, tiny, trained

QUICK = WFNet(steps=200, batch=64, validate_every=20)


def splits() -> Splits:
    return Splits(corners(200), corners(200).of_classes([]), corners(60, seed=5))


def forgets_and_retains(
    model: Classifier, edit: GateEdit, forget: list[int]
) -> tuple[float, float]:
    """Return the accuracy on the classes of `forget` and on the others, on new images."""
    test = corners(200, seed=9)
    image = (test.images[test.index] / 255 - model.mean) / model.std
    state = fold(model.network.state_dict(), edit, forget)
    with torch.no_grad():
        right = functional_call(model.network, state, (image,)).argmax(1) == test.labels
    gone = torch.isin(test.labels, torch.tensor(forget))
    return float(right[gone].float().mean()), float(right[~gone].float().mean())


OPTIONS: dict[str, dict[str, Any]] = {
    "tied": {"gates": "tied"},
    "last layers": {"layers": ("conv[23]",)},
    "sets": {"set_size": 2},
    "frozen": {"bn": "frozen"},
    "frozen and tied": {"bn": "frozen", "gates": "tied"},
    "adapt": {"bn": "adapt"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_forgets_and_retains(option: str) -> None:
    setting = replace(QUICK, **OPTIONS[option])
    model = setting.prepare(trained())
    model, edit = settled(model, setting(model, every_class(model), splits()))
    assert isinstance(edit, GateEdit)
    assert set(edit.masks) == set(gateable(model.network, setting.layers))
    for c in range(4):
        forget, retain = forgets_and_retains(model, edit, [c])
        assert forget <= 0.05
        assert retain >= 0.9


def test_tied_masks_are_the_same_for_kernel_and_bias() -> None:
    setting = replace(QUICK, gates="tied", steps=20)
    model = setting.prepare(trained())
    masks = setting(model, every_class(model), splits()).masks
    kernels = [name for name in masks if name.endswith("weight")]
    assert len(masks) == 2 * len(kernels)
    assert all(torch.equal(masks[name], masks[bias_of(name)]) for name in kernels)
    assert set(initial_alphas(model, 3.0, tied=True)) == set(kernels)


def test_tied_equals_kernel_and_bias_with_equal_tables() -> None:
    model = fold_batchnorm(tiny()).double()
    alphas = {n: torch.randn_like(a) for n, a in initial_alphas(model, 3.0, tied=True).items()}
    names = gateable(model.network)
    masks = {n: torch.sigmoid(a) for n, a in alphas.items()}
    both = masks | {bias_of(n): m for n, m in masks.items()}
    image, row = example(model, 6).double(), torch.tensor([0, 3, 1, 2, 2, 0])
    tied = Gated(model.network, tuple(names), tied=True)(image, rows(masks, row))
    apart = Gated(model.network, tuple(names))(image, rows(both, row))
    torch.testing.assert_close(tied, apart, rtol=1e-12, atol=1e-12)


def test_rows_of_a_set_equal_masks_folded_together() -> None:
    model = fold_batchnorm(tiny()).double()
    masks = {
        name: torch.rand(4, channels, generator=torch.Generator().manual_seed(i)).double()
        for i, (name, channels) in enumerate(gateable(model.network).items())
    }
    sets = torch.tensor([[0, 1], [2, 1], [3, 3], [1, 0]])
    image = example(model, 4).double()
    together = Gated(model.network, tuple(masks))(image, rows(masks, sets))
    for i, forget in enumerate(sets.tolist()):
        state = fold(model.network.state_dict(), GateEdit(masks), forget)
        alone = functional_call(model.network, state, (image[i : i + 1],))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-10, atol=1e-10)


def test_sets_hold_the_own_class_to_forget_and_never_to_retain() -> None:
    image, label = torch.zeros(400, 1, 1, 1), torch.arange(400) % 6
    generator = torch.Generator().manual_seed(0)
    _, row, labels, half = expand(image, label, 2, 6, generator, 3)
    assert row.shape == (200 + 400, 3)
    assert torch.equal(row[:half, 0], labels[:half])
    assert not (row[half:] == labels[half:, None]).any()
    sizes = [len(set(r)) for r in row.tolist()]
    assert set(sizes) == {1, 2, 3}
    assert all(r[len(set(r)) :] == [r[0]] * (3 - len(set(r))) for r in row.tolist())
    assert set(row[:half, 1].tolist()) == set(range(6))


def test_rows_in_no_set_feel_only_the_regulariser() -> None:
    model = fold_batchnorm(tiny(classes=9))
    alphas = initial_alphas(model, 3.0)
    net = Gated(model.network, tuple(gateable(model.network)))
    image, label = torch.rand(2, 1, 8, 8), torch.tensor([1, 0])
    setting = WFNet(chi=1, set_size=2, lambda2=0.0)
    _, row, _, _ = expand(image, label, 1, 9, torch.Generator().manual_seed(1), 2)
    objective(
        setting, model, net, alphas, image, label, torch.Generator().manual_seed(1)
    ).backward()
    absent = sorted(set(range(9)) - set(row.flatten().tolist()))
    assert absent
    for alpha in alphas.values():
        assert alpha.grad is not None
        assert not alpha.grad[absent].any()
        assert alpha.grad[1].any()


def test_sets_make_pairs_better() -> None:
    model = fold_batchnorm(trained())
    losses = {}
    for size in (1, 2):
        edit = replace(QUICK, set_size=size)(model, every_class(model), splits())
        pairs = [forgets_and_retains(model, edit, list(p)) for p in combinations(range(4), 2)]
        losses[size] = sum(forget + 1 - retain for forget, retain in pairs) / len(pairs)
    assert losses[2] < losses[1]
    assert losses[2] <= 0.1


def vit() -> Classifier:
    network = build(Arch("bandstop:vit", {"dim": 24, "depth": 2, "heads": 2}), 4, 1, (8, 8))
    model = classifier(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        image, label = next(corners(seed=1).batches(64, generator))
        loss = torch.nn.functional.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_a_transformer_is_unlearned_by_its_queries_keys_and_values() -> None:
    model = fold_batchnorm(vit())
    setting = replace(QUICK, lambda1=3.0, lambda2=0.1, lr=0.3)
    edit = setting(model, every_class(model), splits())
    assert {name.split(".")[-2] for name in edit.masks} == {"qkv"}
    results = [forgets_and_retains(model, edit, [c]) for c in range(4)]
    # with all attention shut this little network still says one of its classes
    assert sorted(forget for forget, _ in results)[2] <= 0.05
    assert sum(retain for _, retain in results) / 4 >= 0.6


@pytest.mark.parametrize("option", OPTIONS)
def test_the_seed_decides(option: str) -> None:
    setting = replace(QUICK, steps=40, **OPTIONS[option])
    model = setting.prepare(trained())
    one, two = (setting(model, every_class(model), splits()).masks for _ in range(2))
    other = replace(setting, seed=1)(model, every_class(model), splits()).masks
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_that_ends_worse_than_it_began_is_an_error() -> None:
    worse = Best(start=1.0)
    worse.see_(1, {}, 3.0)
    worse.see_(2, {}, 2.0)
    with pytest.raises(DivergedError, match=r"was 1 before the first step and never came below 2"):
        worse.check()
    with pytest.raises(DivergedError, match="validation loss is nan at step 3"):
        worse.see_(3, {}, float("nan"))
    setting = WFNet(steps=1, lambda1=0, lambda2=0, lr=1e6, optimizer="sgd", schedule="constant")
    model = setting.prepare(trained())
    with pytest.raises(DivergedError, match="before the first step"):
        setting(model, every_class(model), splits())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "set_size": ({"set_size": 4}, "set_size must be below 4, got 4"),
    "pattern": ({"layers": ("conv9",)}, r"wf-net: 'conv9' matches no layer \(there are conv"),
    "frozen": ({"bn": "frozen"}, "bn=frozen needs the original network"),
    "adapt": ({"bn": "adapt"}, "bn=adapt needs the original network"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_network_cannot_have_is_refused(case: str) -> None:
    options, message = REFUSED[case]
    model = fold_batchnorm(tiny())
    with pytest.raises(InputError, match=message):
        replace(QUICK, **options)(model, every_class(model), splits())


def test_networks_that_are_not_folded_and_missing_classes_are_refused_together() -> None:
    model = tiny()
    some = corners(200).of_classes([0, 1, 3])
    with pytest.raises(InputError, match=r"no training image of 1 classes \(class 2\).*fold it"):
        QUICK(model, every_class(model), Splits(some, some, some))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gates": "both"}, "gates must be kernel-bias or tied, got 'both'"),
        ({"bn": "batch"}, "bn must be fold or adapt or frozen, got 'batch'"),
        ({"layers": ()}, "layers must be one pattern or more"),
        ({"layers": "conv1"}, "layers must be one pattern or more, got 'conv1'"),
        ({"set_size": 0}, "set_size must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(WFNet(), **wrong)


def test_the_paper_masks_kernels_and_biases_alone() -> None:
    assert (PAPER.gates, PAPER.set_size, PAPER.layers) == ("kernel-bias", 1, ("*",))


@pytest.mark.parametrize(
    ("bn", "folded"), [("fold", True), ("adapt", "apart"), ("frozen", "apart")]
)
def test_unlearning_folds_batchnorm_as_the_setting_says(
    bn: Literal["fold", "adapt", "frozen"], folded: bool | str
) -> None:
    setting = replace(QUICK, steps=100, bn=bn)
    model = trained()
    data = splits()
    sets = DataSplits(
        data.forget, data.validate, data.validate, model.class_names, model.preprocess
    )
    network, _ = unlearn(model, setting, every_class(model), sets)
    assert network.bn_folded == folded
    assert not model.bn_folded


def test_adapted_statistics_are_those_of_masked_images_and_leave_the_model_alone() -> None:
    setting = replace(QUICK, steps=40, bn="adapt", batch=200)
    model = trained()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    edit = setting(model, every_class(model), splits())
    assert all(
        torch.equal(value, before[name]) for name, value in model.network.state_dict().items()
    )
    moved = {name: value - before[name] for name, value in edit.statistics.items()}
    assert {name.rpartition(".")[2] for name in moved} >= {"running_mean", "running_var"}
    assert all(bool(moved[name].any()) for name in moved if "running" in name)
    folded, written = settled(model, edit)
    assert isinstance(written, GateEdit)
    assert not written.statistics
    # one row: what the masks do on the folded network is what they do before the adapted BatchNorm
    image = example(model, 3)
    network = Gated(model.network, tuple(edit.masks))
    network.load_state_dict({f"network.{k}": v for k, v in edit.statistics.items()}, strict=False)
    masks = rows(edit.masks, torch.tensor([2, 2, 2]))
    with torch.no_grad():
        expected = network((image - model.mean) / model.std, masks)
        actual = functional_call(
            folded.network,
            fold(folded.network.state_dict(), written, [2]),
            ((image - model.mean) / model.std,),
        )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_network_without_batchnorm_has_nothing_to_adapt() -> None:
    model = classifier(TinyNet(norm=False))
    setting = replace(QUICK, bn="adapt")
    with pytest.raises(InputError, match="bn=adapt needs a network with BatchNorm"):
        setting(model, every_class(model), splits())
