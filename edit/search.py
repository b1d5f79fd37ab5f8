"""The grid search over the two scalings of SVD unlearning (arXiv 2312.00761, section 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trial:
    """One grid point and how well the edited network recognises the validation images.

    Attributes:
        alpha_r: scaling of the retain space; 0 for the unedited network.
        alpha_f: scaling of the forget space; 0 for the unedited network.
        retain: recognition of the retained images, 0..1.
        forget: recognition of the images to forget, 0..1.
        norm: of the change of all weights.
    """

    alpha_r: float
    alpha_f: float
    retain: float
    forget: float
    norm: float

    @property
    def score(self) -> float:
        """The paper's objective, `acc_r (1 - acc_f)`."""
        return self.retain * (1 - self.forget)


def search(
    alphas_r: Sequence[float],
    alphas_f: Sequence[float],
    evaluate: Callable[[float, float], Trial],
    original: Trial,
    *,
    forgotten: float = 0.0,
) -> tuple[Trial, list[Trial]]:
    """Return the best trial and all that were made; `original` wins where none scores higher.

    Pairs with alpha_f <= alpha_r / 1000 are left out, as the authors do: nearly all is protected.
    For each alpha_r, alpha_f rises until `retain` is below the best score, since no higher one
    can win then, or `forget` is below `forgotten`. Ties go to the smaller change of the weights,
    then to the smaller alpha_f.
    """
    best, trials = original, []
    for alpha_r in alphas_r:
        for alpha_f in sorted(a for a in alphas_f if a > alpha_r / 1000):
            trial = evaluate(alpha_r, alpha_f)
            trials.append(trial)
            if trial.score > original.score:
                best = max(best, trial, key=lambda t: (t.score, -t.norm, -t.alpha_f))
            if trial.retain < best.score or trial.forget < forgotten:
                break
    return best, trials
