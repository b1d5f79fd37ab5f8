"""The rows a layer reads, against the layer itself; second moments against stored activations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bandstop.edit.images import ImageSet
from bandstop.edit.moments import Layer, layer_rows, second_moments, weight_matrix
from tests.networks import corners, noise, tiny

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "linear on vectors": (nn.Linear(6, 5), (3, 6)),
    "linear on tokens": (nn.Linear(6, 5), (3, 7, 6)),
    "3x3": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8)),
    "1x1": (nn.Conv2d(4, 6, 1), (2, 4, 1, 1)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2), (2, 4, 9, 7)),
    "dilated": (nn.Conv2d(4, 6, 3, dilation=2, padding=2), (2, 4, 8, 8)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 8, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 8, 8)),
    "patches": (nn.Conv2d(3, 6, 4, stride=4), (2, 3, 8, 8)),
    "same": (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2), (2, 4, 8, 8)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    "uneven": (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)), (2, 4, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_is_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    x = noise(*shape)
    rows = layer_rows(layer, x)  # (groups, n, d)
    y = rows @ weight_matrix(layer).mT  # (groups, n, out / groups)
    if isinstance(layer, nn.Linear):
        want = F.linear(x, layer.weight).reshape(1, -1, layer.out_features)
    else:
        out = layer._conv_forward(x, layer.weight, None)  # (images, out, h, w)
        want = out.transpose(0, 1).reshape(layer.groups, -1, rows.shape[1]).mT
    torch.testing.assert_close(y, want.detach(), rtol=1e-5, atol=1e-5)


def test_streamed_moments_equal_those_of_all_activations() -> None:
    model, images = tiny(), corners(30)
    model.double()
    moments = second_moments(model, images, batch=7)
    kept: list[torch.Tensor] = []
    layer = model.network.conv2
    assert isinstance(layer, nn.Conv2d)
    hook = layer.register_forward_pre_hook(lambda _m, x: kept.append(x[0]))
    with torch.no_grad():
        model((images.images[images.index].float() / 255).double())
    hook.remove()
    rows = layer_rows(layer, kept[0])
    torch.testing.assert_close(moments["conv2"], rows.mT @ rows, rtol=1e-12, atol=1e-9)


def test_moments_of_classes_add_up() -> None:
    model, images = tiny().double(), corners(40)
    whole = second_moments(model, images)
    parts = [second_moments(model, images.of_classes([c])) for c in range(4)]
    for name, moment in whole.items():
        torch.testing.assert_close(sum(p[name] for p in parts), moment, rtol=1e-9, atol=1e-9)


def test_model_is_left_alone_and_hooks_are_gone() -> None:
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    second_moments(model, corners(8))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_an_error_midway_removes_the_hooks() -> None:
    model = tiny()
    wrong = ImageSet(torch.zeros(2, 5, 8, 8, dtype=torch.uint8), torch.arange(2), torch.zeros(2))
    with pytest.raises(RuntimeError):
        second_moments(model, wrong)
    assert not any(m._forward_pre_hooks for m in model.modules())
