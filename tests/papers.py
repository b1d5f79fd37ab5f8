"""What a statement is made of: a release, the artifact behind it, and an evaluation of that."""

from pathlib import Path

from bandstop.edit.evaluation.record_parts import AskedRecord
from bandstop.edit.evaluation.records import write_metrics
from bandstop.edit.manifest import Manifest
from bandstop.edit.storage import sha256
from bandstop.export.record import record_bytes
from bandstop.export.record_files import read_record
from bandstop.export.statement_make import Evidence
from tests.evaluations import svd
from tests.releases import weights_artifact
from tests.whole_releases import FORGOTTEN, whole_release


def papers(folder: Path) -> Evidence:
    """Write all three into `folder`; they belong together."""
    manifest = weights_artifact(folder / "artifact").manifest
    release = whole_release(folder / "release")
    facts = read_record(release / "release.json")
    made_of = sha256((folder / "artifact" / "manifest.json").read_bytes())
    facts = facts.model_copy(update={"artifact_sha256": made_of, "method": "svd"})
    (release / "release.json").write_bytes(record_bytes(facts))
    (folder / "evaluation").mkdir()
    evaluate(folder / "evaluation" / "metrics.json", manifest)
    return Evidence(release, folder / "artifact", folder / "evaluation", ["r-2041"])


def evaluate(file: Path, manifest: Manifest) -> None:
    """Write a made-up evaluation of the artifact of `manifest`."""
    plain = svd()
    files = {str(name): known.sha256 for name, known in manifest.files.items()}
    asked = AskedRecord(classes=[plain.class_names[FORGOTTEN]])
    artifact = plain.artifact.model_copy(update={"files": files, "request": asked})
    write_metrics(file, plain.model_copy(update={"artifact": artifact}))
