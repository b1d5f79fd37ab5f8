"""The server that the options of `bandstop repo` name, and its token."""

from pathlib import Path

import pytest

from bandstop.cli import repo_server
from bandstop.cli.repo_server import ServerOptions, access_of, read_token, server_of
from bandstop.client.channel import Tls
from bandstop.client.errors import InvalidInput
from bandstop.export.errors import NotServed, SpecError
from bandstop.serve.access import HEADER, Access
from tests.readback_fakes import made, reachable, serving

OWN_TLS = Tls(Path("own.pem"))


class Ours:
    """A note of a `bandstop serve` of this user."""

    access = Access("127.0.0.1:8001", "found", OWN_TLS)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repo_server, "running_at", lambda url: Ours() if "8001" in url else None)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("given\n")
    return tmp_path / "token"


def test_without_a_url_there_is_no_server() -> None:
    with server_of(ServerOptions()) as server:
        assert server is None


@pytest.mark.parametrize("name", ["ca", "cert", "key", "server_name", "token_file"])
def test_options_without_a_url_are_refused(name: str) -> None:
    options = ServerOptions(**{name: "x" if name == "server_name" else Path("x")})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="need --url") as caught, server_of(options):
        pass
    assert caught.value.exit_code == 2


def test_our_own_server_is_known_with_its_token_and_its_certificate(ours: None) -> None:
    assert access_of(ServerOptions("127.0.0.1:8001")) == Access("127.0.0.1:8001", "found", OWN_TLS)


def test_what_is_given_goes_before_what_is_found(ours: None, token_file: Path) -> None:
    options = ServerOptions("h:8001", ca=Path("ca.pem"), server_name="s", token_file=token_file)
    expected = Access("h:8001", "given", Tls(Path("ca.pem"), None, None, "s"))
    assert access_of(options) == expected


def test_another_server_gets_no_token_of_ours(ours: None) -> None:
    assert access_of(ServerOptions("elsewhere:9000")) == Access("elsewhere:9000")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"caf\xc3\xa9", b"x" * 5000, b"a\0b"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_told(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(SpecError, match="expected one line of printable ASCII") as caught:
        read_token(tmp_path / "t")
    assert "caf" not in str(caught.value)


def test_a_token_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="none: cannot be read: No such file"):
        read_token(tmp_path / "none")


def test_the_token_is_sent_and_the_connection_let_go_of(tmp_path: Path, token_file: Path) -> None:
    fake = serving(v1=made())
    seen = []
    fake.before = lambda name, context: seen.append(dict(context.invocation_metadata())[HEADER])
    with reachable(fake, tmp_path) as (url, _):
        with server_of(ServerOptions(url, token_file=token_file)) as server:
            assert server is not None
            server.reach()
        assert set(seen) == {"given"}
        with pytest.raises(NotServed, match="closed"):
            server.reach()


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected host:port"), server_of(ServerOptions("nope")):
        pass


def test_a_certificate_without_its_key_is_refused() -> None:
    options = ServerOptions("h:1", cert=Path("c.pem"))
    with pytest.raises(InvalidInput, match="belong together"), server_of(options):
        pass
