"""`bandstop evaluate`: measure what an artifact forgot, and write the evidence."""

import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.device import HELP, device_of
from bandstop.cli.evaluate_parts import (
    command_line,
    insertion_curves,
    notes_in,
    settings_digest,
)
from bandstop.cli.evaluate_source import Compared, Named, load_compared, on_device
from bandstop.cli.evaluate_told import costs_of, parity_of
from bandstop.cli.output import say, show
from bandstop.edit.errors import InputError
from bandstop.edit.evaluation.assemble import About, evaluation_of
from bandstop.edit.evaluation.evaluate import REFERENCES, evaluate, subject_of, world_of
from bandstop.edit.evaluation.folder import files
from bandstop.edit.evaluation.observed import case_of
from bandstop.edit.evaluation.records import Evaluation
from bandstop.edit.evaluation.tasks import TASKS
from bandstop.edit.evaluation.trackers import to_mlflow, to_tensorboard
from bandstop.edit.seeds import MAX_SEED
from bandstop.edit.storage import refuse_existing, write_folder

app = typer.Typer(add_completion=False)
PACKS = ("cheap", "full")
INSERTION = "insertion"  # of masks, so no task of a network
_MOST = 2500  # training images of each kind


@app.command(name="evaluate")
def run(
    artifact: Annotated[Path, typer.Argument(help="The folder that bandstop unlearn wrote.")],
    data: Annotated[
        str, typer.Option(help="digits, parquet:FILE, imagefolder:DIR, torchvision:NAME@ROOT.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; must not exist.")],
    original: Annotated[
        Path | None, typer.Option(help="The checkpoint that the artifact was made of.")
    ] = None,
    retrained: Annotated[
        Path | None,
        typer.Option(help="A checkpoint of train --without, or an artifact of unlearn retrain."),
    ] = None,
    retrain: Annotated[
        Path | None,
        typer.Option(help="A folder of retrained networks, in place of --retrained; made if need."),
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="For wf-net: the classes to look at, e.g. cat,3.")
    ] = None,
    pack: Annotated[
        str, typer.Option(help="cheap: minutes; full: trains the networks again as well.")
    ] = "cheap",
    only: Annotated[
        str | None,
        typer.Option("--metrics", help=f"Of {', '.join([t.name for t in TASKS])}, {INSERTION}."),
    ] = None,
    relearn_cap: Annotated[int, typer.Option(min=1, help="Epochs of relearning at most.")] = 20,
    edit_run: Annotated[
        Path | None,
        typer.Option("--run", help="What unlearn --json printed, for time and memory."),
    ] = None,
    retrain_run: Annotated[
        Path | None,
        typer.Option(help="What unlearn retrain --json printed, for the time that it took."),
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="What export wrote of the artifact, for its parity.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder that keeps each network's figures, for further artifacts."),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(help="Record it with the MLflow server at this address as well.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Add it to TensorBoard's logs in this folder as well.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of whatever is drawn.")] = 0,
    device: Annotated[str, typer.Option(help=HELP)] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted evaluation.")
    ] = False,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow the artifact to import your own module.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what an artifact forgot; write metrics.json, params.yaml, plots and report.html.

    Example: bandstop evaluate no-three --data digits --original base.safetensors --out evidence

    Beside it stand the original, the logit mask, which hides and forgets nothing, and the network
    that was retrained without what is forgotten: what forgetting should look like.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not resume:
        raise InputError(f"{partial} is left of an interrupted run; say --resume or remove it")
    names = _chosen(pack, only)
    runtime = costs_of(edit_run, retrain_run)
    where = device_of(device)
    named = Named(artifact, data, forget, original, retrained, retrain, seed, trust_factory)
    compared = load_compared(named, where)
    if only is not None:
        _refuse_idle(names, compared)
    parity = parity_of(release, compared)
    notes = notes_in(cache, partial, settings_digest(compared, seed, relearn_cap))
    started = time.perf_counter()
    case = case_of(compared.data, compared.request, most=_MOST, seed=seed)
    networks = on_device(compared.networks, where)
    subjects = {name: subject_of(name, m, case, notes) for name, m in networks.items()}
    world = world_of(
        case,
        compared.data.train,
        subjects,
        relearn_cap=relearn_cap,
        trust_factory=trust_factory,
    )
    found = evaluate(subjects, world, [t for t in TASKS if t.name in names], notes)
    curves = insertion_curves(compared, networks, world) if INSERTION in names else None
    seconds = round(time.perf_counter() - started, 1)
    about = About(
        compared.artifact.manifest,
        subjects["edited"].model.class_names,
        data,
        command_line(named, out, pack, only, relearn_cap),
        runtime.model_copy(update={"evaluate_seconds": seconds, "device": where}),
        parity,
    )
    masks = None if compared.artifact.gates is None else compared.artifact.gates.masks
    evaluation = evaluation_of(about, subjects, world, found, masks=masks, curves=curves)
    write_folder(out, files(evaluation))
    shutil.rmtree(partial, ignore_errors=True)
    if mlflow is not None:
        to_mlflow(out, mlflow, "bandstop", out.name)
    if tensorboard is not None:
        to_tensorboard(out, tensorboard)
    for warning in evaluation.warnings:
        say(f"warning: {warning}")
    show(_summary(out, evaluation), as_json=as_json)


def _chosen(pack: str, only: str | None) -> set[str]:
    """Return the names of the tasks of a pack, or those that were named instead."""
    if pack not in PACKS:
        raise InputError(f"--pack {pack}: expected {' or '.join(PACKS)}")
    known = {task.name: task.pack for task in TASKS} | {INSERTION: "full"}
    if only is None:
        return {name for name, of in known.items() if pack == "full" or of == "cheap"}
    names = {part.strip() for part in only.split(",")}
    unknown = sorted(names - known.keys())
    if unknown:
        told = ", ".join(name or "''" for name in unknown)
        raise InputError(f"--metrics: no {told}; expected some of {', '.join(known)}")
    return names


def _refuse_idle(names: set[str], compared: Compared) -> None:
    """Refuse metrics that were asked for by name and apply to no network."""
    there = [name for name in REFERENCES if name in compared.networks]
    lacking = {t.name: t.lacks(there, compared.request) for t in TASKS if t.name in names}
    if INSERTION in names and compared.artifact.gates is None:
        lacking[INSERTION] = "masks, as wf-net makes them"
    told = [f"{name} needs {what}" for name, what in lacking.items() if what]
    if told:
        raise InputError(
            f"--metrics: {'; '.join(told)} (see --original, --retrained); leave out what cannot "
            "be measured"
        )


def _summary(out: Path, evaluation: Evaluation) -> dict[str, object]:
    figures = {key: m.value for key, m in evaluation.subjects["edited"].items()}
    return {"evaluation": str(out), **{k: round(v, 4) for k, v in figures.items()}}
