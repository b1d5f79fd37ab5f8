"""The gate: what each threshold lets through, what it says, and that it stops a logit mask."""

from dataclasses import replace
from typing import Literal
from xml.etree import ElementTree as ET

import pytest

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.catalogue import METRICS
from bandstop.edit.evaluation.gate import Verdict, judge, passed
from bandstop.edit.evaluation.gate_rules import default_gate, parse_gate, read_gate
from bandstop.edit.evaluation.junit import junit
from bandstop.edit.evaluation.measure import Measure

KNOWN = ("probe_acc", "probe_auc", "relearn_epochs", "test_forget_acc")
NAN = float("nan")


def measured(value: float, ci95: tuple[float, float] | None = None) -> Measure:
    return Measure(value, ci95, 100)


def verdict(rule: str, **readings: Measure) -> Verdict:
    """Return the verdict of one rule on probe_acc, from a reading of it a network."""
    gate = parse_gate(f"rules: [{{metric: probe_acc, {rule}}}]", KNOWN)
    subjects: dict[str, dict[str, Measure]] = {"edited": {}}
    (found,) = judge(gate, subjects | {name: {"probe_acc": m} for name, m in readings.items()})
    return found


ABOVE, BELOW, NEAR = measured(0.93), measured(0.60), measured(0.83)
REFERENCE = measured(0.80)


@pytest.mark.parametrize(
    ("rule", "outcomes"),
    [
        # of 0.93, 0.60 and 0.83, with 0.80 of the reference
        ("max: 0.83", ("missed", "passed", "passed")),
        ("min: 0.83", ("passed", "missed", "passed")),
        ("max_gap: 0.05", ("missed", "missed", "passed")),
        ("max_drop: 0.05", ("passed", "missed", "passed")),
        ("max_rise: 0.05", ("missed", "passed", "passed")),
        ("max_gap: 0", ("missed", "missed", "missed")),
    ],
)
@pytest.mark.parametrize("to", ["original", "retrained"])
def test_each_threshold_looks_where_it_says(
    rule: str, outcomes: tuple[str, ...], to: Literal["original", "retrained"]
) -> None:
    other = "retrained" if to == "original" else "original"
    full = f"{rule}, to: {to}" if rule.startswith("max_") else rule
    readings = {to: REFERENCE, other: measured(7.0)}
    found = [verdict(full, edited=edited, **readings) for edited in (ABOVE, BELOW, NEAR)]
    assert tuple(v.outcome for v in found) == outcomes


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("max: 0.1", 0.1),
        ("max_gap: 0.1, to: retrained", 0.93),  # 0.93 - 0.83 > 0.1 in binary
        ("max_rise: 0.1, to: retrained", 0.93),
        ("max_drop: 0.1, to: retrained", 0.73),
    ],
)
def test_what_is_exactly_at_the_threshold_passes(rule: str, value: float) -> None:
    assert verdict(rule, edited=measured(value), retrained=NEAR).outcome == "passed"
    beyond = value - 1e-6 if "drop" in rule else value + 1e-6
    assert verdict(rule, edited=measured(beyond), retrained=NEAR).outcome == "missed"


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("max: 0.9", "probe_acc 0.93, at most 0.9: missed by 0.03"),
        ("max: 0.99", "probe_acc 0.93, at most 0.99: passed"),
        ("min: 1", "probe_acc 0.93, at least 1: missed by 0.07"),
        (
            "max_gap: 0.10, to: retrained",
            "probe_acc 0.93, at most 0.1 away from retrained 0.81: missed by 0.02",
        ),
        (
            "max_rise: 0.10, to: retrained, bound: ci95",
            "probe_acc 0.93 [0.9, 0.96], at most 0.1 above retrained 0.81 [0.77, 0.85]: "
            "missed by 0.07",
        ),
        (
            "max: 0.95, bound: ci95",
            "probe_acc 0.93 [0.9, 0.96], at most 0.95: missed by 0.01",
        ),
    ],
)
def test_a_verdict_is_told_in_words(rule: str, line: str) -> None:
    found = verdict(
        rule,
        edited=measured(0.93, (0.90, 0.96)),
        retrained=measured(0.81, (0.77, 0.85)),
    )
    assert found.line == line


def test_small_numbers_are_not_rounded_away() -> None:
    found = verdict("max: 0.000001", edited=measured(3.2e-6))
    assert found.line == "probe_acc 3.2e-06, at most 1e-06: missed by 2.2e-06"


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        # 0.5 from 0.4 to 0.7; without bound, none of these would be missed
        ("max: 0.69", "missed"),
        ("max: 0.70", "passed"),
        ("min: 0.41", "missed"),
        ("min: 0.40", "passed"),
        # to 0.5 from 0.26 to 0.56: the ends are hypot(0.1, 0.06) = 0.117 and hypot(0.2, 0.24) =
        # 0.312 away (Newcombe 1998)
        ("max_drop: 0.116, to: retrained", "missed"),
        ("max_drop: 0.117, to: retrained", "passed"),
        ("max_rise: 0.312, to: retrained", "missed"),
        ("max_rise: 0.313, to: retrained", "passed"),
        ("max_gap: 0.312, to: retrained", "missed"),
        ("max_gap: 0.313, to: retrained", "passed"),
    ],
)
def test_the_worse_end_of_the_interval_is_judged_where_asked(rule: str, outcome: str) -> None:
    readings = {"edited": measured(0.5, (0.4, 0.7)), "retrained": measured(0.5, (0.26, 0.56))}
    assert verdict(f"{rule}, bound: ci95", **readings).outcome == outcome
    assert verdict(f"{rule}, bound: value", **readings).outcome == "passed"
    assert verdict(rule, **readings).outcome == "passed"


def test_an_interval_that_leaves_its_value_out_makes_nothing_better() -> None:
    found = verdict("max: 0.45, bound: ci95", edited=measured(0.5, (0.3, 0.4)))
    assert found.line.endswith("missed by 0.05")


@pytest.mark.parametrize(
    ("rule", "readings", "reason"),
    [
        ("max: 1", {"retrained": ABOVE}, "not measured of edited"),
        ("max_gap: 1, to: retrained", {"edited": ABOVE}, "not measured of retrained, which"),
        ("max_gap: 1, to: retrained", {"retrained": ABOVE}, "not measured of edited"),
        ("max: 1, bound: ci95", {"edited": ABOVE}, "not measured with a 95 % interval"),
        (
            "max_gap: 1, to: retrained, bound: ci95",
            {"edited": measured(0.5, (0.4, 0.6)), "retrained": ABOVE},
            "not measured with a 95 % interval",
        ),
    ],
)
def test_what_was_not_measured_is_missed_unless_it_need_not_be(
    rule: str, readings: dict[str, Measure], reason: str
) -> None:
    found = verdict(rule, **readings)
    assert found.outcome == "missed"
    assert reason in found.line
    need_not = verdict(f"{rule}, required: false", **readings)
    assert (need_not.outcome, need_not.line) == ("skipped", found.line)


@pytest.mark.parametrize("ci95", [None, (0.4, 0.6), (NAN, NAN), (0.4, float("inf"))])
@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf"), 0.5])
def test_what_is_no_number_is_never_passed(value: float, ci95: tuple[float, float] | None) -> None:
    odd, even = measured(value, ci95), measured(0.5, (0.4, 0.6))
    judged = "bound: ci95" if ci95 else "bound: value"
    wanted = "passed" if value == 0.5 and ci95 in (None, (0.4, 0.6)) else "missed"
    for rule in ("max: 1", "min: 0", "max_gap: 1, to: retrained", "max_drop: 1, to: retrained"):
        full = f"{rule}, required: false, {judged}"
        assert verdict(full, edited=odd, retrained=even).outcome == wanted
        if "retrained" in rule:
            assert verdict(full, edited=even, retrained=odd).outcome == wanted


def test_a_network_is_not_held_against_itself() -> None:
    gate = parse_gate(
        "rules: [{metric: probe_acc, to: retrained, max_gap: 0}, {metric: probe_acc, max: 0.5}]",
        KNOWN,
    )
    verdicts = judge(gate, {"retrained": {"probe_acc": NEAR}}, "retrained")
    assert [v.outcome for v in verdicts] == ["skipped", "missed"]
    assert "retrained is the reference itself" in verdicts[0].line


def test_another_network_than_the_edited_one_can_be_judged() -> None:
    gate = parse_gate("rules: [{metric: probe_acc, max: 0.85}]", KNOWN)
    readings = {"edited": {"probe_acc": NEAR}, "original": {"probe_acc": ABOVE}}
    assert passed(judge(gate, readings))
    assert not passed(judge(gate, readings, "original"))
    with pytest.raises(InputError, match=r"no subject 'logit-mask' .*; expected edited, original"):
        judge(gate, readings, "logit-mask")


def test_a_gate_that_judges_nothing_lets_nothing_through() -> None:
    text = "rules: [{metric: probe_auc, max: 1, required: false}, {metric: probe_acc, max: 1}]"
    gate = parse_gate(text, KNOWN)
    assert passed(judge(gate, {"edited": {"probe_acc": NEAR}}))
    only = gate.model_copy(update={"rules": gate.rules[:1]})
    assert not passed(judge(only, {"edited": {"probe_acc": NEAR}}))


# as a ResNet on photographs has them: a mask keeps the original's features, so that its probe and
# its CKA are the original's, and a little training has the class back
ORIGINAL = {
    "test_forget_acc": 0.91,
    "bn_reestimate_acc": 0.90,
    "probe_acc": 0.93,
    "relearn_epochs": 0.0,
    "cka_original": 1.0,
}
MASK = {
    "test_forget_acc": 0.0,
    "retain_drop": -0.004,
    "worst_class_drop": 0.0,
    "bn_reestimate_acc": 0.0,
    "probe_acc": 0.93,
    "relearn_epochs": 1.0,
    "cka_original": 1.0,
}
RETRAINED = {
    "test_forget_acc": 0.0,
    "retain_drop": 0.002,
    "worst_class_drop": 0.02,
    "bn_reestimate_acc": 0.0,
    "probe_acc": 0.78,
    "relearn_epochs": 7.0,
    "cka_original": 0.71,
}
GOOD = {**RETRAINED, "retain_drop": 0.01, "probe_acc": 0.81, "relearn_epochs": 6.0}


def missed(subject: str, **edited: float) -> list[str]:
    """Return the metrics that a network misses in the gate that comes with the package."""
    figures = {"original": ORIGINAL, "logit-mask": MASK, "retrained": RETRAINED}
    readings = {
        name: {key: measured(value) for key, value in values.items()}
        for name, values in {**figures, "edited": {**GOOD, **edited}}.items()
    }
    verdicts = judge(default_gate(METRICS), readings, subject)
    return [v.rule.metric for v in verdicts if v.outcome == "missed"]


def test_the_default_gate_stops_a_logit_mask_by_what_it_still_knows() -> None:
    assert missed("logit-mask") == ["probe_acc", "relearn_epochs", "cka_original"]


def test_the_default_gate_lets_a_good_edit_and_the_retrained_network_through() -> None:
    assert missed("edited") == []
    assert missed("retrained") == []


def test_the_default_gate_stops_the_original() -> None:
    assert {"test_forget_acc", "probe_acc", "cka_original"} <= set(missed("original"))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("test_forget_acc", 0.02),
        ("retain_drop", 0.05),
        ("worst_class_drop", 0.20),
        ("bn_reestimate_acc", 0.72),
        ("probe_acc", 0.92),
        ("relearn_epochs", 2.0),
        ("cka_original", 0.97),
    ],
)
def test_each_rule_of_the_default_gate_can_stop_an_edit(metric: str, value: float) -> None:
    assert missed("edited", **{metric: value}) == [metric]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("rules: [{metric: prob_acc, max: 1}]", ["no metric 'prob_acc'; expected, say, probe_acc"]),
        ("rules: [{metric: x, max: 1}]", ["no metric 'x'; expected, say, probe_acc, probe_auc, r"]),
        ("rules: [{metric: probe_acc}]", ["expected one of max, min, max_gap", "got none"]),
        ("rules: [{metric: probe_acc, max: 1, min: 0}]", ["got max, min"]),
        ("rules: [{metric: probe_acc, max_gap: 1}]", ["max_gap needs to: original or to: retr"]),
        ("rules: [{metric: probe_acc, max: 1, to: original}]", ["max needs no network"]),
        ("rules: [{metric: probe_acc, max_drop: -1, to: original}]", ["max_drop: Input should be"]),
        (
            "rules: [{metric: probe_acc, max_gap: 1, to: edited}]",
            ["to: Input should be 'original'"],
        ),
        ("rules: [{metric: probe_acc, max: 1e-4}]", ["text '1e-4'", "1.0e-4"]),
        ("rules: [{metric: probe_acc, max: .nan}]", ["finite number"]),
        ("rules: [{metric: probe_acc, max: true}]", ["max: Input should be a valid number"]),
        ("rules: [{metric: probe_acc, max: 1, bound: low}]", ["bound: Input should be 'value'"]),
        ("rules: [{metric: probe_acc, max: 1, required: 1}]", ["required: Input should be a"]),
        ("rules: [{metric: probe_acc, maxx: 1}]", ["maxx: Extra inputs"]),
        (
            "rules: [{metric: x, max: 1}, {metric: probe_acc, max: a, low: 2}]",
            ["rules.0.metric: ", "rules.1.max: ", "rules.1.low: "],
        ),
        (
            "rules: [{metric: probe_acc, max: 1}, {metric: probe_acc, max: 2}]",
            ["given more than once: probe_acc max"],
        ),
        ("rules: [{metric: probe_acc, max: 1, max: 2}]", ["keys given twice", "max"]),
        ("rules: [{metric: probe_acc, max: 1}]\nrules: []", ["keys given twice", "rules"]),
        ("rules: []", ["rules: List should have at least 1 item"]),
        ("", ["file: Input should be"]),
        ("rules: {", ["not readable YAML"]),
        ("rules: 2001-99-99", ["not readable YAML"]),
        ("[" * 1500, ["not readable YAML"]),
    ],
)
def test_a_wrong_gate_is_refused_in_one_line_with_all_misfits(
    text: str, messages: list[str]
) -> None:
    with pytest.raises(InputError) as refused:
        parse_gate(text, KNOWN, "my.yaml")
    told = str(refused.value)
    assert told.startswith("my.yaml: ")
    assert "\n" not in told
    assert [m for m in messages if m not in told] == []


def test_one_metric_may_have_several_rules() -> None:
    text = """
    rules:
      - {metric: probe_acc, max: 0.9}
      - {metric: probe_acc, max: 0.95, bound: ci95}
      - {metric: probe_acc, min: 0}
      - {metric: probe_acc, to: original, max_drop: 0.1}
      - {metric: probe_acc, to: retrained, max_drop: 0.1}
    """
    assert [rule.name for rule in parse_gate(text, KNOWN).rules] == [
        "probe_acc max",
        "probe_acc max of ci95",
        "probe_acc min",
        "probe_acc max_drop to original",
        "probe_acc max_drop to retrained",
    ]


def test_a_gate_file_that_is_not_there_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gate")
    (folder / "bytes.yaml").write_bytes(b"\xff")
    for name in ("none.yaml", "bytes.yaml"):
        with pytest.raises(InputError, match=f"{name}: not readable"):
            read_gate(folder / name, KNOWN)


THREE = """
rules:
  - {metric: probe_acc, max: 0.5}
  - {metric: test_forget_acc, max: 0.01}
  - {metric: probe_auc, max: 1, required: false}
"""


def three() -> list[Verdict]:
    readings = {"edited": {"probe_acc": NEAR, "test_forget_acc": measured(0.0)}}
    return judge(parse_gate(THREE, KNOWN), readings)


def test_junit_has_a_test_case_a_rule_with_its_line() -> None:
    root = ET.fromstring(junit(three(), "edited"))
    counts = {"tests": "3", "failures": "1", "errors": "0"}
    assert [root.get(key) for key in counts] == list(counts.values())
    assert [root[0].get(key) for key in (*counts, "skipped")] == [*counts.values(), "1"]
    assert (root.tag, root[0].tag) == ("testsuites", "testsuite")
    cases = list(root[0])
    assert [case.get("name") for case in cases] == [v.rule.name for v in three()]
    assert {case.get("classname") for case in cases} == {"bandstop.gate.edited"}
    assert [[child.tag for child in case] for case in cases] == [
        ["failure"],
        ["system-out"],
        ["skipped"],
    ]
    line = "probe_acc 0.83, at most 0.5: missed by 0.33"
    assert (cases[0][0].get("message"), cases[0][0].text) == (line, line)
    assert cases[1][0].text == "test_forget_acc 0, at most 0.01: passed"
    assert cases[2][0].get("message") == "probe_auc, at most 1: not measured of edited"


def test_junit_is_the_same_every_time_and_has_no_time_in_it() -> None:
    assert junit(three(), "edited") == junit(three(), "edited")
    assert b"timestamp" not in junit(three(), "edited")


def test_junit_bears_every_text() -> None:
    text = '<a & "b"> ]]> \x00\x1b\ud800 ü'
    odd = replace(three()[0], result=text)
    root = ET.fromstring(junit([odd], text))
    assert '<a & "b"> ]]> ��� ü' in str(root[0][0][0].text)
    assert root[0].get("name") == 'bandstop gate: <a & "b"> ]]> ��� ü'
