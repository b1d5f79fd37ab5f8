"""The benchmark of exported graphs on small networks."""

import json

import pytest
import torch

from bandstop.bench import graph, graph_files
from bandstop.bench.__main__ import main
from bandstop.bench.graph_files import (
    Files,
    Network,
    PlainAttention,
    best_plain,
    random_classifier,
    same_structure,
)
from bandstop.edit.batchnorm import example
from bandstop.edit.classifier import Arch

SMALL = {
    "resnet18_32": Network(Arch("bandstop:resnet", {"width": 4, "blocks": "1"}), 8, classes=4),
    "vit_tiny_224": Network(
        Arch("bandstop:vit", {"dim": 12, "depth": 2, "heads": 2}), 8, classes=4
    ),
}


@pytest.fixture(scope="module")
def files() -> Files:
    return Files()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, files: Files) -> None:
    monkeypatch.setattr(graph, "Files", lambda: files)
    monkeypatch.setattr(graph, "NETWORKS", SMALL)
    monkeypatch.setattr(graph_files, "NETWORKS", SMALL)


def test_cells_are_timed_and_files_told(capsys: pytest.CaptureFixture[str]) -> None:
    cells = "gated_resnet18_32_b1_t1,baked_resnet18_32_b8_*,gated_k4_resnet18_32_b1_t1"
    assert main(["graph", "--cells", cells, "--rounds", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    timed = {"gated_resnet18_32_b1_t1", "gated_k4_resnet18_32_b1_t1"}
    timed |= {f"baked_resnet18_32_b8_t{threads}" for threads in (1, 2)}
    assert timed == {key for key in told if key[-3:-1] == "_t"}
    assert all(told[key]["rounds"] == 2 and told[key]["cpu_ratio"] > 0 for key in timed)
    columns = 3 * 4  # tied: three convolutions, four wide
    assert set(told["table_bytes"].values()) == {4 * columns * 4}
    assert told["baked_identical"] == {"resnet18_32": True}
    assert all(seconds > 0 for seconds in told["export_seconds"].values())


def test_a_file_with_masks_is_built_otherwise(files: Files) -> None:
    assert same_structure(files.of("resnet18_32", "plain"), files.of("resnet18_32", "original"))
    assert not same_structure(files.of("resnet18_32", "gated"), files.of("resnet18_32", "original"))


def test_no_such_cell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", "--cells", "gated_lenet"]) == 2
    assert "matches none of gated_resnet18_32_b1_t1" in capsys.readouterr().err


def test_attention_without_masks_is_the_same_function() -> None:
    model = random_classifier(SMALL["vit_tiny_224"])
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(5).add_(0.1)
        image = example(model, 2)
        torch.testing.assert_close(best_plain(model)(image), model(image), rtol=1e-4, atol=1e-4)
    assert any(isinstance(m, PlainAttention) for m in best_plain(model).network.modules())
