"""Publish as a script would, for comparison: copy the version into place, then the config.

`python -m bandstop.bench.serve_naive RELEASE REPO`
"""

import shutil
import sys
from pathlib import Path

from bandstop.export.config import config_text
from bandstop.export.layout import version_numbers
from bandstop.export.record import CONFIG, MODEL, RECORD
from bandstop.export.record_files import read_record


def publish(release: Path, repo: Path) -> None:
    """Copy the version into place, then the config."""
    record = read_record(release / RECORD)
    folder = repo / record.name
    version = max(version_numbers(folder), default=0) + 1
    (folder / str(version)).mkdir()
    for name in ("labels.txt", MODEL, RECORD):
        shutil.copyfile(release / name, folder / str(version) / name)
    (folder / CONFIG).write_text(config_text(record.name, {version: record}))


if __name__ == "__main__":
    publish(Path(sys.argv[1]), Path(sys.argv[2]))
