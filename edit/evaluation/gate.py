"""The gate: whether a network of an evaluation keeps the rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from bandstop.edit.errors import EditError, InputError
from bandstop.edit.evaluation.gate_rules import Gate, Rule

_SLACK = 1e-9  # so that 0.93 is 0.1 away from 0.83, as it is in decimals
_WORDS = {
    "max": "at most {}",
    "min": "at least {}",
    "max_gap": "at most {} away from",
    "max_drop": "at most {} below",
    "max_rise": "at most {} above",
}


class GateMissed(EditError):  # noqa: N818  # the event, as the command line names it
    """A network does not keep a rule of the gate."""

    exit_code: ClassVar[int] = 3


class Reading(Protocol):
    """What is known of a metric: a `Measure`, or what a file says of one."""

    @property
    def value(self) -> float:
        """The number, as the metric defines it."""

    @property
    def ci95(self) -> Sequence[float] | None:
        """The lower and upper end of its 95 % interval; None where it has none."""

    @property
    def n(self) -> int:
        """How many images, networks or repeats it is over."""


Readings = Mapping[str, Mapping[str, Reading]]  # subject -> metric -> reading


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one rule.

    Attributes:
        rule: the rule.
        outcome: whether the network keeps it; skipped where it could not be judged and need not.
        value: the network's value; None where it was not measured.
        reference: the value of `rule.to`; None without one.
        measured: what was measured, in words, with intervals where these are judged.
        allowed: what the rule allows, in words.
        result: the outcome in words: by how much it was missed, or why it was not judged.
    """

    rule: Rule
    outcome: Literal["passed", "missed", "skipped"]
    value: float | None
    reference: float | None
    measured: str
    allowed: str
    result: str

    @property
    def line(self) -> str:
        """The verdict as one line."""
        metric = f"{self.rule.metric} {self.measured}".strip()
        return f"{metric}, {self.allowed}: {self.result}"


def judge(gate: Gate, readings: Readings, subject: str = "edited") -> list[Verdict]:
    """Return a verdict for each rule of `gate`, in their order.

    Args:
        gate: the rules.
        readings: what was measured, of every network of the evaluation.
        subject: the network that is judged; a control can be put through the same gate.

    Raises:
        InputError: nothing was measured of `subject`.
    """
    if subject not in readings:
        raise InputError(
            f"no subject {subject!r} in the evaluation; expected {', '.join(readings)}"
        )
    return [_verdict(rule, readings, subject) for rule in gate.rules]


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Return whether no rule was missed and at least one was judged."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "missed" not in outcomes and "passed" in outcomes


def _verdict(rule: Rule, readings: Readings, subject: str) -> Verdict:
    reading = readings[subject].get(rule.metric)
    reference = readings.get(rule.to, {}).get(rule.metric) if rule.to else None
    kind, threshold = rule.threshold
    allowed = _WORDS[kind].format(_text(threshold))
    if rule.to:
        allowed += f" {rule.to} {_told(reference, rule)}".rstrip()
    outcome, result = _outcome(rule, reading, reference, subject)
    return Verdict(
        rule,
        outcome,
        value=reading.value if reading else None,
        reference=reference.value if reference else None,
        measured=_told(reading, rule),
        allowed=allowed,
        result=result,
    )


def _outcome(
    rule: Rule, reading: Reading | None, reference: Reading | None, subject: str
) -> tuple[Literal["passed", "missed", "skipped"], str]:
    if rule.to == subject:
        return "skipped", f"{subject} is the reference itself"
    unjudged: Literal["missed", "skipped"] = "missed" if rule.required else "skipped"
    if reading is None:
        return unjudged, f"not measured of {subject}"
    if rule.to and reference is None:
        return unjudged, f"not measured of {rule.to}, which has to be evaluated as well"
    both = [reading, reference] if reference else [reading]
    if rule.bound == "ci95" and not all(r.ci95 for r in both):
        return unjudged, "not measured with a 95 % interval (bound: value needs none)"
    if not all(math.isfinite(number) for r in both for number in _judged(r, rule)):
        return "missed", "missed, for want of finite numbers"
    excess = _excess(rule, reading, reference)
    if excess <= _SLACK:
        return "passed", "passed"
    return "missed", f"missed by {_text(excess)}"


def _judged(reading: Reading, rule: Rule) -> tuple[float, ...]:
    """Return the numbers of a reading that the rule looks at."""
    interval = reading.ci95 if rule.bound == "ci95" and reading.ci95 else ()
    return (reading.value, *interval)


def _excess(rule: Rule, reading: Reading, reference: Reading | None) -> float:
    """Return how far the metric is beyond the threshold; 0 or less where the rule is kept."""
    low, high = _difference(rule, reading, reference)
    kind, threshold = rule.threshold
    if kind in ("max", "max_rise"):
        return high - threshold
    if kind == "min":
        return threshold - low
    if kind == "max_drop":
        return -low - threshold
    return max(high, -low) - threshold


def _difference(rule: Rule, reading: Reading, reference: Reading | None) -> tuple[float, float]:
    """Return the ends between which the metric lies, less that of the reference if there is one.

    Two intervals are joined by the square root of the squared distances between value and end
    (Newcombe 1998, method 10), as if the networks were independent.
    """
    value = reading.value - (reference.value if reference else 0.0)
    if rule.bound == "value":
        return value, value
    down, up = _arms(reading)
    reference_down, reference_up = _arms(reference) if reference else (0.0, 0.0)
    return value - math.hypot(down, reference_up), value + math.hypot(up, reference_down)


def _arms(reading: Reading) -> tuple[float, float]:
    """Return how far the interval reaches below and above the value."""
    low, high = reading.ci95 or (reading.value, reading.value)
    # a bootstrapped interval may leave its value out
    return max(0.0, reading.value - low), max(0.0, high - reading.value)


def _told(reading: Reading | None, rule: Rule) -> str:
    if reading is None:
        return ""
    value, *interval = map(_text, _judged(reading, rule))
    return f"{value} [{', '.join(interval)}]" if interval else value


def _text(number: float) -> str:
    """Return a number as a person writes it: 0.1, 12, 3.1e-06."""
    if (number and abs(number) < 1e-4) or not math.isfinite(number):
        return f"{number:.2g}"
    return f"{number:.4f}".rstrip("0").rstrip(".")
