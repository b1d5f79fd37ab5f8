"""Networks with the served signature; their only purpose is to be exported."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import Gate, Gated, bias_of
from bandstop.export.graph_attention import arranged, install_, without_keys
from bandstop.export.spec import ExportSpec, Table

_STEPS = 65535  # of a mask in a table of uint16


class Pixels(nn.Module):
    """From the pixels that a request carries to what the network sees."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier, input_kind: Literal["float32", "uint8"]) -> None:
        """Take mean and std of `model`."""
        super().__init__()
        self.input_kind = input_kind
        self.register_buffer("mean", model.mean.detach().clone())
        self.register_buffer("std", model.std.detach().clone())

    def forward(self, image: Tensor) -> Tensor:
        """Return normalised images (n, c, h, w) of (n, c, h, w) in [0, 1] or uint8 (n, h, w, c)."""
        if self.input_kind == "uint8":
            image = (image.float() / 255).permute(0, 3, 1, 2)
        return (image - self.mean) / self.std


class GateTable(nn.Module):
    """The masks of all classes in one table, read by checked indices."""

    masks: Tensor
    ids: Tensor
    refused: Tensor

    def __init__(self, masks: Tensor, slots: int, table: Table = "float32") -> None:
        """Keep `masks` (rows, columns): a row a class and, where allowed, one of nothing."""
        super().__init__()
        self.slots = slots
        self.register_buffer("masks", _stored(masks, table))
        self.register_buffer("ids", torch.arange(len(masks))[:, None])
        self.register_buffer("refused", torch.tensor(float("nan")))

    def forward(self, forget_class: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forget_class` (n, slots) int64 selects.

        Returns:
            accepted: (n, 1) bool; one index out of range refuses its whole row.
            masks: (n, columns), the minimum over the slots; row 0 where refused.
            applied: (n, slots) int64, the rows that were read; -1 where refused.
        """
        # checked while it is still INT64: a cast would wrap 2**32 + 3 to 3, Gather -1 to the last
        inside = (forget_class >= 0) & (forget_class < len(self.masks))  # (n, slots)
        accepted = inside if self.slots == 1 else inside.all(dim=1, keepdim=True)
        safe = torch.where(accepted, forget_class, 0)
        # F.embedding exports as a plain Gather; indexing would export as GatherND
        rows = F.embedding(safe, self.masks).float()  # (n, slots, columns)
        if self.masks.dtype == torch.uint16:
            rows = rows / _STEPS
        masks = rows.squeeze(1) if self.slots == 1 else rows.amin(dim=1)
        applied = torch.where(accepted, F.embedding(safe, self.ids).squeeze(2), -1)
        return accepted, masks, applied


class PlainGraph(nn.Module):
    """`image` -> `logits`."""

    def __init__(self, model: Classifier, spec: ExportSpec) -> None:
        """Serve `model` as it is."""
        super().__init__()
        self.preprocess = Pixels(model, spec.input)
        self.network = model.network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (n, num_classes)."""
        logits: Tensor = self.network(self.preprocess(image))
        return logits


class GatedGraph(nn.Module):
    """`image`, `forget_class` -> `logits`, `applied_forget_class`."""

    def __init__(self, model: Classifier, gates: GateEdit, spec: ExportSpec) -> None:
        """Serve `model` under the masks that each request names."""
        super().__init__()
        names, tied = _in_order(model, gates), is_tied(model, gates)
        attention = arranged(model.network, names)
        own = {n: gates.masks[n] for n in names if not (tied and n.endswith("bias"))}
        own |= {b: without_keys(own[b]) for b in map(bias_of, attention) if b in own}
        self.columns = {name: mask.shape[1] for name, mask in own.items()}
        self.preprocess = Pixels(model, spec.input)
        masks = torch.cat(list(own.values()), dim=1).float()
        self.gates = GateTable(_rows(masks, spec), spec.forget_slots, spec.table)
        here = {*attention, *map(bias_of, attention)}
        self.network = Gated(model.network, [n for n in names if n not in here], tied=tied)
        for weight in attention:
            gate = Gate(weight, names, self.network.selected, tied=tied)
            install_(self.network.network, gate)

    def forward(self, image: Tensor, forget_class: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, num_classes), NaN where refused, and applied (n, slots)."""
        accepted, masks, applied = self.gates(forget_class)
        parts = masks.split(list(self.columns.values()), dim=1)
        selected = dict(zip(self.columns, parts, strict=True))
        logits = self.network(self.preprocess(image), selected)
        return torch.where(accepted, logits, self.gates.refused), applied


def is_tied(model: Classifier, gates: GateEdit) -> bool:
    """Return whether every bias has the masks of its weight, so that one column serves both."""
    state, masks = model.network.state_dict(), gates.masks
    biases = {w: bias_of(w) for w in masks if w.endswith("weight") and bias_of(w) in state}
    return all(b in masks and masks[w].equal(masks[b]) for w, b in biases.items())


def served_names(graph: PlainGraph | GatedGraph) -> dict[str, str]:
    """Return name in `graph` -> name in the file: a parameter is called as in its own network."""
    columns = graph.columns if isinstance(graph, GatedGraph) else {}
    inner = "network.network." if columns else "network."
    layers = {f"{name}.layer": name for name in ({n.rpartition(".")[0] for n in columns})}
    names = {}
    for name in graph.state_dict():
        owner, _, leaf = name.removeprefix(inner).rpartition(".")
        names[name] = f"{layers.get(owner, owner)}.{leaf}".removeprefix(".")
    return names


def _stored(masks: Tensor, table: Table) -> Tensor:
    """Return `masks` in [0, 1] as numbers of the kind `table`, of which 0 and 1 are exact."""
    if table == "uint16":
        return (masks.double() * _STEPS).round().to(torch.uint16)
    return masks.half() if table == "float16" else masks


def _in_order(model: Classifier, gates: GateEdit) -> Sequence[str]:
    return [name for name in model.network.state_dict() if name in gates.masks]


def _rows(masks: Tensor, spec: ExportSpec) -> Tensor:
    """Return the table (rows, columns) that `spec` asks for of `masks` (num_classes, columns)."""
    if spec.allow_none:
        masks = torch.cat([masks, torch.ones_like(masks[:1])])
    if spec.always_forget:
        masks = masks.minimum(masks[list(spec.always_forget)].amin(dim=0))
    return masks.contiguous()
