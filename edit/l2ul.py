"""L2UL: make a network forget single training images, without any other training image.

Cha, Cho, Hwang, Lee, Moon, Lee: Learning to Unlearn: Instance-wise Unlearning for Pre-trained
Classifiers, AAAI 2024 (arXiv 2301.11578). The loss of the images is climbed; adversarial images
made from them hold the decision boundaries, and weights that do not matter to them are held.

Departures from the paper, all measured (docs/results.md): instances are pushed over the boundary by
a margin, not climbed without end; adversarial images lie close to them, and keep the answers that
they had rather than take on their targets; BatchNorm is folded; early layers learn slowly; and what
earlier requests took out is watched. `PAPER` holds the paper's own setting.
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch.nn import functional as F
from torch.optim import SGD

from bandstop.edit import team
from bandstop.edit.accuracy import logits
from bandstop.edit.adversarial import Adversaries, Attack, adversaries
from bandstop.edit.baselines.training import Draws
from bandstop.edit.batchnorm import BatchNorm, fold_batchnorm, freeze_
from bandstop.edit.classifier import Classifier
from bandstop.edit.edits import WeightEdit, changed
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet
from bandstop.edit.importance import importance, protection
from bandstop.edit.journal import Journal
from bandstop.edit.l2ul_objective import objective, pushed
from bandstop.edit.l2ul_run import Run, Status, check_moved, look_, rates, slow_down_
from bandstop.edit.l2ul_task import Rest, Task
from bandstop.edit.method import Splits, check_numbers
from bandstop.edit.progress import progress
from bandstop.edit.relabel import as_answered, new_labels
from bandstop.edit.request import ForgetRequest
from bandstop.edit.seeds import global_draws, seeded

_COLLAPSE = 5.0  # times ln C, the loss of an answer by chance


@dataclass(frozen=True, slots=True)
class L2UL:
    """Hyper-parameters of L2UL; its ablations are `penalty=0`, and `adversarial=0` with it.

    Attributes:
        goal: misclassify takes the images for anything but their label; relabel takes each for a
            given other label, or a random one where the request names none.
        adversarial: adversarial images made of each instance.
        eps: radius of the ball that they lie in, in pixel values of [0, 1]. The smaller, the more
            of the rest is kept; too small, most still show the instance's class, and held to that
            they keep it from being forgotten.
        attack_steps: of the descent that makes them.
        attack_rate: length of such a step.
        penalty: weight of `1/2 sum held (theta - theta_start)^2`.
        importance_batch: images that the weights' importance is averaged over first; 1 is the
            definition of memory aware synapses.
        lr: of SGD, for the last layer.
        depth: layer l of L learns at the rate `lr (l / L) ** depth`; 0 is the paper's way. What
            early layers read is shared by all images.
        momentum: of SGD.
        weight_decay: of all parameters.
        batch: adversarial images a step.
        forget_batch: instances a step, at most.
        bn: train lets BatchNorm use and update batch statistics, as the paper's code does; freeze
            folds it first.
        push: climb, as in the paper, or margin (see `pushed`).
        margin: of push margin, in logits.
        focus: whether a step takes its instances from those alone that are still pushed, by the
            last look. Where they are many, the last few would else seldom have their turn.
        weight: of an instance's loss against that of an image that holds.
        hold: what adversaries shall be: their target, as in the paper, or the answer that the
            network gives to them before.
        retained: training images a step, drawn from all that stay, that keep the answers that they
            had before; 0 is the paper's way, which needs no other training image.
        settle: steps that follow once all is forgotten, at rates that fall to 0: what stays comes
            back while what was forgotten is watched. Of use with `retained`.
        check_every: steps between two looks at whether all is forgotten.
        max_steps: at most.
        seed: of targets, first perturbations and random labels.
    """

    name: ClassVar[str] = "l2ul"
    goal: Literal["misclassify", "relabel"] = "misclassify"
    adversarial: int = 20
    eps: float = 0.5
    attack_steps: int = 20
    attack_rate: float = 0.1
    penalty: float = 0.1
    importance_batch: int = 32
    lr: float = 5e-3
    depth: float = 3.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch: int = 64
    forget_batch: int = 32
    bn: Literal["train", "freeze"] = "freeze"
    push: Literal["climb", "margin"] = "margin"
    margin: float = 0.5
    focus: bool = False
    weight: float = 1.0
    hold: Literal["target", "answer"] = "answer"
    retained: int = 0
    settle: int = 0
    check_every: int = 1
    max_steps: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that nothing can be unlearnt with, all at once."""
        above = ("eps", "attack_rate", "lr", "importance_batch", "batch", "forget_batch", "weight")
        zero = ("adversarial", "attack_steps", "penalty", "depth", "momentum", "weight_decay")
        check_numbers(self, (*above, "check_every", "max_steps"), (*zero, "retained", "settle"))

    def __call__(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        journal: Journal | None = None,
    ) -> WeightEdit:
        """Return the edit of all weights that moved; `model` is left as it was.

        Args:
            model: what is to forget.
            request: of instances; its labels are for `goal` relabel.
            data: only its forgotten images are used, those of earlier edits too, which must not
                come back; and its retained ones where `retained` says so.
            journal: where the state is noted, to go on from; its cache keeps adversarial images.

        Raises:
            InputError: a request for classes, or labels that do not go with it or the goal.
            DivergedError: the loss became no number before any instance was forgotten.
        """
        _check(self, model, request)
        journal = journal or Journal()
        made = self._adversaries(model, data.forget, journal)
        task = self._task(model, request, data, made.images if made else None)
        run = self._start(model)
        status = self._train_(run, task, journal)
        check_moved(run, status, task.left(logits(model, task.forget)).double().mean().item())
        found: dict[str, object] = {
            "status": status,
            "steps": run.step,
            "instances": len(data.forget),
            "left": run.left,
            "losses": run.losses,
        }
        if made:
            found["attacks_that_fool"] = made.fooled
        return WeightEdit(changed(model.network.state_dict(), run.best), found)

    def prepare(self, model: Classifier) -> Classifier:
        """Return `model` with BatchNorm folded, unless that takes part in the training."""
        folded = self.bn == "train" or model.bn_folded
        return model if folded else fold_batchnorm(model)

    def _adversaries(
        self, model: Classifier, forget: ImageSet, journal: Journal
    ) -> Adversaries | None:
        if not self.adversarial:
            return None
        how = Attack(self.eps, self.attack_steps, self.attack_rate)
        return adversaries(
            model, forget, self.adversarial, how, seed=self.seed, cache=journal.cache
        )

    def _task(
        self,
        model: Classifier,
        request: ForgetRequest,
        data: Splits,
        hold: ImageSet | None,
    ) -> Task:
        forget, gone = data.forget, data.gone
        held = None
        if self.penalty:
            held = protection(importance(model, forget, batch=self.importance_batch))
        if self.goal == "relabel":
            forget = new_labels(model, request, forget, self.seed)
            gone = gone and as_answered(model, gone)
        if gone is not None:
            forget = forget.joined(gone)
        start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        answers = None
        if hold is not None and self.hold == "answer":
            answers = logits(model, hold).softmax(1)
        rest = None
        if self.retained:
            rest = Rest(Draws(data.retain, self.retained, self.seed, augment=False), model)
        return Task(forget, self.goal == "relabel", hold, answers, start, held, rest)

    def _start(self, model: Classifier) -> Run:
        student = copy.deepcopy(model)
        groups = rates(student.network, self.lr, self.depth)
        mover = SGD(groups, self.lr, self.momentum, weight_decay=self.weight_decay)
        return Run(student, mover)

    def _train_(self, run: Run, task: Task, journal: Journal) -> Status:
        """Train until every instance is where it shall be; return how it ended."""
        run.restore_(journal)
        status = self._look_(run, task)
        for _ in progress(range(run.step, self.max_steps), self.name):
            if status is not None:
                break
            self._step_(run, task)
            status = self._look_(run, task)
            journal.note_(run.state)
        return status or ("cap" if run.left else "forgot")

    def _step_(self, run: Run, task: Task) -> None:
        student = run.student.train()
        if self.bn == "freeze":
            freeze_(student.network)
        if run.forgot_at is not None:
            # never below 0, which would climb: the last look may come after the last of its steps
            slow_down_(run.mover, max(0.0, 1 - (run.step - run.forgot_at) / self.settle))
        forget = task.instances(self.forget_batch, run.step, run.near)
        hold = task.holding(self.batch, run.step)
        with global_draws(seeded(self.seed, run.step), student.mean.device):
            value, total = objective(
                student,
                task,
                forget,
                hold,
                push=self.push,
                margin=self.margin,
                weight=self.weight,
                strength=self.penalty,
            )
        run.losses.append(total)
        run.step += 1
        run.mover.zero_grad()
        value.backward()
        team.sum_gradients_(student.network.parameters())
        run.mover.step()
        student.eval()

    def _look_(self, run: Run, task: Task) -> Status | None:
        """Keep the weights if they are the best so far; return how the run ended, or None."""
        if run.step % self.check_every and run.step < self.max_steps:
            return None
        answers = logits(run.student, task.forget)
        loss = F.cross_entropy(answers, task.forget.labels).item()
        if not math.isfinite(loss):
            return "diverged"
        if self.focus:
            losses = pushed(
                answers,
                task.forget.labels,
                relabel=task.relabel,
                push=self.push,
                margin=self.margin,
            )
            run.near = losses.nonzero()[:, 0]
        ended = look_(run, task.left(answers).double().mean().item(), self.settle)
        if ended is not None:
            return ended
        return "diverged" if loss > _COLLAPSE * math.log(answers.shape[1]) else None


# the commands of its code for CIFAR-10
PAPER = L2UL(
    eps=4.0,
    attack_steps=100,
    penalty=1.0,
    lr=1e-3,
    depth=0.0,
    batch=256,
    bn="train",
    push="climb",
    hold="target",
)


def _check(setting: L2UL, model: Classifier, request: ForgetRequest) -> None:
    misfits = []
    if not request.instances:
        misfits.append("it forgets single images, name them by --instances")
    if request.labels and setting.goal != "relabel":
        misfits.append("the request names new labels, which need goal=relabel")
    norms = any(isinstance(module, BatchNorm) for module in model.network.modules())
    if norms and setting.bn == "train" and team.size() > 1:
        misfits.append("statistics of a batch cannot be shared between processes; set bn=freeze")
    if misfits:
        raise InputError("l2ul: " + "; ".join(misfits))
