"""Relearning without one forgotten image: train on what stays and see whether the rest returns."""

import torch

from bandstop.edit.accuracy import logits
from bandstop.edit.baselines.training import Draws, adam, cross_entropy, trained
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, share
from bandstop.edit.evaluation.observed import Case, Subject, sample
from bandstop.edit.evaluation.relearn import attackable, forgotten_images
from bandstop.edit.images import ImageSet


def retain_tune_acc(
    subject: Subject,
    retain: ImageSet,
    case: Case,
    *,
    epochs: int = 1,
    most: int = 5000,
    batch: int = 128,
    lr: float = 1e-4,
) -> Measure:
    """Return the accuracy on the forgotten after training on retained images alone.

    A network that never saw the forgotten stays where it was; one that only hides them may get them
    back. Siddiqui et al. (arXiv 2505.22310) saw forgotten images recover from about 50 % to nearly
    100 %; they train for up to 100 epochs at a low rate. One epoch of Adam without augmentation is
    a cheap look, and no upper bound of what an attacker reaches.

    The accuracy is that on the test images of the forgotten classes, all pooled, or on the
    forgotten images themselves. See `attackable` for where the training starts.

    Args:
        subject: left as it was.
        retain: training images that stay.
        case: what was forgotten; its seed draws images and order.
        epochs: passes over the images.
        most: images that are trained on at most, drawn at random.
        batch: images a step.
        lr: of Adam. Much higher, it wipes out even what the original knows of the forgotten, as
            nothing reminds it.

    Raises:
        InputError: a forgotten image is among `retain`, nothing can be asked, or a setting is
            wrong.
        DivergedError: the loss became NaN or infinite.
    """
    if min(epochs, most, batch) < 1:
        raise InputError(
            f"retain-tune: epochs, most and batch must be 1 or more, got {epochs}, {most}, {batch}"
        )
    check_retained(retain, case)
    asked = forgotten_images(case)
    draws = Draws(sample(retain, most, case.seed), batch, case.seed, augment=False)
    student, _ = trained(
        attackable(subject.model, case.classes),
        lambda student, step: cross_entropy(student, *draws(step)),
        epochs * draws.per_epoch,
        name=f"retain-tune {subject.name}",
        optimizer=adam(lr),
        seed=case.seed,
    )
    hits = int((logits(student, asked).argmax(1) == asked.labels).sum())
    return share(hits, len(asked))


def check_retained(images: ImageSet, case: Case) -> None:
    """Refuse images for an attack that must not see what was forgotten.

    Raises:
        InputError: there are none, or forgotten ones among them.
    """
    if case.classes:
        among = torch.isin(images.labels, torch.tensor(case.classes))
    else:
        same = images.images is case.forget.images
        among = torch.isin(images.index, case.forget.index) & same
    if not len(images) or bool(among.any()):
        raise InputError(
            f"the images of this attack must be retained ones: expected 1 or more with none that "
            f"was forgotten, got {len(images)} with {int(among.sum())}"
        )
