"""Which server to start, with which arguments and environment."""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.access import restricting
from bandstop.serve.address import LOOPBACK, Address
from bandstop.serve.errors import MachineError
from bandstop.serve.install import installed, refresh_backend
from bandstop.serve.machine import check_machine, this_machine
from bandstop.serve.tls import ServerTls, tls_arguments

EXIT_TIMEOUT_S = 10
_PING_MS = 30_000  # our client asks once a minute whether a long call's server is still there
# from 1.29 on, ONNX Runtime tells its makers about each model that it opens unless this is set
NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


@dataclass(frozen=True, slots=True)
class Server:
    """A tritonserver that can be started.

    Attributes:
        binary: the program.
        backends: its backend directory; None leaves it to the server.
        environment: what is added to or put in place of our own environment.
    """

    binary: Path
    backends: Path | None
    environment: Mapping[str, str]

    @property
    def bundled(self) -> bool:
        """Whether it is the one of the registry's wheel."""
        return self.backends is not None


def find_server() -> Server:
    """Return the server to use: $TRITONSERVER, tritonserver on PATH, or the bundled one.

    Raises:
        MachineError: there is none, or $TRITONSERVER names none.
    """
    named = os.environ.get("TRITONSERVER")
    host = shutil.which(named or "tritonserver")
    if named and not host:
        raise MachineError(f"TRITONSERVER={named} is not a program; unset or mend it")
    if host:
        return Server(Path(host), None, {})
    place = installed()
    if place is None:
        check_machine(this_machine())
        raise MachineError("no tritonserver here; prepare one with: bandstop serve --install")
    refresh_backend(place)
    libpython = this_machine().libpython or Path(sysconfig.get_config_var("LIBDIR"))
    libraries = f"{libpython}:{place.site / 'nvidia_pytriton.libs'}"
    path = f"{place.folder / 'venv' / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    environment = {"LD_LIBRARY_PATH": libraries, "PATH": path, "PYTHONNOUSERSITE": "1"}
    return Server(place.tritonserver, place.backends, environment)


def command_line(
    server: Server,
    repository: Path,
    address: Address,
    shm_prefix: str,
    *,
    token: str = "",
    tls: ServerTls | None = None,
    metrics_port: int | None = None,
) -> list[str]:
    """Return the arguments: gRPC only, explicit model control, nothing completed on its own.

    The HTTP port of this server can be crashed by a single request, so it stays shut.
    """
    metrics = ["--allow-metrics=false"]
    if metrics_port is not None:
        metrics = [
            "--allow-metrics=true",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={metrics_port}",
        ]
    return [
        str(server.binary),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--disable-auto-complete-config",
        "--allow-http=false",
        *metrics,
        f"--grpc-address={address.host}",
        f"--grpc-port={address.port}",
        f"--grpc-http2-min-recv-ping-interval-without-data={_PING_MS}",
        *([restricting(token)] if token else []),
        *(tls_arguments(tls) if tls else []),
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        *([f"--backend-directory={server.backends}"] if server.backends else []),
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
    ]


def environment(server: Server, ours: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: ours, without what would lead its Python astray."""
    astray = ("PYTHON", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {k: v for k, v in ours.items() if not k.startswith(astray)}
    return {NO_TELEMETRY: "1"} | kept | dict(server.environment)
