"""What a release must be to become a version of a model."""

from collections.abc import Mapping, Sequence

from bandstop.export.errors import SpecError
from bandstop.export.model_folder import ModelFolder
from bandstop.export.record import SIGNATURE, ReleaseRecord, TensorRecord
from bandstop.export.sign_record import read_signature


def refuse_other_name(files: Mapping[str, bytes], name: str) -> None:
    """Refuse a signed release under a name for which nobody could verify it any more."""
    if SIGNATURE not in files:
        return
    signed = read_signature(files[SIGNATURE], SIGNATURE)[0].model
    if signed != name:
        raise SpecError(
            f"model {name}: the release is signed for {signed}; publish it as that, or sign it anew"
        )


def refuse_pixels(record: ReleaseRecord) -> None:
    """Refuse what no client takes: a crop larger than the picture would have to invent pixels."""
    resize, size = record.preprocess.resize, record.preprocess.size
    if resize is not None and resize < max(size):
        raise SpecError(
            f"release {record.name}: preprocess resizes to {resize}, smaller than its crop {size}; "
            "export it again with a resize of at least that"
        )


def refuse_interface(
    model: ModelFolder, record: ReleaseRecord, version: str = "the release"
) -> None:
    """Refuse other inputs or outputs than the model has.

    Args:
        model: in whose newest version they are.
        record: of what is to be served.
        version: which that is, for the message.
    """
    before = model.records[model.newest]
    if (before.inputs, before.outputs) != (record.inputs, record.outputs):
        raise SpecError(
            f"model {model.path.name}: version {model.newest} has {_interface(before)}, "
            f"{version} has {_interface(record)}; publish it under another name"
        )


def _interface(record: ReleaseRecord) -> str:
    def show(tensors: Sequence[TensorRecord]) -> str:
        return ", ".join(f"{t.name} {t.dtype} {t.shape}" for t in tensors)

    return f"{show(record.inputs)} -> {show(record.outputs)}"
