"""Bad teacher: an untrained network teaches what is to be forgotten, the original all else."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from bandstop.edit.arch import build
from bandstop.edit.baselines.training import (
    Draws,
    Loss,
    TrainsBatchNorm,
    adam,
    answers,
    check_images,
    divergence,
    edit_of,
    shares,
    trained,
)
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import seeded


@dataclass(frozen=True, slots=True)
class BadTeacher(TrainsBatchNorm):
    """Answer like a random network on the forgotten images, like the original on some others.

    Chundawat, Tarun, Mandal, Kankanhalli: Can Bad Teaching Induce Forgetting? (arXiv 2205.08096).
    `PAPER` has the values of its repository. Ours are a longer training at a higher rate, for
    networks that are narrower than its ResNet-18.

    The forgotten images end nearly uniform, as a random network answers: not sure of any class. A
    class may so stay the likeliest by a little, the more so where the random network favours it,
    which the seed decides. Judge it by its confidence, too.

    Attributes:
        epochs: passes over the forgotten images and the sample of the others.
        batch: images a step, of both kinds in proportion.
        lr: of Adam.
        temperature: softens the answers that are compared.
        retain_share: of the retained images, how many are in the sample, from 0 to 1.
        seed: of the untrained network, the sample, the order and the augmentation.
    """

    name: ClassVar[str] = "bad-teacher"
    epochs: int = 2
    batch: int = 128
    lr: float = 1e-3
    temperature: float = 1.0
    retain_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be trained with."""
        numbers = ("epochs", "batch", "lr", "temperature", "retain_share")
        check_numbers(self, numbers, up_to_one=("retain_share",))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit that the teaching amounts to; `model` is left as it was.

        Args:
            model: what is to forget; it teaches what stays.
            request: only tells which images are forgotten.
            data: its forgotten images, and a sample of its retained ones, are taught.
            journal: where the state is noted, to go on from.

        Raises:
            InputError: no images to forget or to retain.
            DivergedError: the loss became NaN or infinite.
        """
        check_images(self, data, "forget", "retain")
        sample = _sample(data.retain, self.retain_share, self.seed)
        sizes = shares(self.batch, len(data.forget), len(sample))
        forget, retain = (
            Draws(images, size, self.seed)
            for images, size in zip((data.forget, sample), sizes, strict=True)
        )
        student, steps = trained(
            model,
            self._loss(model, forget, retain),
            self.epochs * max(forget.per_epoch, retain.per_epoch),
            name=self.name,
            optimizer=adam(self.lr),
            seed=self.seed,
            journal=journal,
        )
        return edit_of(model, student, {"steps": steps})

    def _loss(self, model: Classifier, forget: Draws, retain: Draws) -> Loss:
        bad = untrained(model, self.seed)

        def loss(student: Classifier, step: int) -> torch.Tensor:
            (forgotten, _), (kept, _) = forget(step), retain(step)
            with torch.no_grad():
                target = torch.cat((answers(bad, forgotten), answers(model, kept)))
            answer = answers(student, torch.cat((forgotten, kept)))
            return divergence(answer, target, self.temperature)

        return loss


def untrained(model: Classifier, seed: int) -> Classifier:
    """Return a classifier of the same kind with weights drawn from `seed` and nothing learned.

    A network of the user's own is what its function returns: it should draw its weights.
    """
    prep, names = model.preprocess, model.class_names
    network = build(
        model.arch,
        len(names),
        prep.channels,
        prep.size,
        seed=seed,
        trust_factory=True,  # its code ran already, when `model` was loaded
    )
    return Classifier(network, model.arch, prep, names).to(model.mean)


def _sample(images: ImageSet, share: float, seed: int) -> ImageSet:
    count = max(1, round(share * len(images)))
    return images.take(torch.randperm(len(images), generator=seeded(seed))[:count].sort().values)


PAPER = BadTeacher(epochs=1, batch=256, lr=1e-4)
