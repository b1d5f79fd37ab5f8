"""SVD on the head alone: the control for methods that hide a class there."""

import pytest
import torch

from bandstop.edit.baselines.svd_head import SVDHead
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.method import Splits, split
from bandstop.edit.methods import METHODS
from bandstop.edit.svd import SVD
from tests.baseline_toys import CLASS, DATA, INSTANCES, learnt


def folded() -> Classifier:
    return fold_batchnorm(learnt())


def test_only_the_head_is_edited() -> None:
    edit = SVDHead()(folded(), CLASS, split(DATA, CLASS))
    assert list(edit.weights) == ["fc.weight"]
    assert not torch.equal(edit.weights["fc.weight"], folded().network.state_dict()["fc.weight"])


@pytest.mark.parametrize(
    ("head", "svd"),
    [
        (SVDHead(), SVD(last=1)),
        (SVDHead(seed=5), SVD(last=1, seed=5)),
        (
            SVDHead(alpha_r=(10.0,), alpha_f=(3.0,), head=1.0),
            SVD(alpha_r=(10.0,), alpha_f=(3.0,), head=1.0, last=1),
        ),
    ],
)
def test_it_is_svd_on_the_last_layer(head: SVDHead, svd: SVD) -> None:
    one, two = (method(folded(), CLASS, split(DATA, CLASS)) for method in (head, svd))
    assert one.found == two.found
    assert torch.equal(one.weights["fc.weight"], two.weights["fc.weight"])
    assert METHODS[head.name] is SVDHead


def test_instances_and_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match=r"^svd-head forgets classes, not instances$"):
        SVDHead()(folded(), INSTANCES, split(DATA, INSTANCES))
    with pytest.raises(InputError, match="alpha_r must be a list of finite numbers"):
        SVDHead(alpha_r=())
    empty = DATA.train.of_classes(())
    with pytest.raises(InputError, match="no forget images"):
        SVDHead()(folded(), CLASS, Splits(empty, DATA.train, DATA.validate))
