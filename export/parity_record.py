"""What release.json says of parity (no torch in here)."""

from pydantic import Field

from bandstop.export.record_strict import Strict


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

    max_abs: float
    tolerance: float
    rows: int
    rows_total: int
    combinations: int
    row_gap: float | None
    images: int
    compared: int
    batches: list[int]
    refused: int
    providers: list[str] = Field(default_factory=lambda: ["CPUExecutionProvider"])
