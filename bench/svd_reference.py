"""The paper's way to SVD unlearning, to compare with: rows are stored and decomposed.

After Kodge, Saha, Roy (arXiv 2312.00761), algorithm 1, and what their published scripts do about
memory: 150 images at a time, a random share of each batch's rows is kept so that 10,000 are left at
most, both sides' rows stay until the end. Kinder than theirs: a layer's rows are thinned out at
once, where theirs unfold a batch at every layer before. Full maps are unfolded.
"""

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bandstop.edit.classifier import Classifier
from bandstop.edit.images import ImageSet
from bandstop.edit.moments import editable_layers, layer_rows, weight_matrix
from bandstop.edit.svd import PAPER, SVD

Space = tuple[Tensor, Tensor]  # basis (d, min(n, d)) and normalised energies


@dataclass(frozen=True, slots=True)
class Paper:
    """Settings of the authors' CIFAR-10 script.

    Attributes:
        alpha_r: scaling of the retain space.
        alpha_f: scaling of the forget space.
        row_cap: rows of a layer that are decomposed, at most; the authors' cap.
        batch: images a forward.
        seed: draws the rows.
        largest: layers with more columns are collected, not decomposed (it takes minutes each).
    """

    alpha_r: float = 100.0
    alpha_f: float = 3.0
    row_cap: int = 10_000
    batch: int = 150
    seed: int = 0
    largest: int | None = None

    @property
    def our_rows(self) -> int:
        """The rows that our side reads, at most: twice as many, as its default is."""
        return 2 * self.row_cap

    def as_ours(self, retain: int, forget: int) -> SVD:
        """Return our method at this one point, on so many images of each side."""
        return replace(
            PAPER,
            alpha_r=(self.alpha_r,),
            alpha_f=(self.alpha_f,),
            retain_images=retain,
            forget_images=forget,
            max_rows=self.our_rows,
            seed=self.seed,
        )


def edit(model: Classifier, retain: ImageSet, forget: ImageSet, paper: Paper) -> dict[str, Tensor]:
    """Return the edited weight matrix (out, d) of every layer that is not too large.

    Only for networks without grouped convolutions.
    """
    generator = torch.Generator().manual_seed(paper.seed)
    rows_r = capped_rows(model, retain, paper, generator)
    kept = decomposed(rows_r, paper)
    rows_f = capped_rows(model, forget, paper, generator)
    gone = decomposed(rows_f, paper)
    return without_forget(model, kept, gone, paper)


def one_side(model: Classifier, images: ImageSet, paper: Paper) -> dict[str, Space]:
    """Return the space of every layer for one side's images, which is half of the work."""
    generator = torch.Generator().manual_seed(paper.seed)
    return decomposed(capped_rows(model, images, paper, generator), paper)


def without_forget(
    model: Classifier, retain: Mapping[str, Space], forget: Mapping[str, Space], paper: Paper
) -> dict[str, Tensor]:
    """Return `W (I - P_dis)^T` with `P_dis = P_f - P_f P_r` for each layer that has spaces."""
    layers = editable_layers(model.network)
    edited = {}
    for name in retain:
        p_r = projection(*retain[name], paper.alpha_r)
        p_f = projection(*forget[name], paper.alpha_f)
        keep = torch.eye(len(p_f)) - (p_f - p_f @ p_r)
        edited[name] = weight_matrix(layers[name])[0] @ keep.T
    return edited


def capped_rows(
    model: Classifier, images: ImageSet, paper: Paper, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return at most `row_cap` random rows (n, d) of what each layer reads."""
    share = int(paper.row_cap / (len(images) / paper.batch)) + 1
    layers = editable_layers(model.network)
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    with ExitStack() as hooks, torch.no_grad():
        for name, layer in layers.items():

            def keep_(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                rows = layer_rows(layers[name], inputs[0])[0]
                parts[name].append(_at_most(rows, share, generator))

            hooks.callback(layer.register_forward_pre_hook(keep_).remove)
        for image, _ in images.batches(paper.batch):
            model(image)
    rows = {}
    for name in layers:  # a layer's parts are let go before the next layer's are joined
        rows[name] = _at_most(torch.cat(parts.pop(name)), paper.row_cap, generator)
    return rows


def decomposed(rows: Mapping[str, Tensor], paper: Paper) -> dict[str, Space]:
    """Return the spaces of the rows of every layer that is not too large."""
    most = math.inf if paper.largest is None else paper.largest
    return {name: space(a) for name, a in rows.items() if a.shape[1] <= most}


def space(rows: Tensor) -> Space:
    """Return the space of rows (n, d)."""
    basis, sigma, _ = torch.linalg.svd(rows.T, full_matrices=False)
    energy = sigma.square()
    return basis, energy / energy.sum()


def projection(basis: Tensor, energy: Tensor, alpha: float) -> Tensor:
    """Return the scaled projection (d, d) (eq. 2)."""
    importance = alpha * energy / ((alpha - 1) * energy + 1)
    scaled = basis * importance.sqrt()
    return scaled @ scaled.T


def _at_most(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count]]
