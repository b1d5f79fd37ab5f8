"""Bad teacher: two teachers, one of whom knows nothing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.bad_teacher import BadTeacher, untrained
from bandstop.edit.baselines.training import divergence
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits, split
from tests.baseline_toys import CLASS, DATA, INSTANCES, forget, learnt, resumed, same, state

SETTING = BadTeacher(epochs=8, batch=32, lr=5e-3, retain_share=1.0)
QUICK = replace(SETTING, epochs=1)


def probability(answer: Tensor, labels: Tensor) -> float:
    """Return the mean probability of the true class."""
    return float(answer.softmax(1)[torch.arange(len(labels)), labels].mean())


def test_the_untrained_teacher_is_nearly_uniform_and_knows_nothing_of_the_original() -> None:
    model, before = learnt(), state(learnt())
    answer = logits(untrained(model, 0), DATA.test)
    entropy = -(answer.softmax(1) * answer.log_softmax(1)).sum(1).mean()
    assert float(entropy) > 0.8 * math.log(4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    folded = fold_batchnorm(model)  # other weights, of the same kind
    assert torch.equal(answer, logits(untrained(folded, 0), DATA.test))
    assert not torch.equal(answer, logits(untrained(model, 1), DATA.test))


def test_the_random_numbers_of_others_do_not_change_the_teacher() -> None:
    torch.manual_seed(1)
    drawn = torch.get_rng_state()
    one = logits(untrained(learnt(), 0), DATA.test)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.manual_seed(2)
    assert torch.equal(one, logits(untrained(learnt(), 0), DATA.test))


def test_it_is_unsure_of_what_is_forgotten_and_of_nothing_else() -> None:
    student = edited(learnt(), forget(SETTING))
    gone, stay = DATA.test.of_classes((2,)), DATA.test.without_classes((2,))
    assert probability(logits(learnt(), gone), gone.labels) > 0.8
    assert probability(logits(student, gone), gone.labels) < 0.4
    before = probability(logits(learnt(), stay), stay.labels)
    assert probability(logits(student, stay), stay.labels) > before - 0.1


def test_instances_are_unlearned_by_the_bad_teacher_too() -> None:
    student = edited(learnt(), forget(SETTING, INSTANCES))

    def lost(images: ImageSet) -> float:
        before, after = (logits(model, images) for model in (learnt(), student))
        return probability(before, images.labels) - probability(after, images.labels)

    # pictures of a corner are nearly alike, so that those which stay hold the four that go
    assert lost(split(DATA, INSTANCES).forget) > lost(split(DATA, INSTANCES).retain) + 0.02


def test_labels_are_not_read() -> None:
    def unlabelled(images: ImageSet) -> ImageSet:
        return replace(images, labels=torch.zeros_like(images.labels))

    parts = split(DATA, CLASS)
    blind = Splits(unlabelled(parts.forget), unlabelled(parts.retain), parts.validate)
    assert same(forget(QUICK), forget(QUICK, data=blind))


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_run_ends_with_the_same_bytes(after: int, tmp_path: Path) -> None:
    assert same(resumed(QUICK, tmp_path / "state", after), forget(QUICK))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_of_known_answers(temperature: float) -> None:
    # softened, the target is (3/4, 1/4) and the answer (1/2, 1/2)
    target = temperature * torch.tensor([[math.log(3.0), 0.0]])
    wanted = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    got = float(divergence(torch.zeros(1, 2), target, temperature))
    assert got == pytest.approx(wanted * temperature**2, rel=1e-5)
    assert float(divergence(target, target, temperature)) == pytest.approx(0, abs=1e-6)


def test_settings_and_data_that_nothing_can_be_taught_with_are_refused() -> None:
    with pytest.raises(InputError, match="bad-teacher: retain_share must be at most 1, got 2"):
        BadTeacher(retain_share=2)
    with pytest.raises(InputError, match="temperature must be a number above 0"):
        BadTeacher(temperature=0)
    parts = split(DATA, CLASS)
    nothing = Splits(parts.forget.of_classes(()), parts.retain.of_classes(()), parts.validate)
    with pytest.raises(InputError, match="bad-teacher: no images to forget and none to retain"):
        forget(QUICK, data=nothing)


@pytest.mark.parametrize(
    ("share_", "images"), [(1.0, 150), (0.3, 45), (0.001, 1)], ids=["all", "some", "one"]
)
def test_only_a_sample_of_the_retained_images_is_read(share_: float, images: int) -> None:
    read: set[int] = set()

    class Watched:
        def __len__(self) -> int:
            return 200

        def __getitem__(self, index: Tensor, /) -> Tensor:
            read.update(index.tolist())
            return DATA.train.images[index]

    parts = split(DATA, CLASS)
    watched = replace(parts, retain=replace(parts.retain, images=Watched()))
    # enough passes that a last batch which is not full does not matter
    forget(replace(QUICK, retain_share=share_, epochs=4), data=watched)
    assert len(read) == images
