"""Seconds that an export takes, each in a fresh process, and whether two give the same bytes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer

from bandstop.bench.timing import Spent, spent
from bandstop.cli.output import say
from bandstop.edit.arch import build
from bandstop.edit.artifact import load_artifact, save_artifact
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.edits import GateEdit
from bandstop.edit.gates import gateable
from bandstop.edit.images import Preprocess
from bandstop.edit.storage import canonical_json, sha256
from bandstop.edit.train import DIGITS
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet
from bandstop.export.release import export_release
from bandstop.export.spec import ExportSpec

app = typer.Typer(add_completion=False)
CLASSES = 10
# name -> architecture, channels, side in pixels, seconds that an export may take
NETWORKS: Mapping[str, tuple[Arch, int, int, float]] = {
    "resnet18": (Arch("torchvision:resnet18"), 3, 32, 15.0),
    "demo": (DIGITS, 1, 8, 3.0),
}
SPECS = {"gated": ExportSpec("gated"), "baked": ExportSpec("baked", forget=(3,))}


@app.command()
def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETWORKS)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export networks with random masks for each of ten classes, twice; print the seconds.

    The seconds are of one export, parity over every row and the writing of the release included,
    the start of Python and its imports not.
    """
    unknown = set(only or ()) - NETWORKS.keys()
    if unknown:
        raise typer.BadParameter(
            f"expected {', '.join(NETWORKS)}, got {', '.join(unknown)}", param_hint="--only"
        )
    result: dict[str, object] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        for name in only or NETWORKS:
            artifact = Path(folder, name)
            _save(name, artifact)
            for mode in SPECS:
                result |= _measured(name, mode, artifact)
    if as_json:
        typer.echo(json.dumps(result, allow_nan=False))
        return
    for key, value in result.items():
        typer.echo(f"{key}: {value}")


def exported(artifact: Path, mode: str, out: Path) -> dict[str, object]:
    """Export in this process; return seconds and the digest of all files of the release."""
    loaded = load_artifact(artifact)
    took: Spent = spent(lambda: export_release(loaded, SPECS[mode], out))
    files = {file.name: sha256(file.read_bytes()) for file in sorted(out.iterdir())}
    return {"wall": took.wall, "cpu": took.cpu, "digest": sha256(canonical_json(files))}


def _measured(name: str, mode: str, artifact: Path) -> dict[str, object]:
    """Return what two fresh processes say."""
    say(f"bench export: {name} {mode} ...")
    started = time.perf_counter()
    runs = []
    for turn in range(2):
        out = artifact.with_name(f"{name}-{mode}-{turn}")
        command = [sys.executable, "-m", "bandstop.bench.export", str(artifact), mode, str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout))
    say(f"{time.perf_counter() - started:.0f} s with the start of Python")
    seconds = min(float(run["wall"]) for run in runs)
    return {
        f"{name}_{mode}_s": round(seconds, 2),
        f"{name}_{mode}_cpu_s": round(min(float(run["cpu"]) for run in runs), 2),
        f"{name}_{mode}_bar_s": NETWORKS[name][3],
        f"{name}_{mode}_same_bytes": runs[0]["digest"] == runs[1]["digest"],
    }


def _save(name: str, out: Path) -> None:
    """Save an artifact of random masks of the network `name`, with random weights."""
    arch, channels, side, _ = NETWORKS[name]
    prep = Preprocess((side, side), channels, (0.5,) * channels, (0.25,) * channels)
    network = build(arch, CLASSES, channels, (side, side))
    model = Classifier(network, arch, prep, tuple(f"class {c}" for c in range(CLASSES)))
    folded = fold_batchnorm(model)
    generator = torch.Generator().manual_seed(0)
    tables = gateable(folded.network).items()
    masks = {n: torch.rand(CLASSES, width, generator=generator) for n, width in tables}
    request = every_class(model)
    save_artifact(out, folded, GateEdit(masks), method=WFNet(), request=request, parent=model)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(exported(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
