"""The benchmark of the export stage."""

from pathlib import Path

import pytest

from bandstop.bench.__main__ import main
from bandstop.bench.export import NETWORKS, exported
from bandstop.export.record_files import load_release
from tests.releases import gates_artifact


def test_an_export_tells_its_seconds_and_the_digest_of_all_files(tmp_path: Path) -> None:
    gates_artifact(tmp_path / "artifact")
    one = exported(tmp_path / "artifact", "baked", tmp_path / "one")
    assert load_release(tmp_path / "one").record.forget.classes == [3]
    assert set(one) == {"wall", "cpu", "digest"}
    assert float(str(one["cpu"])) > 0


def test_an_unknown_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--only", "alexnet"]) == 2
    assert f"expected {', '.join(NETWORKS)}, got alexnet" in capsys.readouterr().err
