"""What can go wrong between an application and a served model, as one tree.

ClientError
├── InvalidInput       what was given cannot be sent; also a ValueError
│   └── InvalidImage   ... because of these images; the others could be
├── NotFound           the server has no such model or version
│   └── Draining       ... at this moment: it is being swapped, or the server shuts down
├── Unavailable        the server, or the way to it, failed; trying again may help
│   └── Unreachable    nobody answers at the address
├── Untrusted          TLS: client and server do not accept each other
├── Overloaded         the server answers that its queue is full
├── DeadlineExceeded   no answer in time; also a TimeoutError
├── Restricted         the server refuses this kind of call to us
├── PolicyNotApplied   the reply does not prove that what was to be forgotten was
│   └── Refused        ... because the model itself refused these rows
├── ProtocolError      the reply is not what the protocol or the export contract says
│   └── NotFinite      ... its numbers for these images are none
└── BackendError       the model failed while it ran

`exit_code` is the command line's: 1 error, 2 usage, 6 not served, 7 refused by policy.
"""
# ruff: noqa: N818 - they name what happened, as Python's own KeyboardInterrupt does

from collections.abc import Mapping
from typing import ClassVar


class ClientError(Exception):
    """An expected failure of a call, told in one line."""

    exit_code: ClassVar[int] = 1


class InvalidInput(ClientError, ValueError):
    """What was given cannot be sent, by our own checks or by the server's."""

    exit_code: ClassVar[int] = 2


class InvalidImage(InvalidInput):
    """Some images cannot be used.

    Attributes:
        reasons: by position among the images given; each names its file or position.
    """

    def __init__(self, message: str, reasons: Mapping[int, str] | None = None) -> None:
        """Keep `reasons` beside the message, which sums them up."""
        super().__init__(message)
        self.reasons = dict(reasons or {})


class NotFound(ClientError):
    """The server has no such model or version."""

    exit_code: ClassVar[int] = 6


class Draining(NotFound):
    """The model is there but none of its versions is: a swap or a shutdown is under way."""


class Unavailable(ClientError):
    """The server, or the way to it, failed; the same call may succeed later."""

    exit_code: ClassVar[int] = 6


class Unreachable(Unavailable):
    """Nobody answers at the address."""


class Untrusted(ClientError):
    """The TLS handshake failed over a certificate; trying again does not help."""

    exit_code: ClassVar[int] = 6


class Overloaded(ClientError):
    """The server's queue is full, or the request waited in it for too long."""

    exit_code: ClassVar[int] = 6


class DeadlineExceeded(ClientError, TimeoutError):
    """No answer within the deadline, retries included."""

    exit_code: ClassVar[int] = 6


class Restricted(ClientError):
    """The server refuses this kind of call without a credential; trying again does not help."""

    exit_code: ClassVar[int] = 7


class PolicyNotApplied(ClientError):
    """The reply does not prove that the requested classes were forgotten; it is thrown away."""

    exit_code: ClassVar[int] = 7


class Refused(PolicyNotApplied):
    """The model refused to answer rows of the request."""


class ProtocolError(ClientError):
    """A reply that breaks the protocol or the contract of an exported model."""

    exit_code: ClassVar[int] = 5


class NotFinite(ProtocolError):
    """The model answered with NaN or infinity where it refused nothing: bad pixels, or weights."""


class BackendError(ClientError):
    """The model failed while it ran."""


def listed(misfits: list[str], most: int = 8) -> str:
    """Return `misfits` as one line that stays readable, however many there are."""
    left_out = len(misfits) - most
    return "; ".join(misfits[:most]) + (f"; and {left_out} more" if left_out > 0 else "")
