"""`bandstop unlearn`: run a method on a model and write an artifact."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.device import HELP, device_of
from bandstop.cli.output import show
from bandstop.cli.settings import given_settings
from bandstop.cli.unlearn_each import unlearn_all_each
from bandstop.cli.unlearn_once import Asked, partial_of, unlearn_once
from bandstop.cli.unlearn_source import Named, load_source
from bandstop.edit import team
from bandstop.edit.errors import InputError
from bandstop.edit.methods import METHODS, configured, preset
from bandstop.edit.seeds import MAX_SEED
from bandstop.edit.storage import refuse_existing

app = typer.Typer(add_completion=False)
_ALL_AT_ONCE = ("wf-net",)
_ALL_EACH = "all-each"


@app.command(name="unlearn")
def run(
    method: Annotated[str, typer.Argument(help=f"One of {', '.join(METHODS)}.")],
    model: Annotated[
        str,
        typer.Option(
            help="Checkpoint file, artifact folder to edit further, torchvision:NAME, timm:NAME "
            "or module:factory."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The artifact folder to write; must not exist.")],
    data: Annotated[
        str | None,
        typer.Option(help="digits, parquet:FILE, imagefolder:DIR, torchvision:NAME@ROOT."),
    ] = None,
    stand_in: Annotated[
        str | None,
        typer.Option(
            help="Instead of --data, where the training data is gone: synthesised, from the "
            "network alone; or any other images, named as for --data, without regard to labels."
        ),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            help="Classes by name or index, e.g. cat,3,#4; or all-each: one artifact a class, "
            "from one pass over the data. Not for wf-net."
        ),
    ] = None,
    instances: Annotated[
        Path | None,
        typer.Option(
            help="A text file, one training image a line by its number in the data, from 0; behind "
            "it, on every line or none, the class that it shall be taken for."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights for torchvision:, timm: or module:factory.")
    ] = None,
    preset_name: Annotated[
        str, typer.Option("--preset", help="default, paper, or one for a network, as small-resnet.")
    ] = "default",
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="YAML with the method's settings.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, on top of preset and config.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Stretch images to this height and width.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_SEED, help="Seeds the method, for foreign weights the split too; 0."
        ),
    ] = None,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow --model to import your own module.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same settings.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder for adversarial images, to be used again by other runs."),
    ] = None,
    device: Annotated[str, typer.Option(help=HELP)] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a classifier forget classes or images and write the result as an artifact.

    Example: bandstop unlearn svd --model base.safetensors --data digits --forget 3 --out no-three

    Started by torchrun, svd, wf-net and l2ul share their work between the processes.
    """
    given = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
    chosen = configured(preset(method, preset_name), given_settings(config, given))
    if dry_run:
        show({"method": method, **asdict(chosen)}, as_json=as_json)  # type: ignore[call-overload]  # a Method is a dataclass, which a Protocol cannot say
        return
    wanted = Asked(forget, instances)
    _check_asked(method, wanted, out, resume=resume)
    where = device_of(device)
    named = Named(model, data, stand_in, checkpoint, image_size, trust_factory)
    with team.joined(where):
        source = load_source(named, chosen.seed)
        if forget == _ALL_EACH:
            result = unlearn_all_each(out, source, chosen)
        else:
            result = unlearn_once(out, source, chosen, wanted, device=where, cache=cache)
        if team.rank() == 0:
            show(result, as_json=as_json)


def _check_asked(method: str, wanted: Asked, out: Path, *, resume: bool) -> None:
    partial = partial_of(out)
    if partial.exists() and not resume:
        raise InputError(f"{partial} is left of an interrupted run; say --resume or remove it")
    if not (resume and out.is_dir() and wanted.forget == _ALL_EACH):
        refuse_existing(out)
    named = wanted.forget is not None or wanted.instances is not None
    if wanted.forget is not None and wanted.instances is not None:
        raise InputError("--forget and --instances exclude each other; leave one out")
    if not named and method not in _ALL_AT_ONCE:
        raise InputError(f"{method} needs --forget NAME|INDEX[,..] or --instances FILE")
    if named and method in _ALL_AT_ONCE:
        raise InputError(
            f"{method} unlearns every class in one run, so leave --forget and --instances out"
        )
