"""What an edit did to held-out images, so that nothing collapses unseen."""

import logging
from dataclasses import replace

import torch

from bandstop.edit.accuracy import accuracy_on
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, edited
from bandstop.edit.images import ImageSet
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest

_IMAGES = 1000  # enough for a point or two of accuracy
OVER_FORGOT = 0.10  # of accuracy lost on what should stay

log = logging.getLogger(__name__)


def judged(model: Classifier, edit: WeightEdit, request: ForgetRequest, data: Splits) -> WeightEdit:
    """Return `edit` with what it did to held-out images of what should stay, among its findings.

    `over_forgot` is whether accuracy on them fell by more than 10 points; a warning tells so.

    Args:
        model: the network that `edit` was made for.
        edit: of its weights.
        request: what was to be forgotten.
        data: at most 1,000 of its validation images are asked; without any, nothing is found.
    """
    stay = evenly(data.validate.without_classes(request.classes), _IMAGES)
    if not len(stay):
        return edit
    before, after = accuracy_on(model, stay), accuracy_on(edited(model, edit), stay)
    over = before - after > OVER_FORGOT
    if over:
        log.warning(
            "over-forgot: on held-out images of what should stay, accuracy fell from "
            "%.1f to %.1f %%; take weaker settings (such as a lower lr), or another method",
            100 * before,
            100 * after,
        )
    found = {"retain_acc_before": before, "retain_acc": after, "over_forgot": over}
    return replace(edit, found={**edit.found, "held_out": {**found, "n": len(stay)}})


def evenly(images: ImageSet, count: int) -> ImageSet:
    """Return at most `count` of the images, spread over the whole set."""
    step = -(-len(images) // count)
    return images if step <= 1 else images.take(torch.arange(0, len(images), step))
