"""What release.json says of parity (no torch in here)."""

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from bandstop.export.record_strict import Size, Strict, Whole

MOST_TOLERATED: Final = 0.01  # ten times what export allows at most


class ParityRecord(Strict):
    """How closely ONNX Runtime agreed with PyTorch on literally masked weights.

    Attributes:
        max_abs: largest absolute difference of a logit.
        tolerance: what was allowed.
        rows: how many of the rows that a request can name were checked; 1 where it names none.
        rows_total: how many it can name.
        combinations: sets of different rows named together that were checked.
        row_gap: what a wrong row would have changed at least, the smallest difference between two
            neighbouring rows; where it is below the tolerance parity cannot tell them apart.
        images: different images used.
        compared: pairs of row and image, each compared over all logits.
        batches: the different batch sizes run.
        refused: requests with an index out of range that were refused as they should be, on each
            provider.
        providers: where it was run, by ONNX Runtime's names.
    """

    max_abs: Size
    tolerance: Annotated[Size, Field(le=MOST_TOLERATED)]
    rows: Whole
    rows_total: Whole
    combinations: Whole
    row_gap: Size | None
    images: Whole
    compared: Whole
    batches: list[Whole]
    refused: Whole
    providers: list[str] = Field(default_factory=lambda: ["CPUExecutionProvider"])

    @model_validator(mode="after")
    def _was_met(self) -> Self:
        if self.max_abs > self.tolerance:
            raise ValueError(f"max_abs {self.max_abs}, but tolerance {self.tolerance}")
        return self
