"""What a network is made to forget with when its training images are gone."""

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.images import DataSplits
from bandstop.edit.substitute import Substitute, substitute_data
from bandstop.edit.synthesise import Synthesis, synthesised_data

SYNTHESISED = "synthesised"


def stand_in(model: Classifier, source: str, *, seed: int = 0) -> DataSplits:
    """Return training and validation images that stand in for those of `model`; no test images.

    Args:
        model: as it was trained, BatchNorm not folded; left as it was.
        source: `synthesised`, from the network alone; or images of any kind, see
            `substitute_data`.
        seed: of the synthesis, the choice of images and their division.

    Raises:
        InputError: no such images, or none that the network takes for some class; or images are
            to be made from a network that is folded already.
        DivergedError: the synthesis ran into NaN or infinity.
    """
    if source != SYNTHESISED:
        return substitute_data(model, source, Substitute(seed=seed))
    if model.bn_folded:
        raise InputError(
            "stand-in: a folded network has lost the statistics that images are made from; "
            "give the checkpoint it came from, or images"
        )
    return synthesised_data(model, Synthesis(seed=seed))


def kind_of(source: str) -> str:
    """Return what may be told of `source` elsewhere: what it is, not where it lies."""
    kind, _, name = source.partition(":")
    return f"{kind}:{name.partition('@')[0]}" if kind == "torchvision" else kind
