"""Whatever bytes are a manifest.json, they are read as what they say or refused in one line."""

import tempfile
from pathlib import Path

from bandstop.edit.errors import ArtifactError
from bandstop.edit.manifest import MANIFEST, MODEL, Manifest, read_manifest
from bandstop.edit.storage import canonical_json
from tests.releases import gates_artifact, weights_artifact


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        weights_artifact(root / "weights")
        gates_artifact(root / "gates")
        return [(root / kind / MANIFEST).read_bytes() for kind in ("weights", "gates")]


def check(data: bytes) -> bool:
    """Return whether `data` is a manifest."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST).write_bytes(data)
        (Path(folder) / MODEL).write_bytes(b"")
        try:
            manifest = read_manifest(Path(folder))
        except ArtifactError as error:
            if "\n" in str(error):
                raise AssertionError(str(error)) from error
            return f"missing gates.{MODEL.rpartition('.')[2]}" in str(error)
    again = Manifest.model_validate_json(canonical_json(manifest.model_dump(mode="json")))
    assert again == manifest
    manifest.preprocess.preprocess()
    manifest.arch.arch()
    return True
