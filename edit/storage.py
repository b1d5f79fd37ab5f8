"""Folders that appear whole or not at all, digests, and JSON with one spelling."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from bandstop.edit.errors import InputError

# what tells an artifact and a release
_WHOLE = (("manifest.json", "model.safetensors"), ("release.json", "model.onnx"))


def canonical_json(value: object) -> bytes:
    """Return `value` as JSON with sorted keys and fixed spacing; NaN is refused."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def tensor_sha256(values: Tensor) -> str:
    """Return the SHA-256 of the numbers in `values`, which are on the CPU, without their shape."""
    return sha256(values.contiguous().numpy().tobytes())


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return one digest of all names, shapes, types and values of a state dict."""
    whole = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # as bytes, since NumPy has no bfloat16
        whole.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def library_versions() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    return {
        "bandstop": version("bandstop"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def refuse_existing(out: Path) -> None:
    """Raise InputError when something is at `out`, or its parent is no folder or not to be changed.

    A file too many would make an artifact or a release one that no longer verifies. Whether the
    parent can be written is tried with a file without a name, so that it is said before the work.
    """
    _refuse_taken(out)
    for pair in _WHOLE:
        if all((out.resolve().parent / name).exists() for name in pair):
            raise InputError(
                f"output {out} is inside an artifact or a release; choose another path"
            )
    with _said_of(out), tempfile.TemporaryFile(dir=out.resolve().parent):
        pass


def _refuse_taken(out: Path) -> None:
    if os.path.lexists(out):
        raise InputError(f"output {out} exists; choose another path or remove it")
    if not out.resolve().parent.is_dir():
        raise InputError(f"output {out}: its parent folder does not exist; create it first")


@contextmanager
def _said_of(out: Path) -> Iterator[None]:
    """Say what the system refuses beside `out` by that name, not by a temporary one."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"output {out}: nothing can be written into its folder ({error.strerror}); "
            "choose another path"
        ) from error


def write_folder(out: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` (name -> content) as the new folder `out`, which appears whole or not at all.

    A name may have folders in front, as `plots/loss.json`.

    Raises:
        InputError: `out` exists already, or its parent does not or takes no file.
    """

    def fill(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write_synced(folder / name, content)

    _appear(out, fill)


def write_file(out: Path, content: bytes) -> None:
    """Write `content` as the new file `out`, which appears whole or not at all.

    Raises:
        InputError: `out` exists already, or its parent does not or takes no file.
    """
    _refuse_taken(out)
    replace_file(out, content)


def replace_file(out: Path, content: bytes) -> None:
    """Write `content` as the file `out`, which is the old one or the new one at any moment."""
    parent = out.resolve().parent
    with _said_of(out):
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=parent)
    os.close(handle)
    temporary = Path(name)
    try:
        _write_synced(temporary, content)
        temporary.chmod(0o644)
        temporary.rename(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(parent)


def _appear(out: Path, fill: Callable[[Path], None]) -> None:
    refuse_existing(out)
    with _said_of(out):
        staged = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.resolve().parent))
    try:
        fill(staged)
        staged.chmod(0o755)
        _sync(staged)
        staged.rename(out)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    _sync(out.resolve().parent)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
