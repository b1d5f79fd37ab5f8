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
_PILLOW = "pillow"  # for the backend that decodes pictures; came after the other packages
PACKAGES = (("numpy<2", _PILLOW, "onnxruntime"), ("--no-deps", f"nvidia-pytriton=={PYTRITON}"))
_READY = "ready.json"
OUR_BACKENDS = Path(__file__).resolve().parent / "backends"
OUR_BACKEND = OUR_BACKENDS / "onnxruntime" / "model.py"


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
        """The backend directory: Triton's python backend and ours on top of it."""
        return self.folder / "backends"


def installed() -> Installed | None:
    """Return the environment for this Python if it is complete, else None."""
    place = _place()
    return place if (place.folder / _READY).is_file() else None


def install(tell: Callable[[str], None] = lambda _: None) -> Installed:
    """Prepare the environment unless it is complete already, and return it.

    One that lacks nothing but a package that came later is given that one. An interrupted
    installation is done again from the start; two at once wait for each other.

    Args:
        tell: is given a line about each step.

    Raises:
        MachineError: the machine cannot run the server, or a package cannot be installed.
    """
    place = _place()
    if installed() and _has_pillow(place):
        return place
    check_machine(this_machine())
    with _locked(place.folder):
        if not installed():  # by another one, while we waited for the lock
            _prepare(place, tell)
        elif not _has_pillow(place):
            _install(place, (_PILLOW,), tell)
            _note(place)
    return place


def _prepare(place: Installed, tell: Callable[[str], None]) -> None:
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    tell(f"preparing Triton in {place.folder} (about 400 MB, once)")
    _run([sys.executable, "-m", "venv", str(place.folder / "venv")], "make its environment")
    for packages in PACKAGES:
        _install(place, packages, tell)
    _lay_out(place)
    _note(place)


def _install(place: Installed, packages: tuple[str, ...], tell: Callable[[str], None]) -> None:
    python = str(place.folder / "venv" / "bin" / "python")
    tell(f"installing {' '.join(p for p in packages if not p.startswith('-'))}")
    _run([python, "-I", "-m", "pip", "install", "-q", *packages], f"install {packages[-1]}")


def _note(place: Installed) -> None:
    """Write down that the environment is complete, in one step."""
    staged = place.folder / f"{_READY}.{os.getpid()}"
    staged.write_text(json.dumps({"nvidia-pytriton": PYTRITON, _PILLOW: True}))
    staged.replace(place.folder / _READY)


def _has_pillow(place: Installed) -> bool:
    return _PILLOW in json.loads((place.folder / _READY).read_text())


def refresh_backend(place: Installed) -> None:
    """Put our backends of today into `place`, so that an upgraded Bandstop serves with its own."""
    for ours in sorted(OUR_BACKENDS.glob("*/model.py")):
        target = place.backends / ours.parent.name / ours.name
        if not target.is_file() or target.read_bytes() != ours.read_bytes():
            target.parent.mkdir(exist_ok=True)
            staged = target.with_suffix(f".{os.getpid()}")
            shutil.copyfile(ours, staged)
            staged.replace(target)


def _place() -> Installed:
    python = f"py{sys.version_info[0]}.{sys.version_info[1]}"
    return Installed(home() / f"triton-{PYTRITON}-{python}")


def _lay_out(place: Installed) -> None:
    """Copy the backends to where the server finds them; it refuses links."""
    wheel = place.site / "pytriton" / "tritonserver"
    python = place.backends / "python"
    shutil.copytree(wheel / "backends" / "python", python)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = wheel / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, python)
    (python / stub.name).chmod(0o755)
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
