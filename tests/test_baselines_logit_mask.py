"""The logit mask switches off a logit and touches nothing else."""

import pytest
import torch
from torch import nn

from bandstop.edit.baselines.logit_mask import OFF, LogitMask
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest
from tests.networks import classifier, corners, tiny

DATA = Splits(corners(4), corners(8), corners(8))


def without_bias() -> Classifier:
    return classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)))


def test_the_rows_of_the_classes_are_off_and_all_else_stays() -> None:
    model = tiny()
    edit = LogitMask()(model, ForgetRequest(classes=(1, 3)), DATA)
    before = model.network.state_dict()
    assert edit.weights.keys() == {"fc.weight", "fc.bias"}
    weight, bias = edit.weights["fc.weight"], edit.weights["fc.bias"]
    assert torch.equal(weight[[1, 3]], torch.zeros(2, 12))
    assert bias[[1, 3]].tolist() == [OFF, OFF]
    assert torch.equal(weight[[0, 2]], before["fc.weight"][[0, 2]])
    assert torch.equal(bias[[0, 2]], before["fc.bias"][[0, 2]])


@pytest.mark.parametrize(
    ("model", "request_", "message"),
    [
        (without_bias(), ForgetRequest(classes=(1,)), "needs a bias a class, and 1 has none"),
        (tiny(), ForgetRequest(instances=(1,)), "hides classes, not instances"),
        (classifier(nn.Flatten()), ForgetRequest(classes=(1,)), "no last linear layer"),
    ],
)
def test_what_cannot_be_masked_is_refused(
    model: Classifier, request_: ForgetRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LogitMask()(model, request_, DATA)
