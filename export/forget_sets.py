"""Named sets of classes, which a request to a gated model may name in place of each class."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from bandstop.edit.errors import InputError
from bandstop.edit.request import parse_forget
from bandstop.export.errors import SpecError

# none of these can be taken for an index or for a list of classes
SET_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"


def parse_sets(texts: Sequence[str], class_names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the sets that `texts` ("people=boy,girl,#7" each) make, by name.

    Raises:
        SpecError: one is not of this form, or a name is given twice.
        InputError: an unknown or repeated class, or every class.
    """
    parts = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, sign, _) in zip(texts, parts, strict=True) if not sign]:
        raise SpecError(f"forget-set: expected NAME=CLASS[,CLASS..], got {wrong[0]!r:.80}")
    counts = Counter(name for name, _, _ in parts)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise SpecError(f"forget-set: {twice[0]!r:.80} is given twice; name each set once")
    return {name: _classes(name, text, class_names) for name, _, text in parts}


def set_misfits(
    sets: Mapping[str, Sequence[int]], class_names: Sequence[str], slots: int
) -> list[str]:
    """Return what clients could not use of `sets`, a line each.

    Args:
        sets: name -> classes by index.
        class_names: of the model, by index.
        slots: how many classes a request names.
    """
    return [line for name in sets for line in _misfits(name, sets[name], class_names, slots)]


def sets_text(sets: Mapping[str, Sequence[int]]) -> str:
    """Return `sets` as they stand in config.pbtxt."""
    return json.dumps({name: list(sets[name]) for name in sets}, sort_keys=True)


def _classes(name: str, text: str, class_names: Sequence[str]) -> tuple[int, ...]:
    try:
        return parse_forget(text, class_names).classes
    except InputError as error:
        told = str(error).removeprefix("forget: ")
        raise InputError(f"forget-set: {name!r:.80}: {told}") from error


def _misfits(name: str, classes: Sequence[int], names: Sequence[str], slots: int) -> list[str]:
    what, last = f"forget set {name!r:.80}", len(names) - 1
    misfits = []
    if re.fullmatch(SET_NAME, name) is None:
        misfits.append(f"{what}: expected a name of the form {SET_NAME}")
    if name in names:
        misfits.append(f"{what}: a class has this name; take another")
    if any(not 0 <= c <= last for c in classes) or list(classes) != sorted(set(classes)):
        misfits.append(f"{what}: expected classes 0..{last}, each once, got {list(classes)}")
    if not 1 <= len(classes) <= slots:
        misfits.append(
            f"{what}: {len(classes)} classes, but a request names 1..{slots}; see --forget-slots"
        )
    if len(classes) == len(names):
        misfits.append(f"{what}: all {len(names)} classes; leave at least one to recognise")
    return misfits
