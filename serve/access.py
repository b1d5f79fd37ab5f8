"""How a server is reached, and what it does for its own user alone."""

import secrets
from dataclasses import dataclass

from bandstop.client.channel import Tls

HEADER = "triton-grpc-protocol-bandstop"
# kinds of calls that need the token; asking about models, their health and statistics does not
RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")

# gRPC waits a second and longer after a failed connection; these take the place of all defaults
_QUICK: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.enable_retries", 0),
    # the back-off of another channel in this process is not to delay ours
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller has to know of a server.

    Attributes:
        url: of its gRPC port.
        token: the secret that lets a caller load, unload, trace and share memory; "" for none.
        tls: how the server is known, where it speaks TLS.
    """

    url: str
    token: str = ""
    tls: Tls | None = None

    @property
    def channel_options(self) -> tuple[tuple[str, int | str], ...]:
        """The options of a channel that tells at once what became of a call."""
        name = self.tls.server_name if self.tls else None
        return _QUICK + ((("grpc.ssl_target_name_override", name),) if name else ())

    @property
    def headers(self) -> dict[str, str]:
        """What a call that needs the token is sent with."""
        return {HEADER: self.token} if self.token else {}


def new_token() -> str:
    """Return a secret that nobody can guess."""
    return secrets.token_urlsafe(24)


def restricting(token: str) -> str:
    """Return the server's argument that asks for `token`."""
    key = HEADER.removeprefix("triton-grpc-protocol-")
    return f"--grpc-restricted-protocol={','.join(RESTRICTED)}:{key}={token}"
