"""A linear probe: whether the features still tell the forgotten classes from the others.

Many edits only turn the head away from features that stay as they were.
"""

import math
import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.measure import Z95, Measure, share
from bandstop.edit.evaluation.observed import Answers, Case, Subject
from bandstop.edit.seeds import seeded

_STEPS = 1000


def probe(subject: Subject, case: Case, *, most: int = 500) -> dict[str, Measure]:
    """Return how well a linear classifier on the features finds the forgotten classes.

    A multinomial logistic regression of all classes is fitted to standardised features of training
    images, forgotten and retained, and asked about test images. A network that never saw a class
    has features that tell it apart as well, so only the distance to the retrained one counts.

    Args:
        subject: its features in front of the head are looked at.
        case: which classes were forgotten; its seed draws the images.
        most: training images of a class at most. None has more than the retained class in the
            middle by count, and those with fewer weigh more, so that no class is the safe guess.

    Returns:
        `probe_acc`: the share of the forgotten classes' test images that are found to be of their
        class. `probe_auc`: the area under the ROC curve of forgotten against retained test images
        by their log-odds, 0.5 where the features tell nothing.

    Raises:
        InputError: single images were forgotten, or a class has no training or no test image.
    """
    fitted = _balanced(subject, case, most)
    test = subject.observed.test
    scores, known, note = _scores(fitted, test)
    forgotten = torch.isin(test.labels, torch.tensor(case.classes))
    right = known[scores.argmax(1)] == test.labels
    among = torch.isin(known, torch.tensor(case.classes))
    odds = scores[:, among].logsumexp(1) - scores[:, ~among].logsumexp(1)
    acc = share(int(right[forgotten].sum()), int(forgotten.sum()))
    auc = area(odds[forgotten], odds[~forgotten])
    return {
        "probe_acc": Measure(acc.value, acc.ci95, acc.n, note),
        "probe_auc": Measure(auc.value, auc.ci95, auc.n, note),
    }


def area(above: Tensor, below: Tensor) -> Measure:
    """Return the area under the ROC curve: how often one of `above` (m,) exceeds one of `below`.

    Ties count half. The interval is that of DeLong et al. (Biometrics 1988), from the variances of
    each image's own share; it has no width where the two are apart.
    """
    over = _share_below(below, above)  # (m,)
    under = 1 - _share_below(above, below)  # (k,)
    value = over.mean().item()
    if min(len(over), len(under)) < 2:
        return Measure(value, None, len(over) + len(under))
    half = Z95 * math.sqrt(over.var().item() / len(over) + under.var().item() / len(under))
    ci95 = (max(0.0, value - half), min(1.0, value + half))
    return Measure(value, ci95, len(over) + len(under))


def _share_below(others: Tensor, values: Tensor) -> Tensor:
    """Return for each of `values` the share of `others` below it, ties half."""
    ordered = others.double().sort().values
    left, right = (torch.searchsorted(ordered, values.double(), side=s) for s in ("left", "right"))
    return (left + right).double() / (2 * len(ordered))


def _balanced(subject: Subject, case: Case, most: int) -> Answers:
    """Return the training answers that the probe is fitted to, no class with many more."""
    seen = subject.observed
    test, forgotten = set(seen.test.labels.tolist()), set(seen.forget.labels.tolist())
    if not case.classes:
        raise InputError("the probe looks for classes, but single images were forgotten")
    missing = [c for c in case.classes if c not in test or c not in forgotten]
    others = seen.retain.without_classes(case.classes)
    if missing or not len(others) or test <= set(case.classes):
        raise InputError(
            "the probe needs training and test images of every forgotten class and of one or more "
            f"others; the forgotten classes {missing} lack some, and {len(others)} training images "
            "are of others"
        )
    limit = min(most, int(others.labels.unique(return_counts=True)[1].median()))
    parts = (seen.forget.of_classes(case.classes), others)
    columns = zip(*((p.logits, p.features, p.labels) for p in parts), strict=True)
    together = Answers(*(torch.cat(column) for column in columns))
    order = torch.randperm(len(together), generator=seeded(case.seed))
    labels = together.labels[order]
    chosen = torch.cat([order[labels == c][:limit] for c in labels.unique()])
    return together.take(chosen.sort().values)


def _scores(fitted: Answers, test: Answers) -> tuple[Tensor, Tensor, str]:
    """Return the probe's scores (n, known) of `test`, the classes that it knows, and a note."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=_STEPS)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(fitted.features.double().numpy(), fitted.labels.numpy())
    late = any(issubclass(w.category, ConvergenceWarning) for w in caught)
    scores = torch.from_numpy(model.decision_function(test.features.double().numpy()))
    if scores.ndim == 1:  # of two classes it scores the second alone
        scores = torch.stack((torch.zeros_like(scores), scores), dim=1)
    note = f"the probe did not converge in {_STEPS} steps" if late else ""
    return scores, torch.from_numpy(model.classes_), note
