"""The parts of manifests and checkpoints that describe a network, as they stand in JSON."""

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.errors import printable
from bandstop.edit.images import Preprocess


class Strict(BaseModel):
    """A part of a record: no field too many, none missing, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ArchRecord(Strict):
    """See `Arch`."""

    name: str
    args: dict[str, int | float | str | bool | None]

    def arch(self) -> Arch:
        """Return the arch."""
        return Arch(self.name, self.args)


class PreprocessRecord(Strict):
    """See `Preprocess`."""

    size: Annotated[list[Annotated[int, Field(ge=1, le=8192)]], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]
    resize: Annotated[int, Field(ge=1, le=8192)] | None
    interpolation: Literal["nearest", "bilinear", "bicubic"]

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> "PreprocessRecord":
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"expected {self.channels} values in mean and in std, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        return self

    def preprocess(self) -> Preprocess:
        """Return the preprocessing."""
        return Preprocess(
            size=(self.size[0], self.size[1]),
            channels=self.channels,
            mean=tuple(self.mean),
            std=tuple(self.std),
            resize=self.resize,
            interpolation=self.interpolation,
        )


ClassNames = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def description(model: Classifier) -> dict[str, object]:
    """Return what is needed to rebuild `model` without its weights, as JSON."""
    return {
        "arch": {"name": model.arch.name, "args": dict(model.arch.args)},
        "class_names": list(model.class_names),
        "preprocess": asdict(model.preprocess),
    }


def misfits(error: ValidationError) -> str:
    """Return what is wrong with a record in one line, field by field."""
    lines = [
        printable(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}")[:400]
        for e in error.errors(include_url=False)
    ]
    return "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if lines[8:] else "")
