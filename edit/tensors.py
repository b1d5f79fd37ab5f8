"""Safetensors files that are checked against what they should hold before they are believed."""

import json
import struct
from collections import Counter
from collections.abc import Mapping

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bandstop.edit.errors import ArtifactError, printable

_HEADER_LIMIT = 16 << 20  # bytes; ten thousand tensors take one


def dump(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return `tensors` as the bytes of a safetensors file; the same tensors give the same bytes."""
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return safetensors.torch.save(plain, dict(metadata) if metadata else None)


def load(data: bytes, expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors in the safetensors bytes `data`.

    Args:
        data: the file's content.
        expected: the closed set of names, with a tensor of the right shape and dtype for each.
        where: the file's name, for messages.

    Raises:
        ArtifactError: not a safetensors file, or names, shapes, dtypes or values are not as
            expected; all misfits in one message.
    """
    check_header(data, where)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        told = printable(str(error))[:400]
        raise ArtifactError(f"{where}: not a readable safetensors file ({told})") from error
    check(tensors, expected, where)
    return tensors


def check(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Check that `tensors` are `expected` in names, shapes and types, and finite.

    Raises:
        ArtifactError: they are not; all misfits in one message, and plainly if only the number of
            classes differs.
    """
    wrong = misfits(tensors, expected)
    if wrong:
        classes = _other_classes(tensors, expected)
        shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if wrong[8:] else "")
        raise ArtifactError(f"{where} does not fit the network: {classes}{shown}")


def check_header(data: bytes, where: str) -> dict[str, str]:
    """Return the metadata of safetensors bytes, after the checks that the library does not make.

    Raises:
        ArtifactError: too short, a header too large, no JSON object, or a tensor named twice.
    """
    if len(data) < 8 or (length := struct.unpack("<Q", data[:8])[0]) > len(data) - 8:
        hint = (
            " (it looks like a Git LFS pointer)" if data.startswith(b"version https://git") else ""
        )
        raise ArtifactError(f"{where}: truncated, {len(data)} bytes{hint}; fetch it again")

    if length > _HEADER_LIMIT:
        raise ArtifactError(f"{where}: the header has {length} bytes, expected <= {_HEADER_LIMIT}")
    try:
        text = data[8 : 8 + length].decode()
        header, twice = json.loads(text), named_twice(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: the header is not JSON; the file is corrupt") from error
    if twice:
        raise ArtifactError(f"{where}: the header names a tensor twice: {twice[0]!r:.80}")
    if not isinstance(header, dict):
        raise ArtifactError(f"{where}: the header is not a JSON object; the file is corrupt")
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def named_twice(text: str | bytes) -> list[str]:
    """Return the keys that an object in the JSON `text` has twice; readers differ in which counts.

    Raises:
        ValueError, RecursionError: not JSON.
    """
    twice: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        counts = Counter(name for name, _ in pairs)
        twice.extend(name for name, times in counts.items() if times > 1)

    json.loads(text, object_pairs_hook=note)
    return twice


def names(data: bytes) -> list[str]:
    """Return the names of the tensors in safetensors bytes that passed `check_header`."""
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return [name for name in header if name != "__metadata__"]


def misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return how `tensors` differ from `expected` in names, shapes, types; and which hold NaN."""
    wrong = [f"{name}: missing" for name in expected if name not in tensors]
    for name, tensor in sorted(tensors.items()):  # the library gives them in any order
        if name not in expected:
            wrong.append(f"{name!r:.80}: not expected")
            continue
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            wrong.append(
                f"{name}: expected {want.dtype} {tuple(want.shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
        elif tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            first = (~torch.isfinite(tensor)).nonzero()[0].tolist()
            wrong.append(f"{name}: holds NaN or infinity, the first at {first}")
        elif name.endswith("running_var") and bool((tensor < 0).any()):
            first = (tensor < 0).nonzero()[0].tolist()
            wrong.append(f"{name}: holds a negative variance, the first at {first}")
    return wrong


def _other_classes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return "N classes, expected M: " where that alone is wrong.

    It shows in the last tensor; any layer before would be wrong in the inputs of its next one too.
    """
    if tensors.keys() != expected.keys():
        return ""
    shapes = {n: (tuple(tensors[n].shape), tuple(want.shape)) for n, want in expected.items()}
    differing = {n: pair for n, pair in shapes.items() if pair[0] != pair[1]}
    counts = {(got[:1], want[:1], got[1:] == want[1:]) for got, want in differing.values()}
    match list(counts):
        case [((got,), (want,), True)] if list(expected)[-1] in differing:
            return f"{got} classes, expected {want}: "
    return ""
