"""How the baselines train a copy of the network: one loop, resumable, a seed gives the same bytes.

Nothing random is carried from step to step: each step draws from generators seeded by its number.
So the state of a run is the network, the optimiser and the number of steps that are done.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from bandstop.edit.augment import augmented
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import Findings, WeightEdit, changed
from bandstop.edit.errors import DivergedError, InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.journal import Journal, corrupt
from bandstop.edit.method import Method, Splits
from bandstop.edit.progress import progress
from bandstop.edit.seeds import global_draws, seeded

Loss = Callable[[Classifier, int], Tensor]  # the network in training and the step, from 0


class TrainsBatchNorm:
    """A method that trains the network as it is, with BatchNorm; what comes out is folded."""

    __slots__ = ()

    def prepare(self, model: Classifier) -> Classifier:
        """Return `model` itself."""
        return model


@dataclass(frozen=True, slots=True)
class Draws:
    """Shuffled batches of a set by number; a number gives the same batch whenever it is asked for.

    Attributes:
        images: where they are drawn from, each once an epoch but for a last batch that is not full.
        size: images a batch.
        seed: of the order and of what is done to the images.
        augment: whether images are shifted and mirrored (see `augmented`).
    """

    images: ImageSet
    size: int
    seed: int
    augment: bool = True

    @property
    def per_epoch(self) -> int:
        """The number of batches in which each image comes once."""
        return max(1, len(self.images) // self.size)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (n, c, h, w) in [0, 1] and labels (n,) of the batch number `step`."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.images), generator=seeded(self.seed, epoch, 0))
        part = self.images.take(order[place * self.size : (place + 1) * self.size])
        image, label = next(part.batches(self.size))
        return augmented(image, seeded(self.seed, step, 1)) if self.augment else image, label


def shares(batch: int, *counts: int) -> tuple[int, ...]:
    """Return how many of a batch come from each set of `counts` images, in proportion; 1 or more.

    So sets of different size are used up at about the same time.
    """
    return tuple(max(1, round(batch * count / sum(counts))) for count in counts)


def sgd(lr: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> "MakesOptimizer":
    """Return what makes an SGD optimiser of parameters."""
    return lambda parameters: SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)


def adam(lr: float) -> "MakesOptimizer":
    """Return what makes an Adam optimiser of parameters."""
    return lambda parameters: Adam(parameters, lr)


MakesOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


def trained(
    model: Classifier,
    loss: Loss,
    steps: int,
    *,
    name: str,
    optimizer: MakesOptimizer,
    seed: int,
    journal: Journal | None = None,
    before_step: Callable[[Optimizer, int], None] | None = None,
    after_step: Callable[[Classifier], None] | None = None,
    finished: Callable[[Classifier, int], bool] | None = None,
) -> tuple[Classifier, int]:
    """Return a copy of `model` trained on `loss`, and how many steps that took.

    Args:
        model: left as it was.
        loss: what a step minimises.
        steps: at most.
        name: of the method, for progress and errors.
        optimizer: makes the optimiser of the copy's parameters.
        seed: of dropout; `loss` has its own.
        journal: where the state is noted, and read from.
        before_step: may change the optimiser before each step, by its number, such as its rate.
        after_step: may change the copy after each step.
        finished: asked before each step, with how many are done, whether to stop.

    Raises:
        DivergedError: the loss became NaN or infinite.
        InputError, ArtifactError: see `Journal.read`.
    """
    student, journal = copy.deepcopy(model), journal or Journal()
    mover = optimizer(student.network.parameters())
    first = _restored_(student, mover, journal)
    for step in progress(range(first, steps), name):
        if finished is not None and finished(student.eval(), step):
            return student.eval(), step
        if before_step is not None:
            before_step(mover, step)
        _step_(student.train(), mover, loss, step, name, seed)
        if after_step is not None:
            after_step(student)
        done = step + 1
        journal.note_(lambda done=done: _state(student, mover, done))  # type: ignore[misc]  # bound at once
    return student.eval(), max(first, steps)


def _step_(
    student: Classifier, mover: Optimizer, loss: Loss, step: int, name: str, seed: int
) -> None:
    with global_draws(seeded(seed, step, 2), student.mean.device):
        value = loss(student, step)
    if not bool(torch.isfinite(value)):
        raise DivergedError(f"{name}: the loss is {value.item()} at step {step + 1}; lower lr")
    mover.zero_grad()
    value.backward()
    mover.step()


def _state(student: Classifier, mover: Optimizer, done: int) -> dict[str, object]:
    network = student.network.state_dict()
    return {"network": network, "optimizer": mover.state_dict(), "step": done}


def _restored_(student: Classifier, mover: Optimizer, journal: Journal) -> int:
    state = journal.read()
    if state is None:
        return 0
    try:
        student.network.load_state_dict(state["network"])
        mover.load_state_dict(state["optimizer"])
        return int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        assert journal.file is not None  # it was read
        raise corrupt(journal.file) from error


def answers(student: Classifier, image: Tensor) -> Tensor:
    """Return the logits (n, num_classes) of images (n, c, h, w), wherever `student` lives."""
    return student(image.to(student.mean))  # type: ignore[no-any-return]  # a Module's call


def cross_entropy(student: Classifier, image: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross-entropy of images (n, c, h, w) with labels (n,)."""
    return F.cross_entropy(answers(student, image), label.to(student.mean.device))


def divergence(answer: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean KL divergence of the logits `answer` (n, classes) from those of `target`.

    It is times the squared temperature, so that the temperature does not scale the gradient.
    """
    ours, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (answer, target))
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def relabelling(wrong: Draws, retain: Draws) -> Loss:
    """Return the cross-entropy of retained images and relabelled ones, all images counted equally.

    They go through the network together, so that BatchNorm sees a mixture.
    """

    def loss(student: Classifier, step: int) -> Tensor:
        (kept, label), (gone, given) = retain(step), wrong(step)
        return cross_entropy(student, torch.cat((kept, gone)), torch.cat((label, given)))

    return loss


def edit_of(model: Classifier, student: Classifier, found: Findings) -> WeightEdit:
    """Return the edit that turns `model` into `student`."""
    before, after = model.network.state_dict(), student.network.state_dict()
    return WeightEdit(changed(before, after), found)


def check_images(method: Method, data: Splits, *kinds: Literal["forget", "retain"]) -> None:
    """Refuse data without the images that `method` trains on.

    Raises:
        InputError: what is missing, all of it.
    """
    sets = {"forget": data.forget, "retain": data.retain}
    missing = [kind for kind in kinds if not len(sets[kind])]
    if missing:
        raise InputError(f"{method.name}: no images to {' and none to '.join(missing)}")
