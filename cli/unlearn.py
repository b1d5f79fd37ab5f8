"""`bandstop unlearn`: run a method on a model and write an artifact."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.layers import show_layers
from bandstop.cli.output import say, show
from bandstop.cli.settings import given_settings
from bandstop.cli.unlearn_each import unlearn_all_each
from bandstop.cli.unlearn_source import Named, Source, load_source, save
from bandstop.edit.errors import InputError
from bandstop.edit.method import Method
from bandstop.edit.methods import METHODS, configured, preset
from bandstop.edit.origin import Origin
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.storage import refuse_existing
from bandstop.edit.unlearn import every_class, unlearn

app = typer.Typer(add_completion=False)
_ALL_AT_ONCE = ("wf-net",)
_ALL_EACH = "all-each"
MAX_SEED = 2**63 - 1


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
        bool, typer.Option("--resume", help="Go on with all-each; finished classes are kept.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a classifier forget classes and write the result as an artifact.

    Example: bandstop unlearn svd --model base.safetensors --data digits --forget 3 --out no-three
    """
    given = [*(settings or []), *([] if seed is None else [f"seed={seed}"])]
    chosen = configured(preset(method, preset_name), given_settings(config, given))
    if dry_run:
        show({"method": method, **asdict(chosen)}, as_json=as_json)  # type: ignore[call-overload]  # a Method is a dataclass, which a Protocol cannot say
        return
    _check_asked(method, forget, out, resume=resume)
    named = Named(model, data, stand_in, checkpoint, image_size, trust_factory)
    source = load_source(named, chosen.seed)
    if forget == _ALL_EACH:
        show(unlearn_all_each(out, source, chosen), as_json=as_json)
    else:
        show(unlearn_once(out, source, chosen, forget), as_json=as_json)


def unlearn_once(
    out: Path, source: Source, method: Method, forget: str | None
) -> dict[str, object]:
    """Write the artifact `out` of one run of `method`; return what was done.

    Raises:
        InputError: see `asked`, or what the method cannot work with.
        NothingForgottenError, DivergedError: see the method.
    """
    names, origin = source.model.class_names, source.origin
    request = every_class(source.model) if forget is None else asked(forget, names, origin)
    started = time.perf_counter()
    folded, edit = unlearn(source.model, method, request, source.data)
    seconds = time.perf_counter() - started
    save(out, source, method, request, folded, edit)
    show_layers(edit.found)
    say(f"forgetting took {seconds:.1f} s")
    result: dict[str, object] = {
        "artifact": str(out),
        "method": method.name,
        "forget": [names[c] for c in request.classes],
        "unlearn_seconds": round(seconds, 3),
    }
    if origin.forgotten:
        result["forgotten_before"] = [names[c] for c in origin.forgotten]
    if source.stand_in is not None:
        result["stand_in"] = source.stand_in
    return result


def asked(forget: str, class_names: Sequence[str], origin: Origin) -> ForgetRequest:
    """Return the request that `--forget` makes of a model with this past.

    Raises:
        InputError: see `parse_forget`; or a class is not known any more, or none would be left.
    """
    request = parse_forget(forget, class_names)
    again = [class_names[c] for c in request.classes if c in origin.forgotten]
    if again:
        raise InputError(
            f"forget: the model has forgotten {', '.join(again)} already, or was trained without"
        )
    if len(request.classes) + len(origin.forgotten) == len(class_names):
        raise InputError("forget: no class would be left, counting those forgotten before")
    return request


def _check_asked(method: str, forget: str | None, out: Path, *, resume: bool) -> None:
    if resume and forget != _ALL_EACH:
        raise InputError("--resume goes with --forget all-each alone")
    if not (resume and out.is_dir()):
        refuse_existing(out)
    if forget is None and method not in _ALL_AT_ONCE:
        raise InputError(f"{method} needs --forget NAME|INDEX[,..]")
    if forget is not None and method in _ALL_AT_ONCE:
        raise InputError(f"{method} unlearns every class in one run, so leave --forget out")
