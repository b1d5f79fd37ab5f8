"""What `bandstop unlearn` works on: a model, images of it or for it, and its past."""

from dataclasses import dataclass, replace
from pathlib import Path

from bandstop.edit.artifact import save_artifact
from bandstop.edit.checkpoint import load_checkpoint
from bandstop.edit.classifier import Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import Edit
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits
from bandstop.edit.load import load_model
from bandstop.edit.method import Method
from bandstop.edit.origin import Origin, is_checkpoint, origin_of
from bandstop.edit.request import ForgetRequest
from bandstop.edit.stand_in import kind_of, stand_in
from bandstop.edit.train import without_classes


@dataclass(frozen=True, slots=True)
class Named:
    """What the user names.

    Attributes:
        model: see `load_model`.
        data: see `load_data`; or None.
        stand_in: see `stand_in`; or None. One of the two is given.
        checkpoint: see `load_model`.
        image_size: see `data_for`.
        trust_factory: see `build`.
    """

    model: str
    data: str | None
    stand_in: str | None = None
    checkpoint: Path | None = None
    image_size: int | None = None
    trust_factory: bool = False

    def __post_init__(self) -> None:
        """Refuse names that do not go together."""
        if self.data is None and self.stand_in is None:
            raise InputError("say --data D, or --stand-in synthesised|DATA where that is gone")
        if self.stand_in is None:
            return
        if self.data is not None:
            raise InputError("--data and --stand-in exclude each other; leave one out")
        if not is_checkpoint(self.model):
            raise InputError(
                f"--stand-in needs a checkpoint of bandstop train as --model, got {self.model}"
            )
        if self.checkpoint is not None or self.image_size is not None:
            raise InputError("with --stand-in leave --checkpoint and --image-size out")


@dataclass(frozen=True, slots=True)
class Source:
    """What is to forget, and the images for it.

    Attributes:
        model: as it was named.
        data: without training and validation images of what was forgotten before.
        origin: the past of `model`.
        stand_in: what stands in for the training images; None where they are at hand.
    """

    model: Classifier
    data: DataSplits
    origin: Origin
    stand_in: str | None = None


def load_source(named: Named, seed: int) -> Source:
    """Return what `named` names; `seed` divides the data where nothing else does.

    Raises:
        InputError: see `load_model`, `data_for` and `stand_in`.
        ArtifactError: the checkpoint or artifact is corrupt.
        DivergedError: see `stand_in`.
    """
    origin = origin_of(named.model)
    if origin.split_seed is None:
        origin = replace(origin, split_seed=seed)
    if named.stand_in is not None:
        model = load_checkpoint(Path(named.model), trust_factory=named.trust_factory)
        data = without_classes(stand_in(model, named.stand_in, seed=seed), origin.forgotten)
        return Source(model, data, origin, kind_of(named.stand_in))
    assert named.data is not None  # see Named
    data = data_for(named.model, named.data, seed=seed, image_size=named.image_size)
    model = load_model(
        named.model, data, checkpoint=named.checkpoint, trust_factory=named.trust_factory
    )
    return Source(model, data, origin)


def save(
    out: Path,
    source: Source,
    method: Method,
    request: ForgetRequest,
    folded: Classifier,
    edit: Edit,
) -> None:
    """Write the artifact folder `out` of an `edit` that `method` made of `folded`."""
    save_artifact(
        out,
        folded,
        edit,
        method=method,
        request=request,
        parent=source.model,
        forgotten_before=source.origin.forgotten,
        instances_before=source.origin.instances,
        split_seed=source.origin.split_seed,
        stand_in=source.stand_in,
    )
