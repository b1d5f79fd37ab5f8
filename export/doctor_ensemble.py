"""Look the parts of an ensemble over: they say what their model's releases say."""

from collections.abc import Iterator
from pathlib import Path

from bandstop.export.ensemble import ensemble_of
from bandstop.export.ensemble_config import PARTS, configs
from bandstop.export.ensemble_files import DIGEST
from bandstop.export.errors import ExportError
from bandstop.export.finding import Finding
from bandstop.export.layout import is_stage, version_numbers, versions_served
from bandstop.export.model_folder import read_model
from bandstop.export.record import CONFIG


def about_part(folder: Path, name: str) -> Iterator[Finding]:
    """Tell what is wrong with `folder`, a part of the ensemble of the model `name`."""
    parts = [f"{name}{part}" for part in PARTS]
    mend = f"remove {', '.join(parts)} and publish with --ensemble again"
    try:
        model = read_model(folder.parent / name)
        ensemble = ensemble_of(folder.parent, name)
        served = versions_served(folder)
    except ExportError as error:
        yield Finding(folder.name, f"its model or its config is not readable: {error}", mend)
        return
    yield from _foreign(folder, mend)
    if ensemble is None:
        yield Finding(folder.name, f"a step of an ensemble that is not there: {parts[0]}", mend)
    elif ensemble.version not in served or ensemble.version not in model.served:
        what = f"the ensemble takes version {ensemble.version}, which is not served"
        yield Finding(folder.name, what, f"promote a version of {name}, or {mend}")
    elif not {*served} <= {*model.records}:
        yield Finding(folder.name, "serves a version that nobody published", mend)
    else:
        records = {version: model.records[version] for version in served}
        wanted = configs(ensemble, records)[folder.name.removeprefix(name)]
        if (folder / CONFIG).read_text(encoding="utf-8") != wanted:
            yield Finding(f"{folder.name}/{CONFIG}", "is not what publish writes", mend)


def _foreign(folder: Path, mend: str) -> Iterator[Finding]:
    """Tell of what lies there beside the configuration and versions of a digest each."""
    numbers = {str(n) for n in version_numbers(folder)}
    for entry in sorted(folder.iterdir()):
        inside = [entry] if entry.name not in numbers else sorted(entry.iterdir())
        for file in inside:
            if file.name not in (CONFIG, DIGEST) and not is_stage(file.name):
                where = str(file.relative_to(folder.parent))
                yield Finding(where, "a foreign file or folder", f"remove it, or {mend}")
