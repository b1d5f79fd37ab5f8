"""From what a caller wants forgotten to the rows of the tensor `forget_class`."""

import operator
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bandstop.client.errors import InvalidInput, listed
from bandstop.client.served import VersionSpec

ClassRef: TypeAlias = str | SupportsIndex
Entry: TypeAlias = ClassRef | tuple[ClassRef, ...] | AbstractSet[ClassRef] | None
# A list at run time: a tuple is one set for all images. Sequence lets a list[int] pass mypy.
Forget: TypeAlias = Entry | Sequence[Entry] | Sequence[Sequence[ClassRef]] | NDArray[np.integer]


def forget_rows(
    forget: Forget, images: int, spec: VersionSpec, slots: int
) -> NDArray[np.int64] | None:
    """Return `forget_class` (images, slots), or None for a baked model, which has no such input.

    A list or an array holds one entry an image; anything else is meant for every image. An entry
    is a class (its name, else its index), a tuple or set of at most `slots` classes, or None for
    nothing. Slots left over repeat the entry's last class, which changes nothing.

    Raises:
        InvalidInput: an unknown class, a wrong number of entries, None where the model cannot
            forget nothing, or anything but None for a baked model.
    """
    if slots == 0:
        if forget is None:
            return None
        raise InvalidInput(
            "forget: this model has its forgetting baked in and takes no request; leave forget out"
        )
    shared = not isinstance(forget, list | np.ndarray)
    entries = [forget] if shared else _entries(forget)
    if not shared and len(entries) != images:
        raise InvalidInput(f"forget: {images} images need {images} entries, got {len(entries)}")
    rows: list[list[int]] = []
    misfits: list[str] = []
    for position, entry in enumerate(entries):
        try:
            rows.append(_row(entry, spec, slots))
        except InvalidInput as error:
            misfits.append(str(error) if shared else f"entry {position}: {error}")
    if misfits:
        raise InvalidInput(f"forget: {listed(misfits)}")
    return np.broadcast_to(np.array(rows, dtype=np.int64), (images, slots))


def _entries(forget: object) -> list[object]:
    if isinstance(forget, list):
        return forget
    if isinstance(forget, np.ndarray) and forget.dtype.kind in "iu" and forget.ndim in (1, 2):
        return list(forget.tolist())
    what = f"{forget.dtype} {forget.shape}" if isinstance(forget, np.ndarray) else repr(forget)
    raise InvalidInput(f"forget: an array must hold integers (n,) or (n, k), got {what}")


def _row(entry: object, spec: VersionSpec, slots: int) -> list[int]:
    """Return the `slots` class indices that `entry` names."""
    if entry is None:
        if spec.allow_none:
            return [len(spec.labels)] * slots
        raise InvalidInput("this model always forgets; name a class " + _valid(spec))
    if isinstance(entry, list | tuple | AbstractSet):
        named = list(dict.fromkeys(_index(one, spec) for one in entry))
        # A set has no order of its own; the same request is to send the same bytes.
        classes = sorted(named) if isinstance(entry, AbstractSet) else named
    else:
        classes = [_index(entry, spec)]
    if not 1 <= len(classes) <= slots:
        raise InvalidInput(
            f"expected 1 to {slots} classes an image, got {len(classes)} "
            "(a list, not a tuple, holds an entry for each image)"
        )
    return classes + classes[-1:] * (slots - len(classes))


def _index(ref: object, spec: VersionSpec) -> int:
    """Return the class that `ref` means: a name, else `3` or `#3` in a string, or an integer."""
    if isinstance(ref, str):
        named = [index for index, label in enumerate(spec.labels) if label == ref]
        if len(named) > 1:  # ImageNet has two cranes
            raise InvalidInput(f"{ref!r} names the classes {named}; give one by its index")
        if named:
            return named[0]
        digits = ref.removeprefix("#")
        # int() also reads other scripts' digits, and refuses very long ones in its own words.
        index = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1
    elif isinstance(ref, bool | np.bool_) or not isinstance(ref, SupportsIndex):
        raise InvalidInput(f"expected {_valid(spec)}, got {ref!r} ({type(ref).__name__})")
    else:
        try:
            index = operator.index(ref)
        except TypeError:
            index = -1
    if not 0 <= index < len(spec.labels) + spec.allow_none:
        raise InvalidInput(f"no class {ref!r}; expected {_valid(spec)}")
    return index


def _valid(spec: VersionSpec) -> str:
    count = len(spec.labels)
    names = ", ".join(spec.labels[:10]) + (", ..." if count > 10 else "")
    nothing = f", or {count} to forget nothing" if spec.allow_none else ""
    return f"one of {count} names ({names}) or an index 0..{count - 1}{nothing}"
