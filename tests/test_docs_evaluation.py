"""The page on evaluation names every metric, and its example of a gate is one."""

import re
from pathlib import Path

from bandstop.edit.evaluation.catalogue import METRICS
from bandstop.edit.evaluation.gate_rules import read_gate

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()


def test_every_metric_is_explained_and_none_is_made_up() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    among_text = {"insertion_random_auc", "deletion_random_auc"}
    assert named | among_text == METRICS.keys()
    assert all(f"`{key}`" in PAGE for key in among_text)


def test_the_gate_of_the_page_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "gate.yaml").write_text(text)
    gate = read_gate(tmp_path / "gate.yaml", METRICS.keys())
    assert [rule.metric for rule in gate.rules] == [
        "test_forget_acc",
        "retain_drop",
        "probe_acc",
        "relearn_epochs",
    ]
