"""Whether a network can be masked: masks must do what they do when they are in the weights."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from bandstop.edit.batchnorm import example
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, fold
from bandstop.edit.errors import InputError
from bandstop.edit.gates import Gated, bias_of

_TOLERANCE = 1e-3  # relative, on logits


def check_gates(model: Classifier, names: Mapping[str, int], *, tied: bool = False) -> None:
    """Refuse a network on which masks are not what they are in the weights.

    So it is where a layer uses its weight in another way than to multiply with it (weight
    standardisation), or mixes the samples of a batch (attention in windows).

    Args:
        model: not changed.
        names: parameter name -> output channels of what is to be masked.
        tied: see `Gated`.

    Raises:
        InputError: a gated sample and literally masked weights give other logits.
    """
    masks = _trial(model, names, tied=tied)
    try:
        with torch.no_grad():
            together = Gated(model.network, tuple(names), tied=tied)(_images(model), masks)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{model.arch.name} cannot be masked: {reason}") from error
    alone = torch.cat([_masked(model, masks, sample) for sample in range(2)])
    size = alone.double().norm().clamp_min(1e-6)
    gap = float((together - alone).double().norm() / size)
    if not gap <= _TOLERANCE:
        raise InputError(
            f"{model.arch.name} cannot be masked: its logits under masks and with masked weights "
            f"differ by {gap:.1e} relative, expected <= {_TOLERANCE:.0e}; a layer does more with "
            "its weight than multiply, or mixes the samples of a batch"
        )


def _trial(model: Classifier, names: Mapping[str, int], *, tied: bool) -> dict[str, Tensor]:
    """Return random masks (2, channels) for two samples."""
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: (0.5 + 0.5 * torch.rand(2, channels, generator=generator)).to(model.mean)
        for name, channels in names.items()
    }
    same = {bias_of(name): mask for name, mask in masks.items() if bias_of(name) in masks}
    return masks | same if tied else masks


def _images(model: Classifier) -> Tensor:
    return (example(model, 2) - model.mean) / model.std


def _masked(model: Classifier, masks: Mapping[str, Tensor], sample: int) -> Tensor:
    state = fold(model.network.state_dict(), GateEdit(masks), [sample])
    image = _images(model)[sample : sample + 1]
    with torch.no_grad():
        logits: Tensor = functional_call(model.network, state, (image,))
    return logits
