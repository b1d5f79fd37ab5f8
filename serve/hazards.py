"""What in a model repository makes Triton run code, stop, or serve other than it seems to.

All of it was measured on Triton 2.51 unless a comment says otherwise.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from bandstop.serve.hazard import CONFIG, Hazard
from bandstop.serve.hazards_config import configured

__all__ = ["Hazard", "hazards", "is_version"]

# Triton loads and runs these from a model's folder, as the server's own user
EXECUTED = ("triton_python_backend_stub", "model.py")
DIGITS = 18  # of a version; the server aborts on a number that a long long does not hold


def hazards(root: Path) -> list[Hazard]:
    """Return everything in the repository at `root` that an operator should mend.

    Args:
        root: an existing folder.
    """
    found = [*_executed(root), *_at_the_top(root), *_links(root)]
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not folder.name.startswith((".", "__")):
            versions, inside = _versions(root, folder)
            found += [*inside, *configured(folder, versions)]
    return found


def is_version(name: str) -> bool:
    """Return whether Triton serves a folder of this name as a version."""
    number = name.isascii() and name.isdecimal() and len(name) <= DIGITS
    return number and not (len(name) > 1 and name[0] == "0")


def _executed(root: Path) -> list[Hazard]:
    return [
        Hazard(str(file.relative_to(root)), "would be executed", "remove it")
        for file in _files(root, set())
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


def _at_the_top(root: Path) -> list[Hazard]:
    """Return what lies in the repository's own folder and is no model."""
    return [
        Hazard(f"{entry.name}/", "is taken for a model", "move it out")
        for entry in sorted(root.iterdir())
        if entry.is_dir() and entry.name.startswith((".", "__"))
    ]


def _links(root: Path) -> list[Hazard]:
    """Return links that lead nowhere, or to where others may write."""
    found, home = [], root.resolve()
    for at, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(at, name)
            if not path.is_symlink():
                continue
            where = str(path.relative_to(root))
            if not path.exists():
                found.append(Hazard(where, "is a dangling link", "remove it"))
            elif not path.resolve().is_relative_to(home):
                what = "is a link that leaves the repository, a change behind it is not noticed"
                found.append(Hazard(where, what, "put a copy in its place", stops=False))
    return found


def _versions(root: Path, folder: Path) -> tuple[list[int], list[Hazard]]:
    """Return a model's versions, and what only looks like one."""
    found, versions = [], []
    for path in sorted(folder.iterdir()):
        where, name = str(path.relative_to(root)), path.name
        number = name.lstrip("-+")[:1].isdecimal()
        if is_version(name) and path.is_dir():
            versions.append(int(name))
        elif is_version(name) and path.is_file():
            what = "is a file in the place of a version's folder, it is not served"
            found.append(Hazard(where, what, "remove it", stops=False))
        elif path.is_dir() and number and (name[0] in "-+" or _padded(name)):
            what = "is not served: a version is a number without a sign or leading zeros"
            found.append(Hazard(where, what, "rename or remove it", stops=False))
        elif path.is_dir() and number:
            found.append(Hazard(where, "is read as a version number", "remove it"))
    if not versions:
        what = "holds no version folder"
        found.append(Hazard(f"{folder.name}/", what, "publish a release into it or remove it"))
    if not (folder / CONFIG).is_file():
        what = f"holds no {CONFIG}, and the server is told to complete none"
        found.append(Hazard(f"{folder.name}/", what, "publish a release into it or remove it"))
    return sorted(versions), found


def _padded(name: str) -> bool:
    return name.isdecimal() and name[0] == "0" and len(name) <= DIGITS
