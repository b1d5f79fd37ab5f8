import json
import math
import subprocess
import sys

import pytest
import torch

from bandstop.bench.__main__ import main
from bandstop.bench.memory import Job, Side, peak_growth
from bandstop.bench.svd_reference import Paper, capped_rows
from bandstop.bench.svd_reference import edit as reference_edit
from bandstop.bench.svd_time import edit
from bandstop.bench.timing import Comparison, Spent, interleaved, quartiles
from bandstop.bench.wf_step import OrdinaryStep, WFNetStep, rows
from bandstop.bench.workload import resnet18, retain_and_forget, shapes
from bandstop.edit.wf_net import WFNet

RATIOS = (
    "svd_time_ratio",
    "svd_memory_ratio",
    "svd_all_classes_ratio",
    "wf_step_ratio",
    "pgd_ratio",
)
Done = subprocess.CompletedProcess[str]
UNCAPPED = Paper(row_cap=10**9)


@pytest.fixture(scope="module")
def quick() -> Done:
    """The quick run."""
    command = [sys.executable, "-m", "bandstop.bench", "edit", "--quick", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_quick_run_prints_one_json_object_with_every_ratio(
    quick: Done,
) -> None:
    assert quick.returncode == 0, quick.stderr
    result = json.loads(quick.stdout)
    for key in RATIOS:
        assert math.isfinite(result[key])
        assert result[key] > 0
    assert "svd_time" in quick.stderr


def test_the_table_counts_every_layer_of_a_resnet18(
    quick: Done,
) -> None:
    layers = json.loads(quick.stdout)["svd_layers"]
    assert sum(layer["count"] for layer in layers) == 21  # 20 convolutions and the head
    assert len(layers) == 12
    twice = {layer["d"] for layer in layers if layer["reference_side_counted_twice"]}
    assert twice == {576}
    ours = sum(layer["count"] * layer["ours_s"] for layer in layers)
    reference = sum(layer["count"] * layer["reference_s"] for layer in layers)
    assert json.loads(quick.stdout)["svd_time_ratio"] == pytest.approx(ours / reference)


def test_both_ways_of_a_layer_give_the_same_weight_where_no_row_is_left_out() -> None:
    model = resnet18(4, 8, seed=1)
    retain, forget = retain_and_forget(36, 40, 8, seed=1)
    for shape in shapes(model, retain, forget):
        ours = edit(shape.model, shape.retain, shape.forget, UNCAPPED)
        theirs = reference_edit(shape.model, shape.retain, shape.forget, UNCAPPED)
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            assert (weight - theirs[name]).norm() <= 1e-4 * theirs[name].norm(), shape.name


def test_layers_alone_are_edited_as_in_the_network() -> None:
    model = resnet18(4, 8, seed=1)
    retain, forget = retain_and_forget(36, 40, 8, seed=1)
    whole = reference_edit(model, retain, forget, UNCAPPED)
    for shape in shapes(model, retain, forget):
        (alone,) = reference_edit(shape.model, shape.retain, shape.forget, UNCAPPED).values()
        assert (alone - whole[shape.name]).norm() <= 1e-4 * alone.norm(), shape.name


def test_a_layer_alone_reads_every_image_and_answers_for_the_first() -> None:
    model = resnet18(4, 8, seed=1)
    retain, forget = retain_and_forget(36, 40, 8, seed=1)
    for shape in shapes(model, retain, forget):
        image, _ = next(iter(shape.retain.batches(5)))
        assert len(image) == 5
        assert len(shape.model(image)) == 1


def test_the_reference_keeps_no_more_rows_than_its_cap() -> None:
    model = resnet18(4, 8, seed=0)
    retain, _ = retain_and_forget(40, 1, 8, seed=0)
    generator = torch.Generator().manual_seed(0)
    found = capped_rows(model, retain, Paper(row_cap=100, batch=16), generator)
    assert {name: len(rows) for name, rows in found.items() if name in ("conv1", "fc")} == {
        "conv1": 100,
        "fc": 40,
    }


@pytest.mark.parametrize("side", ["ours", "reference"])
def test_a_bigger_job_needs_more_memory(side: Side) -> None:
    small = Job(width=2, size=8, retain=18, forget=18, row_cap=10_000, largest=None)
    big = Job(width=16, size=8, retain=90, forget=90, row_cap=10_000, largest=72)
    assert peak_growth(side, big) > 2 * peak_growth(side, small) > 0


def test_a_wf_net_step_moves_only_alphas_and_an_ordinary_one_all_weights() -> None:
    ours = WFNetStep(WFNet(batch=4), resnet18(2, 8, 0), 8)
    theirs = OrdinaryStep(rows(ours.setting), resnet18(2, 8, 0, folded=False), 8)
    frozen = {n: p.clone() for n, p in ours.gated.named_parameters()}
    before = {n: p.detach().clone() for n, p in theirs.model.named_parameters()}
    ours()
    theirs()
    assert any(bool((alpha < 3).any()) for alpha in ours.alphas.values())
    assert all(torch.equal(p, frozen[n]) for n, p in ours.gated.named_parameters())
    assert all(not torch.equal(p, before[n]) for n, p in theirs.model.named_parameters())
    assert len(theirs.image) == 8  # 2 forgotten and 3 copies of 2 retained


def test_ratios_are_taken_round_by_round() -> None:
    spent = [Spent(1.0, 1.0), Spent(2.0, 4.0), Spent(90.0, 9.0)]
    against = [Spent(2.0, 1.0), Spent(4.0, 2.0), Spent(90.0, 3.0)]
    compared = Comparison(tuple(spent), tuple(against))
    assert compared.ratio == 0.5
    assert compared.as_json()["cpu_ratio"] == 2.0
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.5)
    assert quartiles([7.0]) == (7.0, 7.0)


def test_sides_take_turns_in_going_first() -> None:
    order: list[str] = []
    interleaved(lambda: order.append("ours"), lambda: order.append("reference"), 2)
    assert order == ["ours", "reference", "reference", "ours"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nothing"], 2), (["edit", "--fast"], 2), (["edit", "--only", "speed"], 2), (["--help"], 0)],
)
def test_what_is_not_there_is_a_usage_error(arguments: list[str], code: int) -> None:
    assert main(arguments) == code


def test_one_part_can_be_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", "--quick", "--json", "--only", "wf_step"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [key for key in RATIOS if key in result] == ["wf_step_ratio"]
