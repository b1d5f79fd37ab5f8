"""UNSIR: noise that the network gets most wrong breaks a class, then what stays is repaired."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from bandstop.edit.baselines.training import (
    Draws,
    TrainsBatchNorm,
    adam,
    check_images,
    cross_entropy,
    edit_of,
    shares,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import seeded


@dataclass(frozen=True, slots=True)
class UNSIR(TrainsBatchNorm):
    """Train on noise labelled as the forgotten class, then on retained images; no image of it.

    Tarun, Chundawat, Mandal, Kankanhalli: Fast Yet Effective Machine Unlearning (arXiv
    2111.08947). `PAPER` has the values of its repository; ours have lower rates. Other than
    there, the noise is pictures: clamped to pixels in [0, 1] and rounded to bytes, not free inputs.

    Attributes:
        noise_images: pictures of noise that are learned for each forgotten class.
        noise_steps: of Adam, that learn them.
        noise_lr: its rate, in units of the normalised input.
        penalty: of the squared norm of a picture, in the same units.
        noise_passes: how often the impairing epoch shows each of them.
        retain_images: of each class that stays, at most, to impair and repair with.
        batch: images a step.
        impair_lr: of Adam on noise and retained images, for one epoch.
        repair_lr: of Adam on retained images, for one epoch.
        seed: of the noise, the sample, the order and the augmentation.
    """

    name: ClassVar[str] = "unsir"
    noise_images: int = 256
    noise_steps: int = 40
    noise_lr: float = 0.1
    penalty: float = 0.1
    noise_passes: int = 20
    retain_images: int = 1000
    batch: int = 128
    impair_lr: float = 5e-3
    repair_lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        counts = ("noise_images", "noise_steps", "noise_passes", "retain_images", "batch")
        check_numbers(self, (*counts, "noise_lr", "impair_lr", "repair_lr"), ("penalty",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that both epochs amount to; `model` is left as it was.

        Args:
            model: what is to forget.
            request: the classes that noise is learned for.
            data: a sample of its retained images is trained on.
            journal: where the state is noted, to go on from; the noise is learned again.

        Raises:
            InputError: instances, or no images to retain.
            DivergedError: the loss became NaN or infinite.
        """
        if not request.classes:
            raise InputError(f"{self.name} forgets classes, not instances")
        check_images(self, data, "retain")
        noise, impair, repair = self._draws(self._noise(model, request.classes), data.retain)
        turn = impair.per_epoch  # the step at which repair begins

        def loss(student: Classifier, step: int) -> Tensor:
            if step >= turn:
                return cross_entropy(student, *repair(step - turn))
            image, label = zip(noise(step), impair(step), strict=True)
            return cross_entropy(student, torch.cat(image), torch.cat(label))

        def before_step(mover: Optimizer, step: int) -> None:
            if step == turn:
                mover.state.clear()  # else the rate would follow the far larger gradients of before
            for group in mover.param_groups:
                group["lr"] = self.impair_lr if step < turn else self.repair_lr

        student, steps = trained(
            model,
            loss,
            turn + repair.per_epoch,
            name=self.name,
            optimizer=adam(self.impair_lr),
            seed=self.seed,
            journal=journal,
            before_step=before_step,
        )
        return edit_of(model, student, {"steps": steps})

    def _draws(self, noise: ImageSet, retain: ImageSet) -> tuple[Draws, Draws, Draws]:
        """Return the noise and the retained images to impair with, and those to repair with."""
        sample = retain.per_class(self.retain_images, seeded(self.seed))
        wrong, right = shares(self.batch, self.noise_passes * len(noise), len(sample))
        return (
            Draws(noise, wrong, self.seed, augment=False),
            Draws(sample, right, self.seed),
            Draws(sample, self.batch, self.seed),
        )

    def _noise(self, model: Classifier, classes: tuple[int, ...]) -> ImageSet:
        """Return the learned pictures of each class, labelled as that class."""
        shape = (self.noise_images, model.preprocess.channels, *model.preprocess.size)
        pictures = []
        for c in classes:
            start = torch.randn(shape, generator=seeded(self.seed, c)).to(model.mean)
            learned = error_maximising(
                model, c, start, steps=self.noise_steps, lr=self.noise_lr, penalty=self.penalty
            )
            pictures.append((learned * 255).round().to(torch.uint8).cpu())
        stored = torch.cat(pictures)
        labels = torch.tensor(classes).repeat_interleave(self.noise_images)
        return ImageSet(stored, torch.arange(len(stored)), labels)


def error_maximising(
    model: Classifier, label: int, start: Tensor, *, steps: int, lr: float, penalty: float
) -> Tensor:
    """Return pictures (n, c, h, w) that `model` takes for anything but class `label`.

    They are in [0, 1], but for rounding.

    Args:
        model: left as it was.
        label: the class whose loss rises.
        start: normalised inputs (n, c, h, w) to set out from.
        steps: of Adam.
        lr: its rate.
        penalty: of a picture's squared norm, as a normalised input, which is taken off the loss.
    """
    low, high = (0 - model.mean) / model.std, (1 - model.mean) / model.std
    noise = start.clamp(low, high).requires_grad_()
    labels = torch.full((len(noise),), label, device=noise.device)
    mover = Adam([noise], lr)
    for _ in range(steps):
        error = F.cross_entropy(model(noise * model.std + model.mean), labels)
        value = penalty * noise.square().sum((1, 2, 3)).mean() - error
        (noise.grad,) = torch.autograd.grad(value, noise)  # of the noise: no parameter gets one
        mover.step()
        with torch.no_grad():
            noise.clamp_(low, high)  # else it is no picture
    return noise.detach() * model.std + model.mean


PAPER = UNSIR(batch=256, impair_lr=0.02, repair_lr=0.01)
