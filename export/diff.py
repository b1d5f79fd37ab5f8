"""What differs between two versions of a model, by their records."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from bandstop.export.errors import SpecError
from bandstop.export.layout import repository_root
from bandstop.export.model_folder import read_model
from bandstop.export.record import ReleaseRecord

_BULK = ("canary", "parity", "parent_tensors")  # of no use to whoever compares two versions
_LISTS = ("inputs", "outputs", "class_names")  # compared one by one


def diff(repo: Path, model: str, a: int, b: int) -> dict[str, tuple[object, object]]:
    """Return field -> what version `a` and version `b` of `model` say, where they differ.

    Fields are named as in release.json, such as `forget.classes` or `files.model.onnx.size`; None
    stands for a field that one of them does not have.

    Raises:
        SpecError: no such repository, model or version.
        ReleaseError: a record is unreadable.
    """
    there = read_model(repository_root(repo, there=True) / model)
    for version in (a, b):
        if version not in there.records:
            known = ", ".join(map(str, sorted(there.records)))
            raise SpecError(
                f"model {model}: no version {version} by bandstop; expected one of {known}"
            )
    one, other = (_fields(there.records[version]) for version in (a, b))
    return {
        name: (one.get(name), other.get(name))
        for name in dict.fromkeys((*one, *other))
        if one.get(name) != other.get(name)
    }


def _fields(record: ReleaseRecord) -> dict[str, object]:
    told = record.model_dump(mode="json")
    return dict(_flat({name: value for name, value in told.items() if name not in _BULK}, ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and name in _LISTS:
        for index, inner in enumerate(value):
            key = inner["name"] if isinstance(inner, dict) else index
            yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, value
