"""TLS of a server: its files are checked before it is started."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from bandstop.cli.main import main
from bandstop.client.channel import Tls
from bandstop.serve.errors import ServeInputError
from bandstop.serve.tls import ServerTls, absolute, check_tls, probing, tls_arguments
from tests.certificates import Certificates, make_certificates


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def plain(files: Certificates) -> ServerTls:
    return ServerTls(files.server.certificate, files.server.key)


@pytest.fixture
def mutual(plain: ServerTls, files: Certificates) -> ServerTls:
    client = files.client
    return replace(
        plain,
        client_ca=files.ca,
        ca=files.ca,
        probe_certificate=client.certificate,
        probe_key=client.key,
    )


def test_sound_files_pass_and_are_named_to_the_server(plain: ServerTls, mutual: ServerTls) -> None:
    check_tls(plain)
    check_tls(mutual)
    own = [f"--grpc-server-cert={plain.certificate}", f"--grpc-server-key={plain.key}"]
    assert tls_arguments(plain) == ["--grpc-use-ssl=true", *own]
    assert tls_arguments(mutual) == [
        "--grpc-use-ssl-mutual=true",
        *own,
        f"--grpc-root-cert={mutual.client_ca}",
    ]


def test_our_own_checks_hold_the_server_to_its_name(plain: ServerTls, mutual: ServerTls) -> None:
    assert probing(plain) == Tls(plain.certificate, None, None, "models.test")
    assert probing(replace(plain, name="else")).server_name == "else"
    assert probing(mutual) == Tls(
        mutual.ca, mutual.probe_certificate, mutual.probe_key, "models.test"
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("key missing", "server.key cannot be read: No such file"),
        ("key open", "can be read by others; mend it with: chmod 600"),
        ("key of another", "do not make a pair: KEY_VALUES_MISMATCH"),
        ("no pem", "is no PEM file"),
        ("no certificate", "authority.pem holds no certificate"),
        ("no probe", "--probe-cert and --probe-key"),
        ("half a probe", "belong together"),
    ],
)
def test_files_that_cannot_be_used_are_refused(
    mutual: ServerTls, files: Certificates, kind: str, expected: str
) -> None:
    if kind == "key missing":
        files.server.key.unlink()
    elif kind == "key open":
        files.server.key.chmod(0o640)
    elif kind == "key of another":
        mutual = replace(mutual, key=files.client.key)
    elif kind == "no pem":
        files.server.certificate.write_text("hello")
    elif kind == "no certificate":
        files.ca.write_text("-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n")
    elif kind == "no probe":
        mutual = replace(mutual, probe_certificate=None, probe_key=None)
    else:
        mutual = replace(mutual, client_ca=None, probe_key=None)
    with pytest.raises(ServeInputError, match=r"^tls: ") as error:
        check_tls(mutual)
    assert expected in str(error.value)
    assert error.value.exit_code == 2


def test_files_do_not_depend_on_the_working_folder(
    tmp_path: Path, plain: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(ServerTls(Path("server.pem"), Path("server.key"))) == plain


def test_half_a_pair_on_the_command_line_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "repo" / "digits" / "1").mkdir(parents=True)
    (tmp_path / "repo" / "digits" / "1" / "model.onnx").write_text("x")
    (tmp_path / "repo" / "digits" / "config.pbtxt").write_text('backend: "onnxruntime"')
    assert main(["serve", str(tmp_path / "repo"), "--tls-cert", "x.pem"]) == 2
    assert capsys.readouterr().err == "error: TLS needs both --tls-cert and --tls-key\n"
