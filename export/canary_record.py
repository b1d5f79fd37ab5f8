"""What release.json says of the answers by which a file is known again (no torch in here)."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from bandstop.export.record_strict import Size, Strict

RECIPE: Final = "bandstop-canary/1"


class CanaryRecord(Strict):
    """What the file answers to inputs that can be made anywhere, on ONNX Runtime's CPU.

    Attributes:
        recipe: how the pixels of row 0, 1, ... are made; see `bandstop.export.canary`.
        forget: the forget_class of each row; empty lists where requests have no say.
        logits: of each row, by class; rounded to seven digits.
        tolerance: by how much a logit of a server may differ.
        spread: how far apart the two rows are that differ most, by the logit that differs most;
            where it is not above the tolerance, the answers say nothing of what the file computes.
    """

    recipe: Literal["bandstop-canary/1"]
    forget: list[list[int]]
    logits: Annotated[list[list[float]], Field(min_length=1)]
    tolerance: Size
    spread: Size

    @property
    def tells_apart(self) -> bool:
        """Whether the answers depend on the question by more than a server may differ."""
        return self.spread > self.tolerance

    def refuse_other(self, slots: int, classes: int) -> None:
        """Raise ValueError unless this is of a file with so many slots and logits."""
        if {len(row) for row in self.forget} != {slots}:
            raise ValueError(f"canary: rows that do not name {slots} classes each")
        if {len(row) for row in self.logits} != {classes}:
            raise ValueError(f"canary: rows that do not have {classes} logits each")
        if any(not 0 <= named <= classes for row in self.forget for named in row):
            raise ValueError(f"canary: a row names a class out of 0..{classes}")

    @model_validator(mode="after")
    def _rows_fit(self) -> Self:
        if len(self.forget) != len(self.logits):
            raise ValueError(f"{len(self.forget)} rows are asked, {len(self.logits)} answered")
        for name, rows in (("forget", self.forget), ("logits", self.logits)):
            if len({len(row) for row in rows}) != 1:
                raise ValueError(f"{name}: rows of different length")
        return self
