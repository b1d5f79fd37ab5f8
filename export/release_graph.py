"""Which network a release serves, as a graph to be exported."""

from bandstop.edit.baselines.logit_mask import switched_off
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit, edited
from bandstop.edit.parent import parent_tensors
from bandstop.export.graph import GatedGraph, PlainGraph
from bandstop.export.spec import ExportSpec


def with_masked_logits(model: Classifier, spec: ExportSpec) -> Classifier:
    """Return `model` with the logits of what is always forgotten switched off, where asked.

    Raises:
        InputError: it does not end in a linear layer with a bias a class.
    """
    if not spec.mask_logits:
        return model
    return edited(model, switched_off(model, spec.always_forget))


def graph_of(
    model: Classifier, gates: GateEdit | None, spec: ExportSpec
) -> tuple[PlainGraph | GatedGraph, dict[str, str] | None]:
    """Return what is exported, and what baking `gates` changed (see `parent_tensors`).

    Args:
        model: the network before masks.
        gates: its masks, where it has any.
        spec: whether these are served or baked in.
    """
    if gates is None:
        return PlainGraph(_folded(model), spec), None
    if spec.mode == "gated":
        return GatedGraph(model, gates, spec), None
    before, after = _folded(model), _folded(edited(model, gates, spec.forget))
    changed = parent_tensors(before.network.state_dict(), after.network.state_dict())
    return PlainGraph(after, spec), changed


def _folded(model: Classifier) -> Classifier:
    return model if model.bn_folded else fold_batchnorm(model)
