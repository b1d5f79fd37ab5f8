"""A network whose class is hidden by masks inside or before its BatchNorms."""

import functools
from dataclasses import replace
from typing import Literal

from bandstop.edit.accuracy import forget_and_retain, logits
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import edited
from bandstop.edit.evaluation.observed import case_of
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from bandstop.edit.wf_net import WFNet
from tests.baseline_toys import CLASS, DATA, learnt
from tests.networks import corners

CASE = case_of(replace(DATA, test=corners(400, seed=2)), CLASS)
OTHERS = corners(400, seed=7).without_classes([2])


@functools.cache
def masked(bn: Literal["fold", "frozen"]) -> Classifier:
    """Return `learnt` under WF-Net's masks for class 2, inside or before its BatchNorms."""
    method = WFNet(steps=60, batch=32, validate_every=10, bn=bn)
    every = ForgetRequest(classes=(0, 1, 2, 3))
    ready = method.prepare(learnt())
    gates = method(ready, every, Splits(DATA.train, DATA.train, DATA.validate))
    return edited(ready if bn == "fold" else learnt(), gates, [2])


def accuracies(model: Classifier) -> tuple[float, float]:
    """Return the accuracies on class 2 and on the others."""
    return forget_and_retain(logits(model, CASE.test).argmax(1), CASE.test.labels, [2])
