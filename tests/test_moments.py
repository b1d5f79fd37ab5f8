"""The rows a layer reads, against the layer itself; second moments against stored activations."""

from collections.abc import Callable

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bandstop.edit.attention import SelfAttention
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.moments import (
    Layer,
    editable_layers,
    layer_rows,
    second_moments,
    weight_matrix,
    weight_name,
)
from bandstop.edit.projection import Rows, Space, project
from tests.networks import classifier, corners, noise, tiny

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
    "timm's same, strided": (Conv2dSame(4, 6, 3, stride=2), (2, 4, 9, 8)),
    "timm's same, depthwise": (Conv2dSame(4, 4, 5, stride=2, groups=4), (2, 4, 8, 7)),
    "timm's same, dilated": (Conv2dSame(4, 6, (3, 2), stride=(3, 1), dilation=2), (2, 4, 7, 9)),
    "uneven": (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)), (2, 4, 8, 8)),
}


def matrix(space: Space) -> Tensor:
    return space.rows.mT @ space.rows if isinstance(space, Rows) else space


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_is_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    x = noise(*shape)
    rows = layer_rows(layer, x)  # (groups, n, d)
    y = rows @ weight_matrix(layer).mT  # (groups, n, out / groups)
    if isinstance(layer, nn.Linear):
        want = F.linear(x, layer.weight).reshape(1, -1, layer.out_features)
    else:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        out = layer(x) - layer.bias[:, None, None]  # (images, out, h, w)
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
    torch.testing.assert_close(matrix(moments["conv2"]), rows.mT @ rows, rtol=1e-12, atol=1e-9)


def test_moments_of_classes_add_up() -> None:
    model, images = tiny().double(), corners(40)
    whole = second_moments(model, images)
    parts = [second_moments(model, images.of_classes([c])) for c in range(4)]
    for name, moment in whole.items():
        total = sum(matrix(p[name]) for p in parts)
        torch.testing.assert_close(total, matrix(moment), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [5, 128, 129, 1500])
def test_blocks_of_the_gram_matrix_make_the_whole(d: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(d, 2))
    pixels = (noise(2000, 1, 1, d) * 50 + 128).clamp(0, 255).byte()
    images = ImageSet(pixels, torch.arange(2000), torch.zeros(2000))
    rows = ((pixels.flatten(1).float() / 255).double() - 0.5) / 0.25
    moment = second_moments(classifier(network).double(), images, batch=300)["1"]
    assert isinstance(moment, Tensor)
    torch.testing.assert_close(moment[0], rows.T @ rows, rtol=1e-10, atol=1e-7)


def test_a_layer_wider_than_there_are_images_keeps_its_rows() -> None:
    """As VGG's first linear layer: 20,000 features would be 3 GB a matrix."""
    d = 20_000
    network = nn.Sequential(nn.Flatten(), nn.Linear(d, 2))
    images = ImageSet(
        torch.randint(256, (30, 1, 1, d), dtype=torch.uint8), torch.arange(30), torch.zeros(30)
    )
    with Largest() as largest:
        moment = second_moments(classifier(network), images)["1"]
        assert isinstance(moment, Rows)
        project(weight_matrix(network[1]), moment, 30.0)  # type: ignore[arg-type]  # a Linear
    assert largest.elements <= 2 * 30 * d


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "linear on vectors"])
def test_sampled_rows_are_rows_of_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    x = noise(*shape)
    every = layer_rows(layer, x).unflatten(1, (len(x), -1))  # (groups, images, positions, d)
    last = every.shape[2] - 1
    positions = torch.tensor([[last, 0], [last // 2, last], [last // 3, 0]])[: len(x)]
    want = torch.stack([every[:, i, at] for i, at in enumerate(positions)], dim=1).flatten(1, 2)
    assert torch.equal(layer_rows(layer, x, positions), want)


def flat_images(values: Tensor, size: int) -> ImageSet:
    """Return grey images of one value each."""
    pixels = values.byte()[:, None, None, None].expand(-1, 1, size, size)
    return ImageSet(pixels.contiguous(), torch.arange(len(values)), torch.zeros(len(values)))


@pytest.mark.parametrize(("max_rows", "each"), [(30, 3), (35, 3), (5, 1), (640, 64), (9999, 64)])
def test_every_image_has_an_equal_share_of_the_rows(max_rows: int, each: int) -> None:
    model = classifier(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())).double()
    values = torch.arange(0, 250, 25)
    moment = second_moments(model, flat_images(values, 8), max_rows=max_rows)["0"]
    energy = ((values.double() / 255 - 0.5) / 0.25).square().sum()
    torch.testing.assert_close(matrix(moment).sum(), each * energy, rtol=1e-6, atol=0)


def test_no_row_of_an_image_is_drawn_twice_and_images_differ_in_theirs() -> None:
    model = classifier(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten()), size=4).double()
    pixels = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    values = ((pixels.double() / 255 - 0.5) / 0.25).square().flatten()
    left_out = set()
    for seed in range(8):
        images = ImageSet(pixels, torch.arange(1), torch.zeros(1))
        moment = matrix(second_moments(model, images, max_rows=15, seed=seed)["0"])
        gap = (values.sum() - moment.sum() - values).abs()
        assert float(gap.min()) <= 1e-5
        left_out.add(int(gap.argmin()))
    assert len(left_out) > 1
    twins = ImageSet(pixels, torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    both = matrix(second_moments(model, twins, max_rows=6)["0"]).sum()
    one = matrix(second_moments(model, twins.take(torch.arange(1)), max_rows=3)["0"]).sum()
    assert abs(float(both - 2 * one)) > 1e-3


def test_sampled_moments_depend_on_the_seed_and_not_on_the_batch() -> None:
    model, images = tiny().double(), corners(30)
    a, b, other = (
        second_moments(model, images, batch=batch, max_rows=120, seed=seed)
        for batch, seed in ((7, 3), (30, 3), (7, 4))
    )
    again = second_moments(model, images, batch=7, max_rows=120, seed=3)
    for name in ("conv1", "conv2", "conv3"):
        assert torch.equal(matrix(a[name]), matrix(again[name]))
        torch.testing.assert_close(matrix(a[name]), matrix(b[name]), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(matrix(a[name]), matrix(other[name]))
    assert torch.equal(matrix(a["fc"]), matrix(other["fc"]))


def test_vectors_are_read_whole() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    capped, every = (
        second_moments(classifier(network), corners(200), max_rows=most)["1"] for most in (10, None)
    )
    assert torch.equal(matrix(capped), matrix(every))


def test_tokens_are_sampled_and_windows_belong_to_their_image() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.map(x.reshape(len(x) * 4, 4, 4))  # four windows of four tokens
            return y.reshape(len(x), -1)

    values = torch.arange(0, 250, 25)
    moment = second_moments(classifier(Windows()).double(), flat_images(values, 8), max_rows=20)
    energy = 4 * ((values.double() / 255 - 0.5) / 0.25).square().sum()
    trace = matrix(moment["map"])[0].trace()
    torch.testing.assert_close(trace, 2 * energy, rtol=1e-6, atol=0)


def test_a_convolution_that_reads_few_rows_keeps_them() -> None:
    model, images = tiny().double(), corners(9)
    moment = second_moments(model, images, max_rows=36)["conv3"]  # 4 of 9 positions, d = 72
    assert isinstance(moment, Rows)
    assert moment.rows.shape == (1, 36, 72)


class Largest(TorchDispatchMode):
    """Sees the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.elements = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def attention_network() -> nn.Sequential:
    class Attend(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # inside a Sequential
            return super().forward(x, x, x)[0]

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 8), Attend(8, 2, batch_first=True), nn.Flatten()
    )


def test_the_input_map_of_an_attention_reads_the_tokens() -> None:
    network = attention_network()
    images = corners(10)
    moments = second_moments(classifier(network).double(), images)
    assert set(moments) == {"1", "2", "2.out_proj"}
    with torch.no_grad():
        x = ((images.images[images.index].float() / 255).double() - 0.5) / 0.25
        tokens = network[:2](x).flatten(0, 1)
    torch.testing.assert_close(matrix(moments["2"])[0], tokens.T @ tokens, rtol=1e-9, atol=1e-9)
    layer = editable_layers(network)["2"]
    assert weight_name("2", layer) == "2.in_proj_weight"
    assert weight_matrix(layer).shape == (1, 24, 8)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight, self.bias)


@pytest.mark.parametrize(
    "layer", [StdConv2d(1, 4, 3), StdConv2dSame(1, 4, 3, stride=2), Twice(8, 4)]
)
def test_a_layer_that_multiplies_with_something_else_is_refused(layer: nn.Module) -> None:
    with pytest.raises(InputError, match=f"0 is a {type(layer).__name__}, which does not"):
        second_moments(classifier(nn.Sequential(layer, nn.Flatten())), corners(8))
    assert not layer._forward_hooks


def test_what_is_not_finite_is_told() -> None:
    model = tiny()
    assert isinstance(model.network.conv1, nn.Conv2d)
    nn.init.constant_(model.network.conv1.weight, torch.nan)
    with pytest.raises(DivergedError, match="conv2 reads is not finite"):
        second_moments(model, corners(8))


def test_only_the_layers_asked_for_are_watched() -> None:
    model = tiny()
    seen = second_moments(model, corners(8), layers=["conv2"])
    assert list(seen) == ["conv2"]


def test_model_is_left_alone_and_hooks_are_gone() -> None:
    model = tiny()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    second_moments(model, corners(8))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_an_error_midway_removes_the_hooks() -> None:
    model = tiny()
    wrong = ImageSet(torch.zeros(2, 5, 8, 8, dtype=torch.uint8), torch.arange(2), torch.zeros(2))
    with pytest.raises(RuntimeError):
        second_moments(model, wrong)
    assert not any(m._forward_hooks for m in model.modules())
