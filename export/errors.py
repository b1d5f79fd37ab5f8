"""Errors of the export stage that a user can mend; each knows its exit code."""

from typing import ClassVar

from pydantic import ValidationError

from bandstop.edit.errors import printable


class ExportError(Exception):
    """An expected failure of the export stage, told in one line."""

    exit_code: ClassVar[int] = 1


class SpecError(ExportError, ValueError):
    """What was asked cannot be exported or published: a setting that does not fit, a bad path."""

    exit_code: ClassVar[int] = 2


class ParityFailed(ExportError):  # noqa: N818  # the event, as the command line names it
    """The ONNX graph does not compute what PyTorch computes; nothing was written."""

    exit_code: ClassVar[int] = 4


class ForgettingLost(ExportError):  # noqa: N818  # same
    """A file of lower precision recognises again what was forgotten; nothing was written."""

    exit_code: ClassVar[int] = 4


class GraphNotAllowed(ExportError):  # noqa: N818  # same
    """An ONNX graph breaks a rule that every served graph keeps."""

    exit_code: ClassVar[int] = 5


class ReleaseError(ExportError):
    """A release is not what it says: corrupt, incomplete, or with a file too many."""

    exit_code: ClassVar[int] = 5


class VerifyFailed(ExportError):  # noqa: N818  # the event, as the command line names it
    """An artifact, release, version or statement is not what it should be."""

    exit_code: ClassVar[int] = 5


class SignatureInvalid(ExportError):  # noqa: N818  # same
    """A signature is not there, broken, by another key, or of something else."""

    exit_code: ClassVar[int] = 5


class RollbackRefused(ExportError):  # noqa: N818  # same
    """A good signature of a release that a newer one has replaced or revoked."""

    exit_code: ClassVar[int] = 7


class RefusedByPolicy(ExportError):  # noqa: N818  # same
    """The version would recognise again what the model was asked to forget."""

    exit_code: ClassVar[int] = 7


class NotServed(ExportError):  # noqa: N818  # same
    """The server does not answer, or not with what was to be served; the old state is back."""

    exit_code: ClassVar[int] = 6


class DiskError(ExportError):
    """The disk is full or broken, or may not be written; the repository is as it was."""

    exit_code: ClassVar[int] = 1


def schema_misfits(error: ValidationError, whole: str, *, most: int) -> str:
    """Return the first misfits of a record, `most` at most: where, and what.

    Release records are read without PyTorch, which `edit.records.misfits` comes with.

    Args:
        error: what the record's class said.
        whole: what the record as a whole is called.
        most: how many are told.
    """
    lines = [
        printable(f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}")[:400]
        for e in error.errors(include_url=False, include_context=False)[:most]
    ]
    return "; ".join(lines)
