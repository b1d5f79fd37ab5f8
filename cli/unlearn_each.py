"""`bandstop unlearn svd --forget all-each`: one artifact a class, from one pass over the data."""

import re
import time
from pathlib import Path

from bandstop.cli.output import say
from bandstop.edit.artifact import params_of, read_manifest, save_artifact
from bandstop.edit.classifier import Classifier
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import DataSplits
from bandstop.edit.method import Method
from bandstop.edit.origin import Origin
from bandstop.edit.request import ForgetRequest
from bandstop.edit.storage import state_sha256
from bandstop.edit.svd import SVD
from bandstop.edit.unlearn import unlearn_each

_LONGEST_NAME = 40


def unlearn_all_each(
    out: Path, parent: Classifier, method: Method, data: DataSplits, origin: Origin
) -> dict[str, object]:
    """Write an artifact a class into the folder `out`; return what was done.

    Classes whose artifact is there already are left alone. Each artifact appears complete or not
    at all, so an interrupted run keeps what is finished.

    Raises:
        InputError: not SVD, or `out` holds the artifact of another model or setting.
    """
    if not isinstance(method, SVD):
        raise InputError(f"--forget all-each is for svd, not for {method.name}")
    classes = [c for c in range(parent.num_classes) if c not in origin.forgotten]
    folders = {c: out / folder_name(c, parent.class_names) for c in classes}
    finished = [c for c in classes if folders[c].exists()]
    _check_same(finished, folders, parent, method)
    out.mkdir(exist_ok=True)
    started = time.perf_counter()
    remaining = [c for c in classes if c not in finished]
    folded, edits = unlearn_each(parent, method, remaining, data)
    failed = []
    for c, edit in edits if remaining else ():
        if isinstance(edit, NothingForgottenError):
            say(f"{parent.class_names[c]}: {edit}")
            failed.append(c)
            continue
        save_artifact(
            folders[c],
            folded,
            edit,
            method=method,
            request=ForgetRequest((c,)),
            parent=parent,
            forgotten_before=origin.forgotten,
            split_seed=origin.split_seed,
        )
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


def _check_same(
    finished: list[int], folders: dict[int, Path], parent: Classifier, method: SVD
) -> None:
    digest = state_sha256(parent.network.state_dict()) if finished else ""
    wanted = (params_of(method), method.seed, digest)
    other = []
    for c in finished:
        manifest = read_manifest(folders[c])
        same = (manifest.params, manifest.seed, manifest.parent_sha256) == wanted
        if not same or manifest.request.classes != [c]:
            other.append(str(folders[c]))
    if other:
        raise InputError(
            f"{', '.join(other[:3])} was made from another model or with other settings; "
            "choose another --out"
        )
