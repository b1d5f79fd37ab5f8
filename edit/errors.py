"""Errors that a user can mend; each knows the exit code of the command line."""

from typing import ClassVar


class EditError(Exception):
    """An expected failure of the edit stage, told in one line."""

    exit_code: ClassVar[int] = 1


class InputError(EditError, ValueError):
    """What was asked cannot be done: an unknown class, a missing file, a setting out of range."""

    exit_code: ClassVar[int] = 2


class ArtifactError(EditError):
    """An artifact or checkpoint is not what it says: corrupt, incomplete or of another shape."""

    exit_code: ClassVar[int] = 5


class DivergedError(EditError):
    """A training ran into NaN or infinity; nothing was written."""


class NothingForgottenError(EditError):
    """A method found no edit that forgets better than leaving the network as it is."""


def printable(text: str) -> str:
    """Return `text` such that nothing in it, which may be a file's, breaks a line or a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
