"""What `bandstop export --precision` is given beside the precision."""

from dataclasses import dataclass

from torch import Tensor

from bandstop.edit.artifact import Artifact
from bandstop.edit.judge import evenly
from bandstop.export.errors import SpecError
from bandstop.export.measure import Measure, measure_of
from bandstop.export.measure_asks import MOST
from bandstop.export.parity import MOST_SAMPLES
from bandstop.export.precision_data import CALIBRATE, MOST_RISE, Draw, Lowering, lowering_of
from bandstop.export.spec import ExportSpec


@dataclass(frozen=True, slots=True)
class Given:
    """Options as they were given; None where they were not.

    Attributes:
        data: the data set.
        most: answers to measure at most; 0 for all.
        calibrate: training images to take ranges from.
        seed: draws these.
        forget_rise: by how much accuracy on what is forgotten may rise.
    """

    data: str | None
    most: int | None
    calibrate: int | None
    seed: int | None
    forget_rise: float | None


def images_for(
    artifact: Artifact, spec: ExportSpec, given: Given
) -> tuple[Measure | None, Lowering | None]:
    """Return the images to measure with, and those for a file of lower precision.

    Raises:
        SpecError: an option is missing, or means nothing here.
        InputError: no such data, or other classes or images than the artifact's.
    """
    _refuse_idle(spec, given)
    if given.data is None:
        return None, None
    most = MOST if given.most is None else given.most or None
    if spec.precision == "float32":
        return measure_of(artifact, given.data, most), None
    draw = Draw(
        calibrate=CALIBRATE if given.calibrate is None else given.calibrate,
        most=most,
        seed=given.seed or 0,
        most_rise=MOST_RISE if given.forget_rise is None else given.forget_rise,
    )
    lowering = lowering_of(artifact, given.data, spec, draw)
    return lowering.measure, lowering


def samples_of(measure: Measure) -> Tensor:
    """Return images (n, c, h, w) to compare the file with PyTorch on, spread over the test set."""
    some = evenly(measure.images, MOST_SAMPLES)
    return some.images[some.index]


def _refuse_idle(spec: ExportSpec, given: Given) -> None:
    """Refuse options that change nothing, and lower precision without data."""
    only = {
        "--calibrate": (given.calibrate, "int8"),
        "--seed": (given.seed, "int8"),
        "--forget-rise": (given.forget_rise, "fp16 and int8"),
    }
    idle = [
        f"{name}: only for --precision {kinds}"
        for name, (value, kinds) in only.items()
        if value is not None and spec.precision not in kinds
    ]
    if given.most is not None and given.data is None:
        idle.append("--measure: only with --data")
    if spec.precision != "float32" and given.data is None:
        idle.append(
            f"--precision {spec.precision}: needs --data, since forgetting is measured again on "
            "the file"
        )
    if idle:
        raise SpecError("; ".join(idle))
