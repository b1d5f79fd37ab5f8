"""What must not be in a model repository when a server is started on it."""

import os
from pathlib import Path

from bandstop.serve.errors import ServeInputError, UnsafeRepository

# Triton loads and runs these from a model's folder, as the server's own user
EXECUTED = ("triton_python_backend_stub", "model.py")


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
    found = [*_executed(root), *_stopping(root)]
    if found:
        raise UnsafeRepository(f"repository {root} is not safe to serve: {'; '.join(found)}")
    models = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not models:
        raise ServeInputError(f"repository {root} holds no model; publish a release into it first")
    return models


def _executed(root: Path) -> list[str]:
    found = []
    for folder, _, files in os.walk(root):
        for name in sorted(files):
            if name in EXECUTED or ".so" in Path(name).suffixes or name.endswith(".tar.gz"):
                file = Path(folder, name).relative_to(root)
                found.append(f"{file} would be executed, remove it")
    return found


def _stopping(root: Path) -> list[str]:
    """Return what Triton takes for a model, or a version, and fails on (measured on 2.51)."""
    found = []
    for entry in sorted(root.iterdir()):
        if entry.is_symlink() and not entry.exists():
            found.append(f"{entry.name} is a dangling link")
        elif entry.is_dir():
            inside = [p.name for p in entry.iterdir()]
            if entry.name.startswith((".", "__")):
                found.append(f"{entry.name}/ is taken for a model, move it out")
            elif not any(name.isdigit() for name in inside):
                found.append(f"{entry.name}/ holds no version folder")
            found += [
                f"{entry.name}/{name} is read as a version number, remove it"
                for name in sorted(inside)
                if name[0].isdigit() and (not name.isdigit() or len(name) > 18)
            ]
    return found
