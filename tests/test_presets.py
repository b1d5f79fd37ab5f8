"""Presets: each one is valid for its method, and says whether anybody measured it."""

import logging
from dataclasses import replace

import pytest

from bandstop.edit.errors import InputError
from bandstop.edit.methods import METHODS, PAPER, configured, known_presets, preset, resolved
from bandstop.edit.presets import Preset, parse_presets, read_presets
from bandstop.edit.svd import SVD
from bandstop.edit.wf_net import WFNet

ALL = [(method, name) for method, presets in read_presets().items() for name in presets]
NETWORKS = {
    *("small-resnet", "small-vgg", "small-vit", "efficientnet-lite0", "vgg11-bn", "vgg16"),
    *("resnet18", "resnet50", "vit-b-16", "vit-tiny", "vit-small"),
}


def test_every_method_has_presets_and_starts_with_its_default() -> None:
    assert read_presets().keys() == METHODS.keys()
    for method in METHODS:
        assert known_presets(method)[0] == "default"
        assert preset(method) == METHODS[method]()
    for method in PAPER:
        assert preset(method, "paper") == PAPER[method] != preset(method)
    for method in ("svd", "wf-net"):
        assert set(known_presets(method)) >= NETWORKS | {"paper"}


@pytest.mark.parametrize(("method", "name"), ALL)
def test_every_preset_is_valid_and_tells_what_it_is(method: str, name: str) -> None:
    entry = read_presets()[method][name]
    assert type(resolved(method, entry)) is METHODS[method]
    assert entry.measured == bool(entry.command and entry.result)
    assert bool(entry.network) == (name not in ("default", "paper"))


def test_values_of_the_papers() -> None:
    svd_paper, wf_paper = PAPER["svd"], PAPER["wf-net"]
    assert isinstance(svd_paper, SVD)
    assert isinstance(wf_paper, WFNet)
    imagenet = replace(
        svd_paper, alpha_r=(100.0,), alpha_f=(10.0,), retain_images=999, forget_images=500
    )
    assert preset("svd", "vit-b-16") == imagenet
    assert preset("svd", "vgg11-bn") == replace(svd_paper, alpha_r=(100.0,), alpha_f=(3.0,))
    assert preset("wf-net", "resnet18") == replace(wf_paper, lambda1=10.0)
    assert preset("wf-net", "vit-small") == replace(wf_paper, lambda1=100.0)


def test_what_nobody_measured_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        preset("wf-net", "vgg16")
    assert caplog.messages == ["preset vgg16 of wf-net is unmeasured: the paper's values"]
    caplog.clear()
    preset("svd")
    assert caplog.messages == []
    assert Preset(measured=False).remark == "unmeasured: the method's defaults"
    assert Preset(measured=True, command="bandstop x", result="1 %").remark == ""


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("svm", "default", "no method 'svm'; expected one of svd"),
        ("svd", "best", "svd has no preset 'best'; expected default, paper, small-resnet"),
        ("logit-mask", "paper", "expected default$"),
    ],
)
def test_unknown_methods_and_presets_are_refused(method: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preset(method, name)


def test_an_unknown_method_has_no_presets() -> None:
    with pytest.raises(InputError, match="no method 'svm'"):
        known_presets("svm")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{}", r"svd\.x\.measured: Field required"),
        ("{measured: true}", "names its command and its result"),
        ("{measured: true, command: c}", "names its command and its result"),
        ("{measured: false, result: r}", "only a measured preset has"),
        ("{measured: false, alpha_r: [1]}", r"svd\.x\.alpha_r: Extra inputs"),
        ("{measured: 1}", r"svd\.x\.measured: "),
        ("{measured: false, base: best}", r"svd\.x\.base: "),
        ("{measured: false, settings: 3}", r"svd\.x\.settings: "),
        ("{", "not readable YAML"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        parse_presets(f"svd:\n  x: {entry}\n")
    assert str(refused.value).startswith("presets.yaml: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "text", "message"),
    [
        ("svd", "settings: {alpha: [1]}", r"svd: unknown setting alpha; expected alpha_r"),
        ("svd", "settings: {alpha_r: many}", r"svd: alpha_r: "),
        ("wf-net", "settings: {chi: 0}", "chi must be 1 or more"),
        ("logit-mask", "base: paper", "logit-mask is of no paper"),
    ],
)
def test_settings_that_the_method_does_not_take_are_refused(
    method: str, text: str, message: str
) -> None:
    entry = parse_presets(f"{method}:\n  x: {{measured: false, {text}}}\n")[method]["x"]
    with pytest.raises(InputError, match=message):
        resolved(method, entry)


def test_settings_are_put_on_top() -> None:
    assert configured(SVD(seed=3), {"alpha_r": [1, 2]}) == SVD(alpha_r=(1.0, 2.0), seed=3)
