"""The settings in presets.yaml, each with what it gave or that nobody measured it."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from bandstop.edit.errors import InputError
from bandstop.edit.records import Strict, misfits

FILE = "presets.yaml"


class Preset(Strict):
    """One entry.

    Attributes:
        base: what the settings start from, the method's defaults or the paper's values.
        settings: fields of the method that differ from `base`.
        network: which network it is meant for.
        measured: whether it was tried on that network.
        command: reproduces the result.
        result: what came out.
        source: where values that were not measured come from.
    """

    base: Literal["default", "paper"] = "default"
    settings: dict[str, object] = Field(default_factory=dict)
    network: str | None = None
    measured: bool
    command: str | None = None
    result: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _evidence_where_measured(self) -> "Preset":
        evidence = (self.command, self.result)
        if self.measured and not all(evidence):
            raise ValueError("a measured preset names its command and its result")
        if not self.measured and any(evidence):
            raise ValueError("only a measured preset has a command and a result")
        return self

    @property
    def remark(self) -> str:
        """What is to be told about values that nobody tried; empty for measured ones."""
        if self.measured:
            return ""
        source = f" ({self.source})" if self.source else ""
        what = "the paper's values" if self.base == "paper" else "the method's defaults"
        return f"unmeasured: {what}{source}"


Presets = Mapping[str, Mapping[str, Preset]]  # method -> name -> preset


def read_presets() -> Presets:
    """Return the presets that this package comes with."""
    return parse_presets(files("bandstop.edit").joinpath(FILE).read_text(encoding="utf-8"))


def parse_presets(text: str) -> Presets:
    """Return the presets in the YAML `text`.

    Raises:
        InputError: not YAML, or entries with missing, unknown or contradictory fields; all of them.
    """
    try:
        return TypeAdapter(dict[str, dict[str, Preset]]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InputError(f"{FILE}: not readable YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise InputError(f"{FILE}: {misfits(error)}") from error
