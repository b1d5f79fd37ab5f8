"""`bandstop unlearn svd --forget all-each`: one artifact a class, from one pass over the data."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

from bandstop.cli.output import say
from bandstop.cli.unlearn_source import Source, save
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.manifest import params_of, read_manifest
from bandstop.edit.method import Method
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import state_sha256
from bandstop.edit.svd import SVD
from bandstop.edit.unlearn import unlearn_each

_LONGEST_NAME = 40


def unlearn_all_each(out: Path, source: Source, method: Method) -> dict[str, object]:
    """Write an artifact a class into the folder `out`; return what was done.

    Classes whose artifact is there already are left alone. Each artifact appears complete or not
    at all, so an interrupted run keeps what is finished.

    Raises:
        InputError: not SVD, or `out` holds the artifact of another model or setting.
    """
    if not isinstance(method, SVD):
        raise InputError(f"--forget all-each is for svd, not for {method.name}")
    parent = source.model
    classes = [c for c in range(parent.num_classes) if c not in source.origin.forgotten]
    folders = {c: out / folder_name(c, parent.class_names) for c in classes}
    finished = {c: folder for c, folder in folders.items() if folder.exists()}
    _check_same(finished, source, method)
    out.mkdir(exist_ok=True)
    started = time.perf_counter()
    remaining = [c for c in classes if c not in finished]
    folded, edits = unlearn_each(parent, method, remaining, source.data)
    failed = []
    for c, edit in edits if remaining else ():
        if isinstance(edit, NothingForgottenError):
            say(f"{parent.class_names[c]}: {edit}")
            failed.append(c)
            continue
        save(folders[c], source, method, ForgetRequest((c,)), folded, edit)
        say(f"{parent.class_names[c]}: {folders[c]}")
    return {
        "artifacts": [str(folders[c]) for c in classes if c not in failed],
        "method": method.name,
        "not_forgotten": [parent.class_names[c] for c in failed],
        "unlearn_seconds": round(time.perf_counter() - started, 3),
    }


def folder_name(c: int, class_names: tuple[str, ...]) -> str:
    """Return `03-cat`: the index, as wide as the last one, and what of the name suits a file."""
    width = len(str(len(class_names) - 1))
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", class_names[c])[:_LONGEST_NAME].strip("_")
    return f"{c:0{width}}-{name}" if name else f"{c:0{width}}"


def _check_same(finished: Mapping[int, Path], source: Source, method: SVD) -> None:
    if not finished:
        return
    digest = state_sha256(source.model.network.state_dict())
    wanted = (params_of(method), method.seed, digest, source.stand_in)
    other = []
    for c, folder in finished.items():
        found = read_manifest(folder)
        same = (found.params, found.seed, found.parent_sha256, found.stand_in) == wanted
        if not same or found.request.classes != [c]:
            other.append(str(folder))
    if other:
        raise InputError(
            f"{', '.join(other[:3])} was made from another model or data or with other settings; "
            "choose another --out"
        )
