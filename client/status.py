"""The one place where gRPC's failures become ours."""

from collections.abc import Mapping

import grpc

from bandstop.client.errors import (
    BackendError,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    NotFound,
    Overloaded,
    ProtocolError,
    Restricted,
    Unavailable,
    Unreachable,
    Untrusted,
)

BY_STATUS: Mapping[grpc.StatusCode, type[ClientError]] = {
    grpc.StatusCode.OK: ProtocolError,  # a failure that claims to be none
    grpc.StatusCode.CANCELLED: Unavailable,  # not by us: a server that shuts down does this
    grpc.StatusCode.UNKNOWN: BackendError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: BackendError,
    grpc.StatusCode.PERMISSION_DENIED: Restricted,
    grpc.StatusCode.UNAUTHENTICATED: Restricted,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: BackendError,
    grpc.StatusCode.ABORTED: BackendError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.INTERNAL: BackendError,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ProtocolError,
}

# What Triton and gRPC mean more exactly, by the words they use (lower case).
BY_WORDS: tuple[tuple[grpc.StatusCode, str, type[ClientError]], ...] = (
    (grpc.StatusCode.UNAVAILABLE, "protocol is restricted", Restricted),
    (grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size", Overloaded),
    (grpc.StatusCode.UNAVAILABLE, "request timeout expired", Overloaded),
    (grpc.StatusCode.UNAVAILABLE, "certificate_verify_failed", Untrusted),
    (grpc.StatusCode.UNAVAILABLE, "hostname verification", Untrusted),
    (grpc.StatusCode.UNAVAILABLE, "wrong_version_number", Untrusted),  # no TLS on that port
    (grpc.StatusCode.UNAVAILABLE, "create security handshaker", InvalidInput),
    (grpc.StatusCode.UNAVAILABLE, "failed to connect", Unreachable),
    (grpc.StatusCode.UNAVAILABLE, "connections to all backends failing", Unreachable),
    (grpc.StatusCode.UNAVAILABLE, "resolution failed", Unreachable),
    (grpc.StatusCode.NOT_FOUND, "has no available versions", Draining),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "message larger than max", InvalidInput),
    (grpc.StatusCode.UNKNOWN, "deserializing response", ProtocolError),
    (grpc.StatusCode.INTERNAL, "deserializing response", ProtocolError),
)


def failure(error: Exception, address: str) -> ClientError:
    """Return our error for whatever gRPC raised in a call to `address`."""
    if isinstance(error, grpc.RpcError):
        return translate(error.code(), error.details() or "", address)
    # A ValueError or a UsageError is what gRPC says of a channel that was closed; what is under way
    # then, nobody but us has cancelled.
    if "closed" in str(error).lower() or isinstance(error, grpc.FutureCancelledError):
        return ClientError(f"{address}: the client is closed")
    return BackendError(f"{address}: gRPC failed: {' '.join(str(error).split())[:500]}")


def translate(code: grpc.StatusCode, details: str, address: str) -> ClientError:
    """Return our error for a failed call to `address`; its message is one line."""
    said = " ".join(details.split())[:500].rstrip("; ")
    words = said.lower()
    exact = [kind for status, text, kind in BY_WORDS if status is code and text in words]
    kind = exact[0] if exact else BY_STATUS.get(code, BackendError)
    if kind is Untrusted:
        return Untrusted(
            f"{address}: TLS failed; expected a server with a certificate for this address that "
            f"the authorities of tls.ca signed ({said})"
        )
    if kind is InvalidInput and "security handshaker" in words:
        return InvalidInput(f"tls: a file is damaged, or the key is not the certificate's ({said})")
    if kind is Unreachable and "socket closed" in words:
        return Unreachable(
            f"{address}: the server hangs up at once; it may expect TLS (grpcs://) or a client's "
            f"certificate ({said})"
        )
    if kind is Unreachable:
        return Unreachable(
            f"no server answers at {address}; start one with `bandstop serve REPO` "
            f"or name another address ({said})"
        )
    return kind(f"{address}: {said or 'no reason given'} ({code.name})")
