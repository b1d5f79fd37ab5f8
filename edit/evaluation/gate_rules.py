"""The rules of a gate: thresholds on metrics, as a YAML file gives them."""

from collections.abc import Collection
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bandstop.edit.errors import InputError
from bandstop.edit.records import Strict, misfits

FILE = "gate.yaml"
KINDS = ("max", "min", "max_gap", "max_drop", "max_rise")


def _plain_number(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f"expected a number, got the text {value!r}; YAML wants 1.0e-4 for 1e-4")
    return value


Number = Annotated[float, BeforeValidator(_plain_number)]
Distance = Annotated[Number, Field(ge=0)]


class Rule(Strict):
    """One threshold on one metric.

    Attributes:
        metric: its key.
        max: the metric is at most this.
        min: the metric is at least this.
        max_gap: it is at most so far from that of the network `to`, above or below.
        max_drop: it is at most so far below that of `to`; above is fine.
        max_rise: it is at most so far above that of `to`; below is fine.
        to: the network that a gap, drop or rise is from.
        bound: what is judged, the value or the worse end of its 95 % interval.
        required: whether a metric that was not measured is a miss; else its rule is skipped.
    """

    metric: str
    max: Number | None = None
    min: Number | None = None
    max_gap: Distance | None = None
    max_drop: Distance | None = None
    max_rise: Distance | None = None
    to: Literal["original", "retrained"] | None = None
    bound: Literal["value", "ci95"] = "value"
    required: bool = True

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str, info: ValidationInfo) -> str:
        known = sorted((info.context or {}).get("known", ()))
        if metric not in known:
            near = get_close_matches(metric, known, n=3, cutoff=0.5)
            raise ValueError(f"no metric {metric!r}; expected, say, {', '.join(near or known)}")
        return metric

    @model_validator(mode="after")
    def _one_threshold(self) -> "Rule":
        given = self._thresholds()
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(KINDS)}, got {', '.join(given) or 'none'}"
            )
        (kind,) = given
        if (kind in ("max", "min")) != (self.to is None):
            wanted = "no network" if self.to else "to: original or to: retrained"
            raise ValueError(f"{kind} needs {wanted} to compare with")
        return self

    def _thresholds(self) -> dict[str, float]:
        every = {
            "max": self.max,
            "min": self.min,
            "max_gap": self.max_gap,
            "max_drop": self.max_drop,
            "max_rise": self.max_rise,
        }
        return {kind: threshold for kind, threshold in every.items() if threshold is not None}

    @property
    def threshold(self) -> tuple[str, float]:
        """The kind of threshold that the rule has, and the number."""
        return next(iter(self._thresholds().items()))

    @property
    def name(self) -> str:
        """What tells the rule from others, whatever its number: probe_acc max_gap to retrained."""
        reference = f" to {self.to}" if self.to else ""
        bound = " of ci95" if self.bound == "ci95" else ""
        return f"{self.metric} {self.threshold[0]}{reference}{bound}"


class Gate(Strict):
    """All rules; a network passes that keeps every one.

    Attributes:
        rules: at least one, no two of one name.
    """

    rules: Annotated[list[Rule], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> "Gate":
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"given more than once: {', '.join(twice)}")
        return self


def default_gate(known: Collection[str]) -> Gate:
    """Return the gate that this package comes with; see `parse_gate`."""
    return parse_gate(files("bandstop.edit.evaluation").joinpath(FILE).read_text("utf-8"), known)


def read_gate(path: Path, known: Collection[str]) -> Gate:
    """Return the gate in the YAML file `path`; see `parse_gate`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"gate {path}: not readable ({' '.join(str(error).split())})") from error
    return parse_gate(text, known, str(path))


def parse_gate(text: str, known: Collection[str], where: str = FILE) -> Gate:
    """Return the gate in the YAML `text`.

    Args:
        text: a mapping with a list of `rules`.
        known: the keys of all metrics there are.
        where: names the file in errors.

    Raises:
        InputError: not YAML, an unknown metric, or wrong or missing keys; all of them.
    """
    try:
        content, twice = yaml.safe_load(text), _keys_given_twice(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable YAML ({' '.join(str(error).split())})") from error
    if twice:
        raise InputError(f"{where}: keys given twice in one mapping: {', '.join(twice)}")
    try:
        return Gate.model_validate(content, context={"known": known})
    except ValidationError as error:
        raise InputError(f"{where}: {misfits(error)}") from error


def _keys_given_twice(text: str) -> list[str]:
    """Return the keys of the gate or of one rule that YAML would silently take the last of."""
    root = yaml.compose(text, yaml.SafeLoader)
    top = root.value if isinstance(root, yaml.MappingNode) else []
    rules = [v for _, value in top if isinstance(value, yaml.SequenceNode) for v in value.value]
    mappings = [node.value for node in (root, *rules) if isinstance(node, yaml.MappingNode)]
    names = [[str(key.value) for key, _ in mapping] for mapping in mappings]
    return sorted({name for each in names for name in each if each.count(name) > 1})
