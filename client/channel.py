"""Addresses, and channels to them: plain, or with TLS."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from bandstop.client.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path  # to load it takes a fiftieth of the whole client's time

LARGEST_MESSAGE = 2**31 - 1
# A channel that is given any option loses the defaults of Triton's client: here is the whole set.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    # Only while a call is open; Triton hangs up on clients that ping without one.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC waits up to two minutes before it looks again for a server that restarts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The back-off of another client in this process is not to delay this one.
    ("grpc.use_local_subchannel_pool", 1),
)
# Of several addresses each gets its share of the calls, and one that fails is left out. Retries
# are ours (retry.py), none of gRPC's: it goes by the status code alone.
ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')


@dataclass(frozen=True, slots=True)
class Tls:
    """How a client knows its server, and how the server knows the client.

    Attributes:
        ca: file of the authorities (PEM) that the server's certificate is held to; None takes
            the system's.
        certificate: file of the client's own certificate (PEM), for mutual TLS.
        key: file of its private key (PEM).
        server_name: that the server's certificate bears, where it is not the host of the url.
    """

    ca: "Path | None" = None
    certificate: "Path | None" = None
    key: "Path | None" = None
    server_name: str | None = None


def open_channel(url: str, tls: Tls | None = None) -> grpc.Channel:
    """Return a channel to the server at `url`; it connects when it is first used.

    Args:
        url: host:port, grpc://host:port, grpcs://host:port (with TLS), unix:/path,
            dns:///host:port (all addresses of the host in turn) or ipv4:a:port,b:port.
        tls: grpcs:// alone means TLS with the system's authorities.

    Raises:
        InvalidInput: `url` is no address, or a file of `tls` cannot be used.
    """
    options = channel_options(url, tls)
    if tls is None and not url.startswith("grpcs://"):
        return grpc.insecure_channel(target(url), options=options)
    return grpc.secure_channel(target(url), credentials(tls or Tls()), options=options)


def open_aio_channel(url: str, tls: Tls | None = None) -> grpc.aio.Channel:
    """Return a channel for the running event loop; otherwise as `open_channel`."""
    options = channel_options(url, tls)
    if tls is None and not url.startswith("grpcs://"):
        return grpc.aio.insecure_channel(target(url), options=options)
    return grpc.aio.secure_channel(target(url), credentials(tls or Tls()), options=options)


def channel_options(url: str, tls: Tls | None) -> tuple[tuple[str, int | str], ...]:
    """Return the options of a channel to `url` with `tls`."""
    name = None if tls is None else tls.server_name
    several = target(url).startswith(("dns:", "ipv4:"))
    override = (("grpc.ssl_target_name_override", name),) if name else ()
    return (*CHANNEL_OPTIONS, *((ROUND_ROBIN,) if several else ()), *override)


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Return what gRPC makes of `tls`; raises InvalidInput where a file cannot be used."""
    if (tls.certificate is None) != (tls.key is None):
        raise InvalidInput("tls: certificate and key belong together; give both or none")
    ca, key, certificate = (_pem(file) for file in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, certificate)


def target(url: str) -> str:
    """Return gRPC's name for `url`: host:port, grpc://, grpcs://, dns:///, ipv4: or unix:/path.

    Raises:
        InvalidInput: it is none of these.
    """
    address = url.removeprefix("grpc://").removeprefix("grpcs://")
    scheme, _, rest = address.partition(":")
    if scheme in ("unix", "dns"):
        known = bool(rest)
    elif scheme == "ipv4" and "," in rest:
        known = all(re.fullmatch(r"[0-9.]+:[0-9]{1,5}", one) for one in rest.split(","))
    else:
        host = r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\])"
        match = re.fullmatch(host + r":([0-9]{1,5})", address)
        known = match is not None and 0 < int(match[1]) < 2**16
    if not known:
        raise InvalidInput(
            f"url {url!r}: expected host:port, grpc://host:port, grpcs://host:port or unix:/path "
            "of Triton's gRPC port (8001 by default)"
        )
    return address


def _pem(file: "Path | None") -> bytes | None:
    if file is None:
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"tls: {file} cannot be read: {error.strerror}") from error
    if b"-----BEGIN" not in content:
        raise InvalidInput(f"tls: {file} is no PEM file; expected -----BEGIN ...")
    return content
