"""What must not be in a model repository when a server is started on it."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import text_format  # type: ignore[import-untyped]  # it ships no hints
from tritonclient.grpc import model_config_pb2

from bandstop.serve.errors import ServeInputError, UnsafeRepository

CONFIG = "config.pbtxt"
# Triton loads and runs these from a model's folder, as the server's own user
EXECUTED = ("triton_python_backend_stub", "model.py")
_BACKEND = re.compile(r"[A-Za-z0-9_-]*")
DIGITS = 18  # of a version; the server aborts on a number that a long long does not hold


def check_repository(root: Path) -> list[str]:
    """Return the names of the models in `root`.

    Raises:
        ServeInputError: `root` is no folder, or holds no model.
        UnsafeRepository: it holds code that the server would run, or what makes the server stop;
            everything that was found in one message.
    """
    if not root.is_dir():
        what = "a file" if root.exists() else "missing"
        raise ServeInputError(f"repository {root} is {what}; expected a folder with models")
    if (root / CONFIG).is_file():
        raise ServeInputError(
            f"repository {root} is a model's own folder; name the folder around it"
        )
    found = [*_executed(root), *_configured(root), *_stopping(root)]
    if found:
        raise UnsafeRepository(f"repository {root} is not safe to serve: {'; '.join(found)}")
    models = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not models:
        raise ServeInputError(f"repository {root} holds no model; publish a release into it first")
    return models


def _executed(root: Path) -> list[str]:
    return [
        f"{file.relative_to(root)} would be executed, remove it"
        for file in sorted(_files(root, set()))
        if file.name in EXECUTED or ".so" in file.suffixes or file.name.endswith(".tar.gz")
    ]


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield all files below `folder`, through links as the server goes, each folder once."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path, seen)
        else:
            yield path


def _configured(root: Path) -> list[str]:
    """Return which configurations make the server run code, or cannot be read."""
    found = []
    for file in sorted(root.glob(f"*/{CONFIG}")):
        config, name = model_config_pb2.ModelConfig(), file.relative_to(root)
        try:
            # a server newer than our description of its format may know more
            text_format.Parse(file.read_text(encoding="utf-8"), config, allow_unknown_field=True)
        except (OSError, ValueError, text_format.ParseError) as error:
            found.append(f"{name} cannot be read: {' '.join(str(error).split())}")
            continue
        if config.backend == "python":
            found.append(f"{name}: backend python would execute a file of the model")
        if not _BACKEND.fullmatch(config.backend):  # "../x" runs a model.py from anywhere
            found.append(f"{name}: backend {config.backend!r} would execute what lies elsewhere")
        if config.model_operations.op_library_filename:
            found.append(f"{name}: model_operations would execute a library")
        if "EXECUTION_ENV_PATH" in config.parameters:
            found.append(f"{name}: EXECUTION_ENV_PATH would execute an environment")
    return found


def _stopping(root: Path) -> list[str]:
    """Return what Triton takes for a model, or a version, and fails on (measured on 2.51)."""
    found = []
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() and not entry.exists():
            found.append(f"{entry.name} is a dangling link")
        elif entry.is_dir() and entry.name.startswith((".", "__")):
            found.append(f"{entry.name}/ is taken for a model, move it out")
        elif entry.is_dir():
            inside = sorted(p.name for p in entry.iterdir() if p.is_dir())
            versions = [name for name in inside if _is_version(name)]
            if not versions:
                found.append(f"{entry.name}/ holds no version folder")
            found += [
                f"{entry.name}/{name} is read as a version number, remove it"
                for name in inside
                if name[0] in "0123456789" and name not in versions
            ]
    return found


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= DIGITS
