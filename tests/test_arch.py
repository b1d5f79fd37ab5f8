"""Networks by name: seeded, from a closed set, and never from code that was not trusted."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bandstop.edit.arch import build, parse_arch
from bandstop.edit.classifier import Arch, ArchArg
from bandstop.edit.errors import InputError
from bandstop.edit.storage import state_sha256

SMALL = Arch("bandstop:resnet", {"width": 4, "blocks": "1-1"})


@pytest.mark.parametrize("name", ["bandstop:resnet", "bandstop:vit", "timm:resnet18"])
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    arch = SMALL if name == SMALL.name else Arch(name)
    torch.manual_seed(1)
    first = build(arch, 3, 3, (32, 32), seed=5).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = build(arch, 3, 3, (32, 32), seed=5).state_dict()
    other = build(arch, 3, 3, (32, 32), seed=6).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert state_sha256(first) == state_sha256(again) != state_sha256(other)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("resnet", {"width": "32"}, Arch("bandstop:resnet", {"width": 32})),
        ("resnet", {"blocks": "1-1"}, Arch("bandstop:resnet", {"blocks": "1-1"})),
        ("bandstop:vit", {}, Arch("bandstop:vit")),
        ("timm:resnet18", {}, Arch("timm:resnet18")),
        ("vgg", {"width": "٣"}, Arch("bandstop:vgg", {"width": "٣"})),  # no ASCII digit
    ],
)
def test_an_arch_is_read_from_text(name: str, args: dict[str, str], expected: Arch) -> None:
    assert parse_arch(name, args) == expected


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet", {"blocks": "2-x"}, "like 2-2-2-2, got '2-x'"),
        ("resnet", {"blocks": ""}, "got ''"),
        ("resnet", {"blocks": "0-1"}, "got '0-1'"),
        ("resnet", {"blocks": "1-65"}, "got '1-65'"),
        ("resnet", {"blocks": "1-1-1-1-1-1"}, "1 to 5 numbers"),
        ("resnet", {"blocks": 2}, "got blocks=2"),
        ("resnet", {"width": 0}, "got width=0"),
        ("resnet", {"width": -4}, "got width=-4"),
        ("resnet", {"width": 4097}, "got width=4097"),
        ("resnet", {"width": 4.0}, "got width=4.0"),
        ("resnet", {"width": True}, "got width=True"),
        ("resnet", {"width": None}, "got width=None"),
        ("resnet", {"depth": 3, "width": 0}, "got depth=3, width=0"),
        ("vgg", {"layout": "vgg12"}, "has layouts vgg8, vgg11, vgg13, vgg16, vgg19, got 'vgg12'"),
        ("vgg", {"blocks": "1-1"}, "got blocks='1-1'"),
        ("vit", {"patch": 5}, "a patch that divides 8x8"),
        ("vit", {"patch": 16}, "a patch that divides 8x8"),
        ("vit", {"heads": 5}, "heads that divide dim"),
        ("vit", {"heads": 0}, "got heads=0"),
        ("alexnet", {}, "expected one of resnet, vgg, vit"),
        ("", {}, "expected one of resnet, vgg, vit"),
    ],
)
def test_our_networks_take_a_closed_set_of_arguments(
    name: str, args: dict[str, ArchArg], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        build(Arch(f"bandstop:{name}", args), 4, 1, (8, 8))
    assert f"bandstop:{name}" in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("torchvision:resnet19", 3, "torchvision has no classifier 'resnet19'"),
        ("torchvision:fcn_resnet50", 3, "torchvision has no classifier"),  # would download
        ("torchvision:resnet18", 1, "takes images of 3 channels, got 1"),
        ("timm:resnet19", 3, "timm has no model 'resnet19'"),
        ("resnet", 3, "no network 'resnet'"),
        (":f", 3, "no network ':f'"),
        ("module:", 3, "no network 'module:'"),
        ("", 3, "no network ''"),
    ],
)
def test_an_unknown_network_is_refused(name: str, channels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(Arch(name), 4, channels, (32, 32))


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "own:network"])
def test_others_networks_take_no_arguments(name: str) -> None:
    with pytest.raises(InputError, match="takes no arguments"):
        build(Arch(name, {"width": 8}), 4, 3, (32, 32))


def test_timm_networks_take_grey_images_and_other_sizes() -> None:
    for name, channels in (("timm:resnet18", 1), ("timm:vit_tiny_patch16_224", 3)):
        network = build(Arch(name), 4, channels, (32, 32)).eval()
        assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 4)


OWN = """
from pathlib import Path
from torch import nn

Path(__file__).with_suffix(".ran").touch()


def network(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def text(num_classes):
    return "no network"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_network_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_network_of_a_test", raising=False)
    return tmp_path / "own_network_of_a_test.ran"


def test_a_factory_runs_only_when_trusted(own: Path) -> None:
    arch = Arch("own_network_of_a_test:network")
    with pytest.raises(InputError, match="--trust-factory"):
        build(arch, 4, 1, (8, 8))
    assert not own.exists()
    network = build(arch, 4, 1, (8, 8), trust_factory=True)
    assert own.exists()
    assert isinstance(network, nn.Sequential)
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_network_of_a_test:text", "returned a str, expected an nn.Module"),
        ("own_network_of_a_test:absent", "cannot be imported"),
        ("no_module_of_this_name:network", "cannot be imported"),
    ],
)
def test_a_factory_that_makes_no_network_is_refused(own: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(Arch(name), 4, 1, (8, 8), trust_factory=True)
