"""Adversarial images: where they lie, what they are for, what is kept of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bandstop.edit.adversarial import Attack, adversaries, descend, first_steps
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import ArtifactError
from bandstop.edit.images import Preprocess
from bandstop.edit.seeds import seeded
from tests.networks import corners, noise, tiny

QUICK = Attack(eps=2.0, steps=5)


def two_classes() -> Classifier:
    """Return logits W x of two pixels far from the box's walls, w_0 = (1, 0), w_1 = (0, 1)."""
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.eye(2)
    prep = Preprocess((1, 2), 1, (0.0,), (1.0,))
    return Classifier(nn.Sequential(nn.Flatten(), head), Arch("test:two"), prep, ("a", "b"))


def test_of_a_linear_network_the_perturbation_is_known() -> None:
    # eps (w_t - w_s) / ||w_t - w_s||, here of length 0.2 so that the box is not met
    image = torch.full((1, 1, 1, 2), 0.5)
    how = Attack(eps=0.2, steps=100, rate=0.02)
    delta = descend(two_classes(), image, torch.tensor([1]), torch.zeros_like(image), how)
    expected = 0.2 * torch.tensor([-0.70711, 0.70711]).reshape(1, 1, 1, 2)
    torch.testing.assert_close(delta, expected, rtol=0, atol=1e-5)


def test_perturbations_stay_in_the_ball_and_pictures_in_the_box() -> None:
    model = tiny(norm=True)
    image, label = next(corners(16).batches(16))
    start = torch.cat([first_steps(one, 1, 2.0, seeded(0, i)) for i, one in enumerate(image)])
    delta = descend(model, image, (label + 1) % 4, start, QUICK)
    for value in (start, delta):
        assert value.flatten(1).norm(dim=1).max() <= 2.0 * (1 + 1e-6)
        assert (image + value).min() >= 0
        assert (image + value).max() <= 1
    assert not torch.equal(start, delta)


def test_the_first_steps_lie_on_the_sphere_but_for_the_box() -> None:
    grey = torch.full((1, 8, 8), 0.5)
    start = first_steps(grey, 3, 1.0, seeded(0))
    torch.testing.assert_close(start.flatten(1).norm(dim=1), torch.ones(3))
    assert not torch.equal(start[0], start[1])


def test_the_model_is_left_as_it_was() -> None:
    model = tiny(norm=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adversaries(model, corners(4), 2, QUICK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_targets_are_never_the_label_and_cover_the_others() -> None:
    images = corners(8)
    made = adversaries(tiny(), images, 30, replace(QUICK, steps=0)).images
    own = images.labels.repeat_interleave(30)
    assert len(made) == 240
    assert not bool((made.labels == own).any())
    for c in range(4):
        assert set(made.labels[own == c].tolist()) == {0, 1, 2, 3} - {c}


def test_attacks_raise_the_probability_of_the_target() -> None:
    model, images = tiny(norm=True), corners(24)
    how = Attack(eps=3.0, steps=30)
    made = adversaries(model, images, 2, how)
    with torch.no_grad():
        before = model(next(images.batches(24))[0]).softmax(1).repeat_interleave(2, 0)
        after = model(next(made.images.batches(48))[0]).softmax(1)
    target = made.images.labels[:, None]
    raised = (after.gather(1, target) > before.gather(1, target)).double().mean()
    assert raised > 0.9
    assert 0 < made.fooled <= 1
    assert made.fooled == (after.argmax(1) == target[:, 0]).double().mean().item()


def test_what_is_made_of_an_instance_does_not_depend_on_the_others() -> None:
    model, images = tiny(norm=False), corners(6)
    all_, some = (
        adversaries(model, part, 3, QUICK, seed=5)
        for part in (images, images.take(torch.tensor([4, 5])))
    )
    one, other = all_.images.images, some.images.images
    assert isinstance(one, torch.Tensor)
    assert isinstance(other, torch.Tensor)
    assert (one[12:].int() - other.int()).abs().max() <= 1  # a rounding of the last bit
    assert torch.equal(all_.images.labels[12:], some.images.labels)
    again = adversaries(model, images, 3, QUICK, seed=5)
    assert torch.equal(again.images.images[torch.arange(18)], one)
    assert not torch.equal(
        adversaries(model, images, 3, QUICK, seed=6).images.images[torch.arange(18)], one
    )


def test_finished_ones_are_read_from_the_cache(tmp_path: Path) -> None:
    model, images = tiny(), corners(6)
    how = replace(QUICK, batch=6)  # two instances at once
    made = adversaries(model, images, 3, how, cache=tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 6
    stamps = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()  # as if the run had been interrupted
    again = adversaries(model, images, 3, how, cache=tmp_path)
    assert torch.equal(again.images.images[torch.arange(18)], made.images.images[torch.arange(18)])
    assert again.fooled == made.fooled
    made_again = [file for file in files if file.stat().st_mtime_ns != stamps[file]]
    assert len(made_again) == 2  # that one and the one that is made with it


@pytest.mark.parametrize("what", ["model", "seed", "eps", "pixels"])
def test_the_cache_tells_what_was_made_from_something_else(tmp_path: Path, what: str) -> None:
    model, images = tiny(), corners(2)
    adversaries(model, images, 2, QUICK, cache=tmp_path)
    other = corners(2, seed=9) if what == "pixels" else images
    adversaries(
        tiny(seed=1) if what == "model" else model,
        other,
        2,
        replace(QUICK, eps=1.0) if what == "eps" else QUICK,
        seed=int(what == "seed"),
        cache=tmp_path,
    )
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_a_corrupt_file_in_the_cache_is_told(tmp_path: Path) -> None:
    adversaries(tiny(), corners(2), 2, QUICK, cache=tmp_path)
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(noise(20).numpy().tobytes())
    with pytest.raises(ArtifactError, match="no adversarial images; remove it"):
        adversaries(tiny(), corners(2), 2, QUICK, cache=tmp_path)
