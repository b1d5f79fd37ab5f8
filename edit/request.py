"""What is to be forgotten."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bandstop.edit.errors import InputError

_NUMBER = re.compile(r"[0-9]{1,12}")  # more digits are no number of anything


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Classes or training images to forget: exactly one of the two.

    Attributes:
        classes: class indices, ascending, without repeats.
        instances: numbers of training images (their position in the data source, from 0, as
            in `ImageSet.index`), ascending, without repeats.
        labels: what each instance shall be taken for instead; empty leaves it to the method.
    """

    classes: tuple[int, ...] = ()
    instances: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a request for nothing, for both kinds, or out of order."""
        if bool(self.classes) == bool(self.instances):
            raise InputError(
                "a request names either classes or instances, "
                f"got classes={self.classes} and instances={self.instances}"
            )
        for what in (self.classes, self.instances):
            if list(what) != sorted(set(what)):
                raise InputError(f"a request lists each index once, ascending, got {what}")
        if self.labels and len(self.labels) != len(self.instances):
            raise InputError(
                f"a request has a label for every instance or for none, got {len(self.labels)} "
                f"for {len(self.instances)}"
            )


def class_index(name: str, class_names: Sequence[str]) -> int:
    """Return the index of the class called `name`: its exact name, else `3` or `#3`.

    Raises:
        InputError: no such class, or several of that name.
    """
    same = [c for c, known in enumerate(class_names) if known == name]
    if len(same) > 1:
        which = " or ".join(f"#{c}" for c in same)
        raise InputError(f"forget: {len(same)} classes are called {name!r}; say {which}")
    if same:
        return same[0]
    digits = name.removeprefix("#")
    if _NUMBER.fullmatch(digits) and int(digits) < len(class_names):
        return int(digits)
    known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise InputError(
        f"forget: no class {name!r:.80}; expected one of {len(class_names)} names ({known}) "
        f"or an index 0..{len(class_names) - 1}"
    )


def parse_forget(text: str, class_names: Sequence[str]) -> ForgetRequest:
    """Return the request that `text` ('cat,3,#4') makes of a model with these classes.

    Raises:
        InputError: an unknown or repeated class, or every class: nothing would be left.
    """
    names = [text] if text in class_names else [part.strip() for part in text.split(",")]
    classes = [class_index(name, class_names) for name in names]
    if len(set(classes)) != len(classes):
        raise InputError(f"forget: a class is named twice in {text!r}; name each once")
    if len(classes) == len(class_names):
        raise InputError(
            f"forget: all {len(class_names)} classes are named; leave at least one to recognise"
        )
    return ForgetRequest(classes=tuple(sorted(classes)))


def parse_instances(text: str, class_names: Sequence[str], where: str) -> ForgetRequest:
    """Return the request that the lines of `text` make: `NUMBER` or `NUMBER LABEL` each.

    Empty lines, and lines that start with `#`, are left out.

    Args:
        text: one training image a line, by its position in the data source, from 0; after it the
            name or index of the class that it shall be taken for, on every line or on none.
        class_names: of the model.
        where: the file, for the error.

    Raises:
        InputError: a line that is neither, a repeated image, or no image; all of them.
    """
    lines = [line.strip() for line in text.splitlines()]
    rows = [line.partition(" ") for line in lines if line and not line.startswith("#")]
    wrong = [number for number, _, _ in rows if not _NUMBER.fullmatch(number)]
    if wrong:
        shown = ", ".join(repr(number[:20]) for number in wrong[:5])
        raise InputError(f"{where}: expected a number at the start of each line, got {shown}")
    if not rows:
        raise InputError(f"{where}: names no image")
    numbers = [int(number) for number, _, _ in rows]
    twice = sorted(n for n, times in Counter(numbers).items() if times > 1)
    if twice:
        raise InputError(f"{where}: named twice: {', '.join(map(str, twice[:5]))}")
    named = [label.strip() for _, _, label in rows]
    if any(named) and not all(named):
        raise InputError(f"{where}: give a label on every line or on none")
    labels = {
        n: class_index(label, class_names) for n, label in zip(numbers, named, strict=True) if label
    }
    ordered = tuple(sorted(numbers))
    return ForgetRequest(instances=ordered, labels=tuple(labels[n] for n in ordered if labels))
