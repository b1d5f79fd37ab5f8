"""Random labels, and SalUn, which lets only some of the weights follow them."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bandstop.edit.baselines.random_labels import RandomLabels
from bandstop.edit.baselines.salun import SalUn, salient
from bandstop.edit.errors import InputError
from bandstop.edit.method import split
from bandstop.edit.relabel import relabelled
from bandstop.edit.request import ForgetRequest
from tests.baseline_toys import CLASS, DATA, INSTANCES, forget, learnt, same, share
from tests.networks import corners

LABELS = RandomLabels(epochs=10, batch=32, forget_batch=16, lr=0.05)
SALUN = SalUn(epochs=10, batch=32, forget_batch=16, lr=0.05)
SEVERAL = ForgetRequest(classes=(0, 2))


@pytest.mark.parametrize(
    ("request_", "given"),
    [(CLASS, {0, 1, 3}), (SEVERAL, {1, 3}), (ForgetRequest(instances=(1,)), {0, 1, 2, 3})],
)
def test_no_image_gets_its_true_label_or_a_forgotten_class(
    request_: ForgetRequest, given: set[int]
) -> None:
    images = corners(400).of_classes(request_.classes or range(4))
    wrong = relabelled(images, request_, 4, seed=0)
    assert not (wrong.labels == images.labels).any()
    assert set(wrong.labels.tolist()) == given
    assert torch.equal(wrong.index, images.index)


def test_labels_are_even_and_drawn_from_the_seed() -> None:
    images = corners(4000).of_classes((2,))
    wrong = relabelled(images, CLASS, 4, seed=0)
    counts = wrong.labels.bincount(minlength=4)
    assert bool((counts[[0, 1, 3]] > 280).all())  # of 1000; 333 are expected, 15 deviate
    assert torch.equal(wrong.labels, relabelled(images, CLASS, 4, seed=0).labels)
    assert not torch.equal(wrong.labels, relabelled(images, CLASS, 4, seed=1).labels)
    free = relabelled(images, CLASS, 4, seed=0, true_label=True)
    assert free.labels.bincount(minlength=4).min() > 200


def test_labels_that_the_request_has_replace_random_ones() -> None:
    asked = replace(INSTANCES, labels=(1, 0, 3, 2))
    images = split(DATA, INSTANCES).forget.take(torch.tensor([3, 0, 2, 1]))
    assert relabelled(images, asked, 4, seed=0).labels.tolist() == [2, 1, 3, 0]
    with pytest.raises(InputError, match=r"^new labels must be 0\.\.3, got -1, 4$"):
        relabelled(images, replace(INSTANCES, labels=(1, 4, -1, 4)), 4, seed=0)


@pytest.mark.parametrize("method", [LABELS, SALUN], ids=["random-labels", "salun"])
def test_it_forgets_the_class_and_keeps_the_others(method: RandomLabels | SalUn) -> None:
    edit = forget(method)
    assert share(edit, DATA.test.of_classes((2,)), 2) == 0
    assert min(share(edit, DATA.test.of_classes((c,)), c) for c in (0, 1, 3)) >= 0.9


@pytest.mark.parametrize("part", [0.1, 0.5, 1.0, 1e-9])
def test_the_mask_is_the_share_of_largest_gradients(part: float) -> None:
    model, images = learnt(), corners(600, seed=9)  # more than one batch
    mask = salient(model, images, part)
    twin = copy.deepcopy(model)
    image, label = next(images.batches(len(images)))
    F.cross_entropy(twin(image), label).backward()
    slopes = {n: w.grad for n, w in twin.network.named_parameters() if w.grad is not None}
    assert slopes.keys() == mask.keys()
    size = torch.cat([slopes[name].abs().flatten() for name in mask])
    inside = torch.cat([m.flatten() for m in mask.values()])
    assert int(inside.sum()) == max(1, round(part * len(size)))
    if part < 1:  # up to rounding: the mask's gradient is a sum over batches
        assert size[inside].min() >= size[~inside].max() * (1 - 1e-3)
    assert all(w.grad is None for w in model.network.parameters())


def test_weights_outside_the_mask_stay_bit_for_bit() -> None:
    method = replace(SALUN, share=0.3, weight_decay=0.1)
    edit, model = forget(method), learnt()
    mask = salient(model, split(DATA, CLASS).forget, 0.3)
    for name, weight in model.network.named_parameters():
        after = edit.weights.get(name, weight)
        assert torch.equal(after[~mask[name]], weight[~mask[name]])
        assert not bool((after == weight)[mask[name]].any())


def test_salun_with_every_weight_is_random_labels_bit_for_bit() -> None:
    assert same(forget(replace(SALUN, share=1.0)), forget(LABELS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "salun: share must be a number above 0"),
        ({"share": 1.5}, "salun: share must be at most 1, got 1.5"),
        ({"batch": 0, "lr": -1.0}, "batch must .*; lr must"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SalUn(), **settings)
