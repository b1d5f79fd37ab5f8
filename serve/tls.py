"""TLS of the gRPC port: its files, checked before a start, and how our own checks connect."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from bandstop.client.channel import Tls
from bandstop.client.errors import listed
from bandstop.serve.errors import ServeInputError


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The server's certificate, and whom it answers; all files are PEM.

    Attributes:
        certificate: that the server shows, with the chain up to its authority where it has one.
        key: its private key; nobody else may read it.
        client_ca: the authorities of the clients' certificates; None answers any client.
        ca: what our own checks hold the server's certificate to; None is the certificate itself.
        name: that the certificate bears; None takes its first one, else localhost.
        probe_certificate: what our own checks show where `client_ca` is given.
        probe_key: the private key of it.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None
    ca: Path | None = None
    name: str | None = None
    probe_certificate: Path | None = None
    probe_key: Path | None = None


def check_tls(tls: ServerTls) -> None:
    """Refuse files that the server, or our own checks, could not use.

    Raises:
        ServeInputError: everything that is wrong with them in one message.
    """
    probe = (tls.probe_certificate, tls.probe_key)
    wrong = [*_pair(tls.certificate, tls.key), *_authorities(tls.client_ca), *_authorities(tls.ca)]
    if tls.client_ca and None in probe:
        wrong.append(
            "the server would answer known clients alone: give our own checks a certificate and "
            "a key with --probe-cert and --probe-key"
        )
    elif probe[0] and probe[1]:
        wrong += _pair(probe[0], probe[1])
    elif probe != (None, None):
        wrong.append("a probe's certificate and its key belong together; give both or none")
    if wrong:
        raise ServeInputError(f"tls: {listed(wrong)}")


def tls_arguments(tls: ServerTls) -> list[str]:
    """Return the server's arguments."""
    mutual = [f"--grpc-root-cert={tls.client_ca}"] if tls.client_ca else []
    return [
        f"--grpc-use-ssl{'-mutual' if tls.client_ca else ''}=true",
        f"--grpc-server-cert={tls.certificate}",
        f"--grpc-server-key={tls.key}",
        *mutual,
    ]


def probing(tls: ServerTls) -> Tls:
    """Return how our own checks connect."""
    name = tls.name or _name_in(tls.certificate)
    return Tls(tls.ca or tls.certificate, tls.probe_certificate, tls.probe_key, name)


def absolute(tls: ServerTls) -> ServerTls:
    """Return `tls` with files that do not depend on the working folder."""
    files = (tls.client_ca, tls.ca, tls.probe_certificate, tls.probe_key)
    client_ca, ca, certificate, key = (None if f is None else f.absolute() for f in files)
    own = (tls.certificate.absolute(), tls.key.absolute())
    return ServerTls(*own, client_ca, ca, tls.name, certificate, key)


def _pair(certificate: Path, key: Path) -> list[str]:
    """Return what is wrong with a certificate and its key."""
    wrong = [*_unreadable(certificate), *_unreadable(key)]
    if wrong:
        return wrong
    if key.stat().st_mode & 0o077:
        wrong.append(f"{key} can be read by others; mend it with: chmod 600 {key}")
    try:
        # the empty password keeps it from asking on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        wrong.append(f"{certificate} and {key} do not make a pair: {reason}")
    return wrong


def _authorities(file: Path | None) -> list[str]:
    if file is None:
        return []
    if wrong := _unreadable(file):
        return wrong
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError) as error:
        return [f"{file} holds no certificate that can be used: {error}"]
    return []


def _unreadable(file: Path) -> list[str]:
    try:
        content = file.read_bytes()
    except OSError as error:
        return [f"{file} cannot be read: {error.strerror}"]
    return [] if b"-----BEGIN" in content else [f"{file} is no PEM file; expected -----BEGIN ..."]


def _name_in(certificate: Path) -> str:
    """Return the first name that a certificate bears."""
    try:
        from cryptography import x509
    except ImportError:  # of the extra `sign`; a name can be given
        return "localhost"
    bears = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        names = bears.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "localhost"
    dns = names.get_values_for_type(x509.DNSName)
    return (dns or [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] or ["localhost"])[
        0
    ]
