"""`bandstop gate`: exit codes, what is told where, and the files for CI."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bandstop.cli.main import main
from bandstop.edit.evaluation.catalogue import METRICS
from bandstop.edit.evaluation.records import write_metrics
from tests.evaluations import instances, svd

Out = pytest.CaptureFixture[str]
OWN = "rules: [{metric: probe_acc, to: retrained, max_gap: 0.10}, {metric: zrf, min: 0.4}]"


@pytest.fixture
def metrics(tmp_path: Path) -> str:
    write_metrics(tmp_path / "metrics.json", svd())
    return str(tmp_path / "metrics.json")


def own(metrics: str, text: str) -> list[str]:
    """Return options that name a gate of rules `text`."""
    file = Path(metrics).with_name("own.yaml")
    file.write_text(text)
    return ["-c", str(file)]


def test_an_edit_that_keeps_every_rule_exits_with_zero(metrics: str, capsys: Out) -> None:
    assert main(["gate", metrics]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    rows = told.out.splitlines()
    assert [row.split()[:2] for row in rows] == [
        ["passed", metric]
        for metric in (
            *("test_forget_acc", "retain_drop", "worst_class_drop", "bn_reestimate_acc"),
            *("probe_acc", "relearn_epochs", "cka_original"),
        )
    ]
    assert rows[0].split(maxsplit=2)[2] == "0.004  at most 0.01"
    assert rows[4].split(maxsplit=2)[2] == "0.744  at most 0.1 above retrained 0.661"
    assert len({row.index("at most") for row in rows}) == 1


def test_a_folder_is_taken_for_the_metrics_in_it(metrics: str) -> None:
    assert main(["gate", str(Path(metrics).parent)]) == 0


def test_a_logit_mask_exits_with_three_and_tells_each_miss(metrics: str, capsys: Out) -> None:
    assert main(["gate", metrics, "--subject", "logit-mask"]) == 3
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "probe_acc 0.868, at most 0.1 above retrained 0.661: missed by 0.107",
        "relearn_epochs 1, at most 3 below retrained 7: missed by 3",
        "cka_original 1, at most 0.1 above retrained 0.548: missed by 0.352",
        "error: gate missed: logit-mask misses 3 of 7 rules",
    ]
    assert [row.split()[0] for row in told.out.splitlines()] == ["passed"] * 4 + ["missed"] * 3
    assert told.out.splitlines()[5].endswith("missed by 3")


def test_the_retrained_network_passes_and_the_original_does_not(metrics: str, capsys: Out) -> None:
    assert main(["gate", metrics, "--subject", "retrained"]) == 0
    assert "skipped  probe_acc" in capsys.readouterr().out
    assert main(["gate", metrics, "--subject", "original"]) == 3


@pytest.mark.parametrize(("probe", "code"), [(0.70, 0), (0.80, 3)])
def test_rules_of_ones_own_are_judged(tmp_path: Path, probe: float, code: int) -> None:
    file = tmp_path / "metrics.json"
    write_metrics(file, svd(probe_acc=probe))
    assert main(["gate", str(file), *own(str(file), OWN)]) == code


def test_json_tells_every_rule(metrics: str, capsys: Out) -> None:
    assert main(["gate", metrics, *own(metrics, OWN), "--subject", "logit-mask", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["subject"], told["passed"]) == ("logit-mask", False)
    assert told["rules"] == [
        {
            "name": "probe_acc max_gap to retrained",
            "metric": "probe_acc",
            "max_gap": 0.1,
            "to": "retrained",
            "bound": "value",
            "required": True,
            "outcome": "missed",
            "value": 0.868,
            "reference": 0.661,
            "line": "probe_acc 0.868, at most 0.1 away from retrained 0.661: missed by 0.107",
        },
        {
            "name": "zrf min",
            "metric": "zrf",
            "min": 0.4,
            "bound": "value",
            "required": True,
            "outcome": "passed",
            "value": 0.552,
            "reference": None,
            "line": "zrf 0.552, at least 0.4: passed",
        },
    ]
    assert main(["gate", metrics, *own(metrics, OWN), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


@pytest.mark.parametrize(("subject", "code", "failures"), [("edited", 0, 0), ("logit-mask", 3, 3)])
def test_junit_is_written_whatever_the_outcome(
    metrics: str, tmp_path: Path, subject: str, code: int, failures: int
) -> None:
    file = tmp_path / "gate.xml"
    for _ in range(2):  # a pipeline runs again in the same folder
        assert main(["gate", metrics, "--subject", subject, "--junit", str(file)]) == code
    suite = ET.parse(file).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("7", str(failures))
    assert {case.get("classname") for case in suite} == {f"bandstop.gate.{subject}"}


def test_without_a_retrained_network_its_rules_are_missed(tmp_path: Path, capsys: Out) -> None:
    file = tmp_path / "metrics.json"
    write_metrics(file, instances())
    text = (
        "rules: [{metric: forget_acc, to: retrained, max_gap: 0.1%s}, {metric: retain_acc, min: 0}]"
    )
    assert main(["gate", str(file), *own(str(file), text % "")]) == 3
    assert "not measured of retrained, which has to be evaluated" in capsys.readouterr().err
    assert main(["gate", str(file), *own(str(file), text % ", required: false")]) == 0
    told = capsys.readouterr()
    assert "skipped  forget_acc" in told.out
    assert told.err == ""


def test_nothing_judged_is_missed(metrics: str, capsys: Out) -> None:
    text = "rules: [{metric: insertion_auc, max: 0.6, required: false}]"
    assert main(["gate", metrics, *own(metrics, text)]) == 3
    assert capsys.readouterr().err == (
        "error: gate missed: no rule could be judged of edited, all were skipped\n"
    )


def test_every_metric_there_is_can_have_a_rule(metrics: str, capsys: Out) -> None:
    rules = [{"metric": key, "max": 1e9, "required": False} for key in METRICS]
    assert main(["gate", metrics, *own(metrics, json.dumps({"rules": rules}))]) == 0
    assert "skipped  parity_max_abs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--subject", "oracle"], "no subject 'oracle' in the evaluation; expected original"),
        (["-c", "none.yaml"], "gate none.yaml: not readable"),
        (["--junit", "none/gate.xml"], "--junit none/gate.xml: expected a file in a folder"),
        (["--junit", "."], "--junit .: expected a file in a folder"),
        (["--thresholds", "x"], "--thresholds"),
        ([], "Missing argument 'METRICS'"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_two(
    metrics: str, capsys: Out, arguments: list[str], said: str
) -> None:
    assert main(["gate", *([metrics] if arguments else []), *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert said in told.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{metric: prob_acc, max: 1}]", "expected, say, probe_acc"),
        ("rules: [{metric: ulira_auc, max: 1}]", "no metric 'ulira_auc'"),  # of the bench alone
        ("rules: [{metric: probe_acc, maximum: 1}]", "maximum: Extra inputs"),
        ("{", "not readable YAML"),
    ],
)
def test_a_wrong_gate_is_one_line_and_exits_with_two(
    metrics: str, capsys: Out, text: str, said: str
) -> None:
    assert main(["gate", metrics, *own(metrics, text)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, 2),
        ('{"accuracy": 1}', 2),
        ('{"format": "bandstop-metrics/1"}', 5),
        ('{"format": "bandstop-metr', 5),
        ("", 5),
    ],
)
def test_metrics_that_are_none_are_one_line(
    tmp_path: Path, capsys: Out, content: str | None, code: int
) -> None:
    file = tmp_path / "metrics.json"
    if content is not None:
        file.write_text(content)
    assert main(["gate", str(file)]) == code
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert f"error: {file}: " in told.err


def test_a_corrupt_number_exits_with_five(metrics: str, capsys: Out) -> None:
    file = Path(metrics)
    content = json.loads(file.read_text())
    content["subjects"]["edited"]["probe_acc"]["value"] = "low"
    file.write_text(json.dumps(content))
    assert main(["gate", metrics]) == 5
    assert "subjects.edited.probe_acc.value" in capsys.readouterr().err
