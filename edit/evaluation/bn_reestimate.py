"""BatchNorm as a back door: new statistics undo what a mask before a BatchNorm has scaled.

A mask on the output of a convolution scales a channel; so do the mean and the deviation that its
BatchNorm divides by, once somebody takes them anew. That needs no label and no gradient.
"""

import copy

import torch

from bandstop.edit.accuracy import logits
from bandstop.edit.batchnorm import BatchNorm, adapt_, freeze_
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Measure, share
from bandstop.edit.evaluation.observed import Case, sample
from bandstop.edit.evaluation.relearn import forgotten_images
from bandstop.edit.evaluation.retain_tune import check_retained
from bandstop.edit.images import ImageSet

_BATCH = 64


def bn_reestimate_acc(
    model: Classifier, unlabelled: ImageSet, case: Case, *, images: int = 256
) -> Measure:
    """Return the accuracy on the forgotten once BatchNorm's statistics are taken anew.

    A network without BatchNorm is asked as it is, and the note says so. The accuracy is that on the
    test images of the forgotten classes, all pooled, or on the forgotten images themselves.

    Args:
        model: folded or not; left as it was.
        unlabelled: images of which none was forgotten; their labels are only looked at to make
            sure of that.
        case: what was forgotten; its seed draws the images.
        images: how many the statistics are taken of, at most.

    Raises:
        InputError: fewer than 2 images, a forgotten one among them, or nothing can be asked.
    """
    check_retained(unlabelled, case)
    asked = forgotten_images(case)
    attacked = reestimated(model, sample(unlabelled, images, case.seed))
    hits = int((logits(attacked, asked).argmax(1) == asked.labels).sum())
    found = share(hits, len(asked))
    note = "" if _norms(model) else "no BatchNorm left"
    return Measure(found.value, found.ci95, found.n, note)


def reestimated(model: Classifier, images: ImageSet) -> Classifier:
    """Return a copy of `model` whose BatchNorms remember the statistics of `images`.

    They are the plain averages over batches of about 64, in which each BatchNorm works on those of
    the batch. All other modules stay in evaluation, and no parameter changes.

    Raises:
        InputError: fewer than 2 images, of which there are no statistics.
    """
    if len(images) < 2:
        raise InputError(f"statistics need 2 images or more, got {len(images)}")
    copied = copy.deepcopy(model).eval()
    for norm in _norms(copied):
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches
    adapt_(copied)
    # parts of about one size, so that none is a single image
    parts = torch.arange(len(images)).tensor_split(-(-len(images) // _BATCH))
    with torch.no_grad():
        for part in parts:
            image, _ = next(images.take(part).batches(_BATCH))
            copied(image.to(copied.mean))
    freeze_(copied)
    return copied


def _norms(model: Classifier) -> list[BatchNorm]:
    return [module for module in model.modules() if isinstance(module, BatchNorm)]
