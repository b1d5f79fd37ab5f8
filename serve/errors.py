"""What can keep a server from serving; each knows the exit code of the command line."""

from typing import ClassVar


class ServeError(Exception):
    """An expected failure of the serving stage, told in one line."""

    exit_code: ClassVar[int] = 1


class MachineError(ServeError):
    """This machine lacks something that the server needs."""


class ServeInputError(ServeError, ValueError):
    """An argument that cannot be served: no repository, a port out of range."""

    exit_code: ClassVar[int] = 2


class UnsafeRepository(ServeError):  # noqa: N818  # the finding, as the command line names it
    """The repository holds what Triton would execute or stop at."""

    exit_code: ClassVar[int] = 5


class NotServed(ServeError):  # noqa: N818  # same
    """The server did not come up, or a model in it does not answer."""

    exit_code: ClassVar[int] = 6
