"""The unlearning methods by name, and their settings by preset."""

import logging
from collections.abc import Mapping
from dataclasses import fields

from pydantic import TypeAdapter, ValidationError

from bandstop.edit import l2ul, svd, wf_net
from bandstop.edit.baselines import (
    bad_teacher,
    boundary_shrink,
    fine_tune,
    neg_grad_plus,
    random_labels,
    salun,
    scrub,
    ssd,
    unsir,
)
from bandstop.edit.baselines.bad_teacher import BadTeacher
from bandstop.edit.baselines.boundary_shrink import BoundaryShrink
from bandstop.edit.baselines.fine_tune import FineTune
from bandstop.edit.baselines.logit_mask import LogitMask
from bandstop.edit.baselines.neg_grad import NegGrad
from bandstop.edit.baselines.neg_grad_plus import NegGradPlus
from bandstop.edit.baselines.random_labels import RandomLabels
from bandstop.edit.baselines.retrain import Retrain
from bandstop.edit.baselines.salun import SalUn
from bandstop.edit.baselines.scrub import SCRUB
from bandstop.edit.baselines.ssd import SSD
from bandstop.edit.baselines.svd_head import SVDHead
from bandstop.edit.baselines.unsir import UNSIR
from bandstop.edit.errors import InputError
from bandstop.edit.l2ul import L2UL
from bandstop.edit.method import Method
from bandstop.edit.presets import Preset, read_presets
from bandstop.edit.seeds import MAX_SEED
from bandstop.edit.svd import SVD
from bandstop.edit.wf_net import WFNet

METHODS: Mapping[str, type[Method]] = {
    "svd": SVD,
    "wf-net": WFNet,
    "l2ul": L2UL,
    "retrain": Retrain,
    "fine-tune": FineTune,
    "neg-grad": NegGrad,
    "neg-grad-plus": NegGradPlus,
    "random-labels": RandomLabels,
    "salun": SalUn,
    "ssd": SSD,
    "scrub": SCRUB,
    "unsir": UNSIR,
    "bad-teacher": BadTeacher,
    "boundary-shrink": BoundaryShrink,
    "svd-head": SVDHead,
    "logit-mask": LogitMask,
}
PAPER: Mapping[str, Method] = {
    "svd": svd.PAPER,
    "wf-net": wf_net.PAPER,
    "l2ul": l2ul.PAPER,
    "fine-tune": fine_tune.PAPER,
    "neg-grad-plus": neg_grad_plus.PAPER,
    "random-labels": random_labels.PAPER,
    "salun": salun.PAPER,
    "ssd": ssd.PAPER,
    "scrub": scrub.PAPER,
    "unsir": unsir.PAPER,
    "bad-teacher": bad_teacher.PAPER,
    "boundary-shrink": boundary_shrink.PAPER,
}

log = logging.getLogger(__name__)


def known_presets(method: str) -> tuple[str, ...]:
    """Return the names of the settings that `method` comes with, `default` first.

    Raises:
        InputError: no such method.
    """
    _check_method(method)
    return tuple(read_presets()[method])


def preset(method: str, name: str = "default") -> Method:
    """Return the setting called `name`: `default`, `paper`, or one for a network.

    A warning tells when it was never measured.

    Raises:
        InputError: no such method, or no such preset of it.
    """
    _check_method(method)
    presets = read_presets()[method]
    if name not in presets:
        raise InputError(f"{method} has no preset {name!r}; expected {', '.join(presets)}")
    if name != "default" and presets[name].remark:
        log.warning("preset %s of %s is %s", name, method, presets[name].remark)
    return resolved(method, presets[name])


def resolved(method: str, chosen: Preset) -> Method:
    """Return the hyper-parameters that a preset of `method` stands for.

    Raises:
        InputError: settings that the method does not have or take, or no paper to start from.
    """
    if chosen.base == "default":
        return configured(METHODS[method](), chosen.settings)
    if method not in PAPER:
        raise InputError(f"{method} is of no paper, so it has no preset with base paper")
    return configured(PAPER[method], chosen.settings)


def configured(base: Method, given: Mapping[str, object]) -> Method:
    """Return `base` with the settings `given` on top.

    Raises:
        InputError: an unknown setting, or a value of another type or out of range; all of them.
    """
    known = [f.name for f in fields(base)]  # type: ignore[arg-type]  # a Method is a dataclass, which a Protocol cannot say
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(
            f"{base.name}: unknown setting {', '.join(unknown)}; expected {', '.join(known)}"
        )
    values = {key: getattr(base, key) for key in known} | dict(given)
    try:
        made = TypeAdapter(type(base)).validate_python(values)
    except ValidationError as error:
        lines = [
            f"{(*e['loc'], 'setting')[0]}: {e['msg']}" for e in error.errors(include_url=False)
        ]
        raise InputError(f"{base.name}: {'; '.join(lines)}") from error
    if not 0 <= made.seed <= MAX_SEED:
        raise InputError(f"{base.name}: seed: expected 0..{MAX_SEED}, got {made.seed}")
    return made


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise InputError(f"no method {method!r}; expected one of {', '.join(METHODS)}")
