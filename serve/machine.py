"""Whether this machine can run the bundled server, and what would mend it."""

import importlib.util
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from bandstop.serve.errors import MachineError

GLIBC = (2, 35)  # what the wheel's binaries are linked against
PYTHONS = ((3, 8), (3, 13))  # for which the wheel has a stub


@dataclass(frozen=True, slots=True)
class Facts:
    """What matters of a machine.

    Attributes:
        system: such as Linux.
        processor: such as x86_64.
        glibc: its version; (0, 0) where there is another C library.
        python: major and minor version of this interpreter.
        libpython: folder of this interpreter's shared library; None where there is none.
        venv: whether it can make environments with pip in them.
    """

    system: str
    processor: str
    glibc: tuple[int, int]
    python: tuple[int, int]
    libpython: Path | None
    venv: bool


def this_machine() -> Facts:
    """Return the facts of the machine that this runs on."""
    name, version = platform.libc_ver()
    numbers = [int(n) for n in version.split(".")[:2] if n.isdigit()] if name == "glibc" else []
    return Facts(
        platform.system(),
        platform.machine(),
        (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0),
        sys.version_info[:2],
        _libpython(),
        # Debian ships Python without the second of them
        all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")),
    )


def check_machine(facts: Facts) -> None:
    """Refuse a machine that the bundled server cannot run on.

    Raises:
        MachineError: with everything that is missing, and how to mend it.
    """
    dotted = "{}.{}".format
    missing = []
    if (facts.system, facts.processor) != ("Linux", "x86_64"):
        missing.append(
            f"it needs Linux on x86_64, this is {facts.system} on {facts.processor}: "
            "serve the same repository with NVIDIA's Triton container instead"
        )
    elif facts.glibc < GLIBC:
        missing.append(
            f"it needs glibc {dotted(*GLIBC)} or newer, this machine has {dotted(*facts.glibc)}: "
            "use Debian 12, Ubuntu 22.04 or newer, or NVIDIA's Triton container"
        )
    if not PYTHONS[0] <= facts.python <= PYTHONS[1]:
        missing.append(f"it has no stub for Python {dotted(*facts.python)}: use 3.11 or 3.12")
    if facts.libpython is None:
        version = dotted(*facts.python)
        missing.append(
            f"Python {version} has no shared library libpython{version}.so.1.0: install it (Debian "
            f"and Ubuntu: apt install libpython{version}) or use a Python built with "
            "--enable-shared"
        )
    if not facts.venv:
        missing.append(
            f"Python {dotted(*facts.python)} cannot make environments: install ensurepip "
            f"(Debian and Ubuntu: apt install python{dotted(*facts.python)}-venv)"
        )
    if missing:
        raise MachineError("the bundled Triton cannot run here: " + "; ".join(missing))


def home() -> Path:
    """Return the folder that Bandstop keeps its own environments in."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BANDSTOP_HOME") or Path(cache) / "bandstop")


def _libpython() -> Path | None:
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    beside = folder / (sysconfig.get_config_var("MULTIARCH") or "")
    # a statically linked Python names an archive here
    found = [d for d in (folder, beside) if ".so" in name and (d / name).is_file()]
    # Debian's python3 is static, its shared library a package of its own
    versioned = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    found += [d for d in (folder, beside) if (d / versioned).is_file()]
    return found[0] if found else None
