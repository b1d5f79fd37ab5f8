"""The two kinds of edit a method can return, and how an edit is written into weights."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError

Findings = Mapping[str, object]  # JSON: what a method chose and saw


@dataclass(frozen=True, slots=True)
class WeightEdit:
    """New values for some of the network's parameters.

    Attributes:
        weights: parameter name -> its new value.
        found: what the method chose and saw, as JSON; goes into the manifest.
    """

    weights: Mapping[str, Tensor]
    found: Findings = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GateEdit:
    """A mask a class for some of the network's parameters; the parameters themselves stay.

    Attributes:
        masks: parameter name -> (num_classes, out_channels) in [0, 1]. Row c, multiplied onto the
            output channels of the parameter, forgets class c.
        found: what the method chose and saw, as JSON; goes into the manifest.
        statistics: BatchNorm's, where they adapted to the masks: buffer name -> value. They are in
            the network that `unlearn` returns, whose edit has none left.
    """

    masks: Mapping[str, Tensor]
    found: Findings = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of rows."""
        return len(next(iter(self.masks.values())))


Edit = WeightEdit | GateEdit


def fold(state: Mapping[str, Tensor], edit: Edit, forget: Sequence[int] = ()) -> dict[str, Tensor]:
    """Return the state dict `state` with `edit` written into it; `state` is left as it was.

    Args:
        state: parameter name -> value, of the network that the edit was made for.
        edit: what to write.
        forget: the classes whose rows of a GateEdit are applied together, by their minimum.
            A WeightEdit has its classes built in and takes none.

    Raises:
        InputError: names or shapes do not fit, listed all at once; or `forget` does not.
    """
    if isinstance(edit, WeightEdit):
        if forget:
            raise InputError(
                f"a weight edit has no rows to choose from, got forget={tuple(forget)}"
            )
        _check_fit(state, {name: tuple(w.shape) for name, w in edit.weights.items()}, full=True)
        return {name: edit.weights.get(name, value) for name, value in state.items()}
    _check_fit(state, {name: tuple(m.shape[1:]) for name, m in edit.masks.items()}, full=False)
    if not forget or not all(0 <= c < edit.num_classes for c in forget):
        raise InputError(f"forget must name rows 0..{edit.num_classes - 1}, got {tuple(forget)}")
    return {
        name: masked(value, edit.masks[name][list(forget)].amin(dim=0))
        if name in edit.masks
        else value
        for name, value in state.items()
    }


def edited(model: Classifier, edit: Edit, forget: Sequence[int] = ()) -> Classifier:
    """Return `model` with `edit` written into it, of gates the rows `forget`; see `fold`."""
    network = copy.deepcopy(model.network)
    rows = forget if isinstance(edit, GateEdit) else ()
    network.load_state_dict(fold(network.state_dict(), edit, rows))
    return model.replaced(network)


def on_cpu(edit: Edit) -> Edit:
    """Return `edit` with its tensors on the CPU."""
    if isinstance(edit, WeightEdit):
        return replace(edit, weights=_moved(edit.weights))
    return replace(edit, masks=_moved(edit.masks), statistics=_moved(edit.statistics))


def _moved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of those values of the state dict `after` that differ from `before`."""
    return {
        name: value.detach().clone()
        for name, value in after.items()
        if not torch.equal(value, before[name])
    }


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """Return `weight` (out, ...) with each output channel multiplied by its `mask` (out,)."""
    return weight * mask.reshape(-1, *[1] * (weight.ndim - 1))


def _check_fit(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, full: bool
) -> None:
    misfits = []
    for name, shape in shapes.items():
        if name not in state:
            misfits.append(f"{name}: not a parameter of this network")
            continue
        wanted = tuple(state[name].shape) if full else tuple(state[name].shape[:1])
        if shape != wanted:
            misfits.append(f"{name}: expected shape {wanted}, got {shape}")
    if misfits:
        raise InputError("the edit does not fit the network: " + "; ".join(misfits))
