"""What is to be forgotten."""

from collections.abc import Sequence
from dataclasses import dataclass

from bandstop.edit.errors import InputError


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """Classes or training images to forget: exactly one of the two.

    Attributes:
        classes: class indices, ascending, without repeats.
        instances: positions in the training set, ascending, without repeats.
    """

    classes: tuple[int, ...] = ()
    instances: tuple[int, ...] = ()

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
    if digits.isascii() and digits.isdigit() and int(digits) < len(class_names):
        return int(digits)
    known = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise InputError(
        f"forget: no class {name!r}; expected one of {len(class_names)} names ({known}) "
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
