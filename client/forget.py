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
_HINT = "(a list, not a tuple, holds an entry for each image)"


def forget_rows(
    forget: Forget, images: int, spec: VersionSpec, slots: int, always: Entry = None
) -> NDArray[np.int64] | None:
    """Return `forget_class` (images, slots), or None for a baked model, which has no such input.

    A list or an array holds one entry an image; anything else is meant for every image. An entry
    is a class (its name, else its index), the name of a set of the release, a tuple or set of
    these, or None for nothing; at most `slots` classes in all. What `always` names is added to
    every entry. Slots left over repeat the entry's last class, which changes nothing.

    Raises:
        InvalidInput: an unknown class, a wrong number of entries, None where the model cannot
            forget nothing, or anything but None for a baked model.
    """
    if slots == 0:
        if forget is None and always is None:
            return None
        raise InvalidInput(
            "forget: this model has its forgetting baked in and takes no request; "
            "leave forget and always_forget out"
        )
    base = [] if always is None else _always(always, spec, slots)
    shared = not isinstance(forget, list | np.ndarray)
    entries = [forget] if shared else _entries(forget)
    if not shared and len(entries) != images:
        raise InvalidInput(f"forget: {images} images need {images} entries, got {len(entries)}")
    rows: list[list[int]] = []
    misfits: list[str] = []
    for position, entry in enumerate(entries):
        try:
            rows.append(_row(entry, spec, slots, base))
        except InvalidInput as error:
            misfits.append(str(error) if shared else f"entry {position}: {error}")
    if misfits:
        raise InvalidInput(f"forget: {listed(misfits)}")
    return np.array(rows * images if shared else rows, dtype=np.int64).reshape(images, slots)


def _entries(forget: object) -> list[object]:
    if isinstance(forget, list):
        return forget
    if isinstance(forget, np.ndarray) and forget.dtype.kind in "iu" and forget.ndim in (1, 2):
        return list(forget.tolist())
    what = f"{forget.dtype} {forget.shape}" if isinstance(forget, np.ndarray) else repr(forget)
    raise InvalidInput(f"forget: an array must hold integers (n,) or (n, k), got {what}")


def _always(always: Entry, spec: VersionSpec, slots: int) -> list[int]:
    try:
        base = _classes(always, spec)
    except InvalidInput as error:
        raise InvalidInput(f"forget: always_forget: {error}") from None
    if not base or len(spec.labels) in base:
        raise InvalidInput("forget: always_forget: expected classes, got nothing to forget")
    if len(base) > slots:
        raise InvalidInput(
            f"forget: always_forget names {len(base)} classes, but this model can forget only "
            f"{slots} at a time; export it with --forget-slots {len(base)} or --always-forget"
        )
    return base


def _row(entry: object, spec: VersionSpec, slots: int, base: list[int]) -> list[int]:
    """Return the `slots` class indices that `entry` names beside those of `base`."""
    if entry is None and not base:
        if spec.allow_none:
            return [len(spec.labels)] * slots
        raise InvalidInput("this model always forgets; name a class " + _valid(spec))
    own = [] if entry is None else _classes(entry, spec)
    if base:  # "forget nothing" adds nothing and takes nothing away
        own = [index for index in own if index != len(spec.labels) and index not in base]
    elif not own:
        raise InvalidInput(f"expected 1 to {slots} classes an image, got 0")
    classes = base + own
    if len(classes) > slots:
        raise InvalidInput(
            f"expected 1 to {slots} classes an image, got {len(classes)} "
            + (f"({len(base)} by always_forget)" if base else _HINT)
        )
    return classes + classes[-1:] * (slots - len(classes))


def _classes(entry: object, spec: VersionSpec) -> list[int]:
    """Return the classes that `entry` names, each once; of a set in ascending order."""
    if isinstance(entry, int | str) and entry not in spec.forget_sets:
        return [_index(entry, spec)]  # most requests, and fast
    refs = list(entry) if isinstance(entry, list | tuple | AbstractSet) else [entry]
    named: dict[int, None] = {}
    for ref in refs:
        group = spec.forget_sets.get(ref) if isinstance(ref, str) else None
        named.update(dict.fromkeys((_index(ref, spec),) if group is None else group))
    # A set has no order of its own; the same request is to send the same bytes.
    return sorted(named) if isinstance(entry, AbstractSet) else list(named)


def _index(ref: object, spec: VersionSpec) -> int:
    """Return the class that `ref` means: a name, else `3` or `#3` in a string, or an integer."""
    if isinstance(ref, str):
        bearers = spec.labels.count(ref)
        if bearers == 1:
            return spec.labels.index(ref)
        if bearers:  # ImageNet has two cranes
            named = [index for index, label in enumerate(spec.labels) if label == ref]
            raise InvalidInput(f"{ref!r} names the classes {named}; give one by its index")
        digits = ref.removeprefix("#")
        # int() also reads other scripts' digits, and refuses very long ones in its own words.
        index = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1
    else:
        whole = _whole(ref)
        if whole is None:
            raise InvalidInput(f"expected {_valid(spec)}, got {ref!r} ({type(ref).__name__})")
        index = whole
    if not 0 <= index < len(spec.labels) + spec.allow_none:
        raise InvalidInput(f"no class {ref!r}; expected {_valid(spec)}")
    return index


def _whole(ref: object) -> int | None:
    try:  # asking for the protocol SupportsIndex by isinstance takes many times as long
        return None if isinstance(ref, bool | np.bool_) else operator.index(ref)  # type: ignore[arg-type]
    except TypeError:
        return None


def _valid(spec: VersionSpec) -> str:
    count = len(spec.labels)
    names = ", ".join(spec.labels[:10]) + (", ..." if count > 10 else "")
    nothing = f", or {count} to forget nothing" if spec.allow_none else ""
    sets = f", a set ({', '.join(list(spec.forget_sets)[:10])})" if spec.forget_sets else ""
    return f"one of {count} names ({names}){sets} or an index 0..{count - 1}{nothing}"
