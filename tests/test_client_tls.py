"""TLS and headers: who may speak with whom, and how it is told when not."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tritonclient.grpc import service_pb2_grpc

from bandstop.client import (
    AsyncClient,
    Client,
    ClientError,
    InvalidInput,
    Tls,
    Unreachable,
    Untrusted,
)
from tests.client_fakes import LABELS, NumpyModel, Servicer, grpc_server, picture

BAKED = NumpyModel()


@dataclass(frozen=True, slots=True)
class Identity:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> tuple[bytes, bytes]:
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key = self.key.private_bytes(serialization.Encoding.PEM, *form)
        return key, self.certificate.public_bytes(serialization.Encoding.PEM)


def identity(name: str, signer: Identity | None = None) -> Identity:
    """A certificate of `signer` for loopback; without one an authority of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer = signer.certificate.subject if signer else subject
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(signer is None, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
    )
    return Identity(key, builder.sign(signer.key if signer else key, hashes.SHA256()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME.pem and NAME.key of an authority, its server and client, and of a stranger's."""
    where = tmp_path_factory.mktemp("tls")
    authority, stranger = identity("authority"), identity("stranger")
    everybody = {
        "authority": authority,
        "server": identity("localhost", authority),
        "client": identity("client", authority),
        "stranger": stranger,
        "intruder": identity("intruder", stranger),
    }
    for name, who in everybody.items():
        key, certificate = who.pem
        (where / f"{name}.key").write_bytes(key)
        (where / f"{name}.pem").write_bytes(certificate)
    (where / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    (where / "text.pem").write_text("hello")
    return where


@contextmanager
def tls_server(folder: Path, mutual: bool) -> Iterator[str]:
    pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
    authority = (folder / "authority.pem").read_bytes() if mutual else None
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(BAKED), server)
    secrets = grpc.ssl_server_credentials([pair], authority, mutual)
    port = server.add_secure_port("127.0.0.1:0", secrets)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def blocking(url: str, tls: Tls | None) -> tuple[str, ...]:
    with Client(url, "pixel", tls=tls, deadline=5) as client:
        return client.classes


def asynchronous(url: str, tls: Tls | None) -> tuple[str, ...]:
    async def ask() -> tuple[str, ...]:
        async with AsyncClient(url, "pixel", tls=tls, deadline=5) as client:
            return await client.classes

    return asyncio.run(ask())


Ask = Callable[[str, Tls | None], tuple[str, ...]]


@pytest.fixture(params=[blocking, asynchronous])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


def tls(folder: Path, ca: str, own: str = "", key: str = "", name: str | None = None) -> Tls:
    certificate = folder / f"{own}.pem" if own else None
    return Tls(
        folder / f"{ca}.pem", certificate, folder / f"{key or own}.key" if own else None, name
    )


def test_tls_and_mutual_tls_reach_the_server(folder: Path, ask: Ask) -> None:
    with tls_server(folder, mutual=False) as address:
        assert ask(f"grpcs://{address}", tls(folder, "authority")) == LABELS
        assert ask(address, tls(folder, "authority", name="localhost")) == LABELS
    with tls_server(folder, mutual=True) as address:
        assert ask(f"grpcs://{address}", tls(folder, "authority", "client")) == LABELS


@pytest.mark.parametrize(
    ("ca", "own", "key", "name", "kind", "words"),
    [
        ("stranger", "", "", None, Untrusted, "TLS failed; expected a server with a certificate"),
        ("authority", "", "", "other.example", Untrusted, "TLS failed"),
        ("junk", "", "", None, InvalidInput, "a file is damaged"),
        ("text", "", "", None, InvalidInput, "no PEM file"),
        ("missing", "", "", None, InvalidInput, "cannot be read"),
    ],
)
def test_a_server_that_is_not_trusted_is_told(
    folder: Path, ask: Ask, ca: str, own: str, key: str, name: str | None,
    kind: type[ClientError], words: str,
) -> None:  # fmt: skip
    with tls_server(folder, mutual=False) as address, pytest.raises(kind, match=words) as caught:
        ask(f"grpcs://{address}", tls(folder, ca, own, key, name))
    assert "\n" not in str(caught.value)


def test_the_system_does_not_trust_our_authority(folder: Path, ask: Ask) -> None:
    with tls_server(folder, mutual=False) as address, pytest.raises(Untrusted):
        ask(f"grpcs://{address}", None)


@pytest.mark.parametrize("own", ["", "intruder"])
def test_a_client_that_is_not_trusted_is_told(folder: Path, ask: Ask, own: str) -> None:
    with (
        tls_server(folder, mutual=True) as address,
        pytest.raises(Unreachable, match="hangs up at once; it may expect TLS"),
    ):
        ask(f"grpcs://{address}", tls(folder, "authority", own))


def test_a_key_of_another_certificate_is_told(folder: Path, ask: Ask) -> None:
    with tls_server(folder, mutual=True) as address, pytest.raises(InvalidInput, match="damaged"):
        ask(f"grpcs://{address}", tls(folder, "authority", "client", "intruder"))


def test_plain_to_tls_and_tls_to_plain_are_told(folder: Path, ask: Ask) -> None:
    with tls_server(folder, mutual=False) as address, pytest.raises(Unreachable, match="grpcs://"):
        ask(address, None)
    with grpc_server(Servicer(BAKED)) as address, pytest.raises(Untrusted, match="WRONG_VERSION"):
        ask(f"grpcs://{address}", tls(folder, "authority"))


def test_a_certificate_needs_its_key(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="belong together"):
        Client("grpcs://h:1", "pixel", tls=Tls(certificate=folder / "client.pem"))
    with pytest.raises(InvalidInput, match="belong together"):
        AsyncClient("grpcs://h:1", "pixel", tls=Tls(certificate=folder / "client.pem"))


# --- headers


def test_headers_go_with_every_call_and_a_function_is_asked_each_time() -> None:
    seen: list[str] = []

    def note(context: grpc.ServicerContext) -> None:
        seen.append(dict(context.invocation_metadata())["authorization"])

    tokens = iter(["learn 1", "learn 2", "one", "two", "three"])
    with (
        grpc_server(Servicer(BAKED, before=note)) as address,
        Client(address, "pixel", headers={"authorization": "same"}) as fixed,
        Client(address, "pixel", headers=lambda: {"authorization": next(tokens)}) as fresh,
    ):
        fixed.classify(picture(0))
        fresh.classify(picture(0))
        fresh.classify(picture(0))
    assert seen == ["same", "one", "two"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "x"}, {"a b": "x"}, {"": "x"}, {"grpc-timeout": "1S"}, {"x-bin": "x"},
        {"token": "secret\n"}, {"token": "s\u00e9cret"}, {"token": 5}, {5: "secret"}, "secret",
        [("a", "b", "c")], 7,
    ],
    ids=repr,
)  # fmt: skip
def test_headers_that_cannot_be_sent_are_refused_without_telling_them(headers: object) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInput, match=r"^headers: ") as caught:
            kind("h:1", "pixel", headers=headers)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)
    with (
        grpc_server(Servicer(BAKED)) as address,
        Client(address, "pixel", headers=lambda: headers) as client,  # type: ignore[arg-type,return-value]
        pytest.raises(InvalidInput, match=r"^headers: "),
    ):
        client.ready()
