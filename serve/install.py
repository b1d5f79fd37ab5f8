"""An environment of its own for the Triton binary of the nvidia-pytriton wheel, made once.

Own, because the server's Python processes need NumPy 1 (with NumPy 2 they answer with empty
tensors), which the rest of Bandstop does not.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.errors import MachineError
from bandstop.serve.machine import check_machine, home, this_machine

PYTRITON = "0.7.0"  # carries tritonserver 2.51.0; the newest that the registry has
PACKAGES = (("numpy<2", "onnxruntime"), ("--no-deps", f"nvidia-pytriton=={PYTRITON}"))
_READY = "ready.json"
OUR_BACKEND = Path(__file__).resolve().parent / "backends" / "onnxruntime" / "model.py"


@dataclass(frozen=True, slots=True)
class Installed:
    """A prepared environment.

    Attributes:
        folder: holds `venv` and `backends`.
    """

    folder: Path

    @property
    def site(self) -> Path:
        """Where its packages lie."""
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.folder / "venv" / "lib" / version / "site-packages"

    @property
    def tritonserver(self) -> Path:
        """The binary."""
        return self.site / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """The backend directory: Triton's python backend and our onnxruntime on top of it."""
        return self.folder / "backends"


def installed() -> Installed | None:
    """Return the environment for this Python if it is complete, else None."""
    place = _place()
    return place if (place.folder / _READY).is_file() else None


def install(tell: Callable[[str], None] = lambda _: None) -> Installed:
    """Prepare the environment unless it is complete already, and return it.

    An interrupted installation is done again from the start; two at once wait for each other.

    Args:
        tell: is given a line about each step.

    Raises:
        MachineError: the machine cannot run the server, or a package cannot be installed.
    """
    if found := installed():
        return found
    check_machine(this_machine())
    place = _place()
    with _locked(place.folder):
        if not installed():  # by another one, while we waited for the lock
            _prepare(place, tell)
    return place


def _prepare(place: Installed, tell: Callable[[str], None]) -> None:
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    tell(f"preparing Triton in {place.folder} (about 400 MB, once)")
    _run([sys.executable, "-m", "venv", str(place.folder / "venv")], "make its environment")
    python = str(place.folder / "venv" / "bin" / "python")
    for packages in PACKAGES:
        tell(f"installing {' '.join(p for p in packages if not p.startswith('-'))}")
        _run([python, "-I", "-m", "pip", "install", "-q", *packages], f"install {packages[-1]}")
    _lay_out(place)
    (place.folder / _READY).write_text(json.dumps({"nvidia-pytriton": PYTRITON}))


def refresh_backend(place: Installed) -> None:
    """Put our backend of today into `place`, so that an upgraded Bandstop serves with its own."""
    target = place.backends / "onnxruntime" / "model.py"
    if not target.is_file() or target.read_bytes() != OUR_BACKEND.read_bytes():
        staged = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(OUR_BACKEND, staged)
        staged.replace(target)


def _place() -> Installed:
    python = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    return Installed(home() / f"triton-{PYTRITON}-{python}")


def _lay_out(place: Installed) -> None:
    """Copy the backends to where the server finds them; it refuses links."""
    wheel = place.site / "pytriton" / "tritonserver"
    python, ours = place.backends / "python", place.backends / "onnxruntime"
    shutil.copytree(wheel / "backends" / "python", python)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, python)
    (python / stub.name).chmod(0o755)
    ours.mkdir()
    refresh_backend(place)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-2:])
        raise MachineError(f"cannot {what} for Triton: {last}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
