"""The classes that an option of the command line names."""

from collections.abc import Sequence

from bandstop.edit.errors import InputError
from bandstop.edit.request import parse_forget


def classes_of(option: str, text: str | None, class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the classes in `text` ('cat,3,#4'), ascending; none without a text.

    Raises:
        InputError: see `parse_forget`; it tells which `option` is meant.
    """
    if text is None:
        return ()
    try:
        return parse_forget(text, class_names).classes
    except InputError as error:
        raise InputError(f"{option}: {str(error).removeprefix('forget: ')}") from error
