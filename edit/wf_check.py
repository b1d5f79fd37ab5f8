"""What WF-Net refuses: settings out of range, and models and data that it cannot train on."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bandstop.edit import team
from bandstop.edit.batchnorm import BatchNorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError
from bandstop.edit.gates import gateable
from bandstop.edit.method import Splits
from bandstop.edit.request import ForgetRequest

_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "optimizer": ("adam", "sgd"),
        "schedule": ("one-cycle", "constant"),
        "gates": ("kernel-bias", "tied"),
        "bn": ("fold", "adapt", "frozen"),
    }
)
_SMALLEST: Mapping[str, int] = MappingProxyType(
    {"steps": 1, "batch": 2, "chi": 1, "set_size": 1, "validate_every": 1, "patience": 1}
)
_ABOVE_ZERO = ("lr", "bound")


def check_settings(values: Mapping[str, Any]) -> None:
    """Refuse settings, name -> value, that nothing can be trained with.

    Raises:
        InputError: which ones, all of them.
    """
    wrong = [
        f"{name} must be {least} or more, got {values[name]}"
        for name, least in _SMALLEST.items()
        if values[name] is not None and values[name] < least
    ]
    wrong += [
        f"{name} must be a number {'above' if name in _ABOVE_ZERO else 'from'} 0, got {value}"
        for name, value in values.items()
        if isinstance(value, float)
        and not (0 <= value < math.inf and (value > 0 or name not in _ABOVE_ZERO))
    ]
    wrong += [
        f"{name} must be {' or '.join(known)}, got {values[name]!r}"
        for name, known in _CHOICES.items()
        if values[name] not in known
    ]
    layers = values["layers"]
    if isinstance(layers, str) or not layers or not all(layers):
        wrong.append(f"layers must be one pattern or more, got {layers!r}")
    if wrong:
        raise InputError("wf-net: " + "; ".join(wrong))


def check_fits(
    model: Classifier, request: ForgetRequest, data: Splits, *, set_size: int, bn: str
) -> None:
    """Refuse a request, data, a network or a team that WF-Net cannot train with.

    Raises:
        InputError: all that is wrong.
    """
    misfits = []
    if request.classes != tuple(range(model.num_classes)):
        misfits.append("it unlearns every class in one run; name no class")
    misfits += _unlike(model, data)
    if not 1 <= set_size < model.num_classes:
        misfits.append(f"set_size must be below {model.num_classes}, got {set_size}")
    if not gateable(model.network):
        misfits.append(
            f"it masks convolutions or attention's queries, keys and values, and {model.arch.name} "
            "has none"
        )
    misfits += _folded_otherwise(model, bn)
    if bn == "adapt" and team.size() > 1:
        misfits.append(
            "bn=adapt takes the statistics of whole batches, which a team of "
            f"{team.size()} processes divides; run one process"
        )
    if misfits:
        raise InputError("wf-net: " + "; ".join(misfits))


def _unlike(model: Classifier, data: Splits) -> list[str]:
    if len(data.forget) < 2 or len(data.validate) < 2:
        return ["it needs training and validation images, two of each or more"]
    there = set(data.forget.labels.unique().tolist())
    missing = [name for c, name in enumerate(model.class_names) if c not in there]
    return [
        f"no training image of {len(missing)} classes ({', '.join(missing[:5])}), whose rows "
        "would forget nothing"
    ] * bool(missing)


def _folded_otherwise(model: Classifier, bn: str) -> list[str]:
    has_norms = any(isinstance(module, BatchNorm) for module in model.network.modules())
    if has_norms and bn != "adapt":
        return ["the network still has BatchNorm; fold it first"]
    if not has_norms and not model.bn_folded and bn == "adapt":
        return ["bn=adapt needs a network with BatchNorm"]
    wanted: dict[str, object] = {"fold": True, "adapt": False, "frozen": "apart"}
    if model.bn_folded and model.bn_folded != wanted[bn]:
        return [f"bn={bn} needs the original network, got one folded in another way"]
    return []
