"""WF-Net: unlearn every class in one run by masks on the layers, one row a class.

Poppi, Sarto, Cornia, Baraldi, Cucchiara: Multi-Class Unlearning for Image Classification via Weight
Filtering, IEEE Intelligent Systems 2024 (arXiv 2304.02049). The weights stay; `sigmoid(alpha)`
scales the output channels, and the row of alpha is chosen sample by sample.

Departures from the paper, all measured (docs/results.md): the reciprocal is floored,
`1 / (L_f + 0.1)`, so that an image that is recognised with certainty does not outweigh all others;
masks start lower where a channel answers to the class more than to others; and alpha is trained by
Adam with a one-cycle rate. `PAPER` holds the paper's own setting.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch

from bandstop.edit import team
from bandstop.edit.batchnorm import adapt_, fold_batchnorm, statistics_of
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.errors import DivergedError
from bandstop.edit.gate_check import check_gates
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits
from bandstop.edit.progress import progress
from bandstop.edit.request import ForgetRequest
from bandstop.edit.wf_check import check_fits, check_settings
from bandstop.edit.wf_objective import Alphas, objective
from bandstop.edit.wf_run import Run, Shuffled, restore_
from bandstop.edit.wf_start import initial_alphas, lower_
from bandstop.edit.wf_training import (
    Best,
    clamp_,
    is_check,
    masks_of,
    optimizer_of,
    schedule_of,
)


@dataclass(frozen=True, slots=True)
class WFNet:
    """Hyper-parameters of WF-Net.

    Attributes:
        steps: optimiser steps at most.
        batch: training images a step; half are forgotten, half retained.
        chi: copies of each retained image, each under its own random row (label expansion).
        lambda0: weight of the retain loss.
        lambda1: weight of the forget term; the paper has 10 for CNNs.
        lambda2: weight of the mean of `1 - mask`, which keeps masks open.
        floor: is added to each forget loss before its reciprocal is taken; the paper has none.
        optimizer: adam, or plain sgd as in the paper.
        lr: of alpha; the paper has 100, which only suits sgd.
        schedule: one-cycle, or constant as in the paper.
        bound: alpha is clamped to [-bound, bound] after each step.
        warm: alpha starts at `bound`, less so much a standard deviation by which its channel
            answers more to the class than to others (see wf_start.py); 0 as in the paper.
        validate_every: steps between validations; None: five an epoch, as in the paper.
        patience: stop after so many validations without a better loss; the paper has 10.
        gates: kernel-bias has a mask for each of the two, as in the paper; tied has one for both,
            which serves faster.
        layers: shell patterns on the names of the layers that are masked.
        set_size: above 1, rows are trained together in random sets of up to so many classes, so
            that a request can forget several classes at once.
        bn: fold masks a BatchNorm's shift with the layer; frozen leaves it outside the masks, as if
            the layer before an untouched BatchNorm were masked; adapt lets the statistics follow
            the masked activations, as in a training loop that never says otherwise. The paper
            masks kernels and biases and says nothing of BatchNorm. After adapt the backbone, with
            all masks open, is no longer the original network.
        seed: of batches and rows.
    """

    name: ClassVar[str] = "wf-net"
    steps: int = 300
    batch: int = 128
    chi: int = 3
    lambda0: float = 1.0
    lambda1: float = 1.0
    lambda2: float = 1.0
    floor: float = 0.1
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 0.1
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    bound: float = 3.0
    warm: float = 1.0
    validate_every: int | None = 30
    patience: int | None = 10
    gates: Literal["kernel-bias", "tied"] = "kernel-bias"
    layers: tuple[str, ...] = ("*",)
    set_size: int = 1
    bn: Literal["fold", "adapt", "frozen"] = "fold"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with, all at once."""
        check_settings(asdict(self))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> GateEdit:
        """Return masks of which row c forgets class c; `model` is left as it was.

        Processes of a team divide the images of each step, and each returns the same masks.

        Args:
            model: as `prepare` makes it.
            request: of every class.
            data: images of every class.
            journal: where the state is noted, to go on from; None notes nothing.

        Raises:
            InputError: the request is not for all classes, images of a class are missing, or the
                network cannot be masked; or see `Journal.read`.
            ArtifactError: the journal's file is corrupt.
            DivergedError: the loss became NaN or infinite, or never came below its start.
        """
        check_fits(model, request, data, set_size=self.set_size, bn=self.bn)
        names, tied = gateable(model.network, self.layers), self.gates == "tied"
        check_gates(model, names, tied=tied)
        gated = Gated(model.network, tuple(names), tied=tied)
        best = self._trained(model, gated, data, journal or Journal())
        found = {
            "start_loss": best.start,
            "best_step": best.step,
            "validation_losses": best.losses,
        }
        return GateEdit(masks_of(best.alphas, names), found, best.statistics)

    def prepare(self, model: Classifier) -> Classifier:
        """Return `model` with BatchNorm folded as `bn` asks for; to adapt, not at all."""
        if model.bn_folded or self.bn == "adapt":
            return model
        return fold_batchnorm(model, shift="apart" if self.bn == "frozen" else "inside")

    def _trained(self, model: Classifier, gated: Gated, data: Splits, journal: Journal) -> Best:
        run = self._begun(model, gated, data, journal)
        per_epoch = -(-len(data.forget) // self.batch)
        for step in progress(range(run.step + 1, self.steps + 1), "wf-net"):
            if run.best.exhausted(self.patience):
                break
            self._step_(run, model, gated)
            if is_check(step, per_epoch, self.validate_every) or step == self.steps:
                gated.eval()
                held_out = self._validation_loss(model, gated, run.alphas, data.validate)
                run.best.see_(step, run.alphas, held_out, statistics_of(gated.network))
            journal.note_(run.state)
        run.best.check()
        return run.best

    def _begun(self, model: Classifier, gated: Gated, data: Splits, journal: Journal) -> Run:
        """Return the training as `journal` has it, or before its first step."""
        generator = torch.Generator().manual_seed(self.seed)
        alphas = initial_alphas(model, self.bound, self.layers, tied=self.gates == "tied")
        optimizer = optimizer_of(alphas, self.optimizer, self.lr)
        schedule = schedule_of(optimizer, self.schedule, self.lr, self.steps)
        batches = Shuffled(data.forget, self.batch, generator)
        run = Run(alphas, gated.network, optimizer, schedule, batches, Best())
        if restore_(run, journal):
            return run
        if self.warm:
            lower_(alphas, model, data.forget, self.warm, self.seed)
            clamp_(alphas, self.bound)
        run.best = Best(self._validation_loss(model, gated, alphas, data.validate))
        return run

    def _step_(self, run: Run, model: Classifier, gated: Gated) -> None:
        run.step += 1
        if self.bn == "adapt":
            adapt_(gated)
        image, label = run.batches.draw_()
        loss = objective(self, model, gated, run.alphas, image, label, run.generator)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(f"wf-net: the loss is {loss.item()} at step {run.step}; lower lr")
        run.optimizer.zero_grad()
        loss.backward()
        team.sum_gradients_(run.alphas.values())
        run.optimizer.step()
        run.schedule.step()
        clamp_(run.alphas, self.bound)

    def _validation_loss(
        self, model: Classifier, gated: Gated, alphas: Alphas, images: ImageSet
    ) -> float:
        """Return the objective over `images`, always with the same rows."""
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            parts = [
                (objective(self, model, gated, alphas, image, label, generator).item(), len(label))
                for image, label in images.batches(4 * self.batch, generator)
                if len(label) > 1
            ]
        return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)


PAPER = WFNet(
    steps=100_000,
    lambda1=10.0,
    floor=1e-8,
    optimizer="sgd",
    lr=100.0,
    schedule="constant",
    warm=0.0,
    validate_every=None,
    patience=10,
    bn="frozen",
)
