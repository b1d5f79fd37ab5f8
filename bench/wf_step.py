"""A training step of WF-Net against an ordinary training step on as many rows."""

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from bandstop.bench.timing import Comparison, interleaved
from bandstop.bench.workload import resnet18, smooth_images
from bandstop.edit.classifier import Classifier
from bandstop.edit.gates import Gated, gateable
from bandstop.edit.wf_net import WFNet
from bandstop.edit.wf_objective import objective
from bandstop.edit.wf_start import initial_alphas
from bandstop.edit.wf_training import clamp_


def wf_step_times(width: int, size: int, batch: int, rounds: int, seed: int) -> Comparison:
    """Return the time of both steps; WF-Net's is on `batch` images, the other on its rows.

    Each side has one step before that is not counted.
    """
    setting = WFNet(batch=batch, seed=seed)
    ours = WFNetStep(setting, resnet18(width, size, seed), size)
    reference = OrdinaryStep(rows(setting), resnet18(width, size, seed, folded=False), size)
    ours()
    reference()
    return interleaved(ours, reference, rounds)


def rows(setting: WFNet) -> int:
    """Return the rows that pass through the network in one step of `setting`."""
    half = setting.batch // 2
    return half + setting.chi * (setting.batch - half)


class WFNetStep:
    """Forward, backward, optimiser and clamp of WF-Net's alphas, on one batch."""

    def __init__(self, setting: WFNet, model: Classifier, size: int) -> None:
        """Gate the network and draw the batch."""
        self.setting = setting
        self.model = model
        self.gated = Gated(model.network, tuple(gateable(model.network)))
        self.alphas = initial_alphas(model, setting.bound)
        self.optimizer = torch.optim.Adam(list(self.alphas.values()), lr=setting.lr)
        self.image, self.label = _batch(setting.batch, size, setting.seed)
        self.generator = torch.Generator().manual_seed(setting.seed)

    def __call__(self) -> None:
        """Take one step."""
        loss = objective(
            self.setting,
            self.model,
            self.gated,
            self.alphas,
            self.image,
            self.label,
            self.generator,
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        clamp_(self.alphas, self.setting.bound)


class OrdinaryStep:
    """Forward, backward and SGD of all weights, BatchNorm in training mode, on one batch."""

    def __init__(self, count: int, model: Classifier, size: int) -> None:
        """Copy the network and draw `count` images."""
        self.model = copy.deepcopy(model).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.image, self.label = _batch(count, size, 0)

    def __call__(self) -> None:
        """Take one step."""
        loss = F.cross_entropy(self.model(self.image), self.label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _batch(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    images = smooth_images(torch.arange(count) % 10, size, seed)
    return next(iter(images.batches(count)))
