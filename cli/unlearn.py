"""`bandstop unlearn`: run a method on a model and write an artifact."""

import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from bandstop.cli.layers import show_layers
from bandstop.cli.output import say, show
from bandstop.cli.unlearn_each import unlearn_all_each
from bandstop.edit.artifact import save_artifact
from bandstop.edit.data_for import data_for
from bandstop.edit.errors import InputError
from bandstop.edit.load import load_model
from bandstop.edit.method import Method
from bandstop.edit.methods import METHODS, preset
from bandstop.edit.origin import Origin, origin_of
from bandstop.edit.request import ForgetRequest, parse_forget
from bandstop.edit.storage import refuse_existing
from bandstop.edit.unlearn import every_class, unlearn

app = typer.Typer(add_completion=False)
_ALL_AT_ONCE = ("wf-net",)
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
    data: Annotated[
        str, typer.Option(help="digits, parquet:FILE, imagefolder:DIR, torchvision:NAME@ROOT.")
    ],
    out: Annotated[Path, typer.Option(help="The artifact folder to write; must not exist.")],
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
        str, typer.Option("--preset", help="default, or paper for the paper's setting.")
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
    chosen = resolve(preset(method, preset_name), config, given)
    if dry_run:
        show({"method": method, **asdict(chosen)}, as_json=as_json)  # type: ignore[call-overload]  # a Method is a dataclass, which a Protocol cannot say
        return
    each = forget == "all-each"
    if resume and not each:
        raise InputError("--resume goes with --forget all-each alone")
    if not (resume and out.is_dir()):
        refuse_existing(out)
    if (forget is None) != (method in _ALL_AT_ONCE):
        wanted = "unlearns every class in one run, so leave --forget out"
        raise InputError(
            f"{method} {wanted if forget is not None else 'needs --forget NAME|INDEX[,..]'}"
        )
    origin = origin_of(model)
    if origin.split_seed is None:
        origin = replace(origin, split_seed=chosen.seed)
    splits = data_for(model, data, seed=chosen.seed, image_size=image_size)
    parent = load_model(model, splits, checkpoint=checkpoint, trust_factory=trust_factory)
    if each:
        show(unlearn_all_each(out, parent, chosen, splits, origin), as_json=as_json)
        return
    request = every_class(parent) if forget is None else asked(forget, parent.class_names, origin)
    started = time.perf_counter()
    folded, edit = unlearn(parent, chosen, request, splits)
    seconds = time.perf_counter() - started
    save_artifact(
        out,
        folded,
        edit,
        method=chosen,
        request=request,
        parent=parent,
        forgotten_before=origin.forgotten,
        split_seed=origin.split_seed,
    )
    show_layers(edit.found)
    say(f"forgetting took {seconds:.1f} s")
    result: dict[str, object] = {
        "artifact": str(out),
        "method": method,
        "forget": [parent.class_names[c] for c in request.classes],
        "unlearn_seconds": round(seconds, 3),
    }
    if origin.forgotten:
        result["forgotten_before"] = [parent.class_names[c] for c in origin.forgotten]
    show(result, as_json=as_json)


def asked(forget: str, class_names: Sequence[str], origin: Origin) -> ForgetRequest:
    """Return the request that `--forget` makes of a model with this past.

    Raises:
        InputError: see `parse_forget`; or a class is forgotten already, or none would be left.
    """
    request = parse_forget(forget, class_names)
    again = [class_names[c] for c in request.classes if c in origin.forgotten]
    if again:
        raise InputError(f"forget: the model has forgotten {', '.join(again)} already")
    if len(request.classes) + len(origin.forgotten) == len(class_names):
        raise InputError("forget: no class would be left, counting those forgotten before")
    return request


def resolve(base: Method, config: Path | None, settings: list[str]) -> Method:
    """Return `base` with the settings of a YAML file and of `key=value` texts put on top.

    Raises:
        InputError: an unknown key, or a value of another type; all of them in one line.
    """
    given = {} if config is None else _read_yaml(config)
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: expected key=value")
        given[key] = _read_value(text, value)
    known = [f.name for f in fields(base)]  # type: ignore[arg-type]  # a dataclass, see Method
    unknown = [key for key in given if key not in known]
    if unknown:
        raise InputError(f"unknown setting {', '.join(unknown)}; expected {', '.join(known)}")
    values = {name: getattr(base, name) for name in known} | given
    try:
        return TypeAdapter(type(base)).validate_python(values)
    except ValidationError as error:
        lines = [
            f"{(*e['loc'], 'setting')[0]}: {e['msg']}" for e in error.errors(include_url=False)
        ]
        raise InputError("; ".join(lines)) from error


def _read_value(text: str, value: str) -> object:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"--set {text}: the value is not readable YAML") from error


def _read_yaml(config: Path) -> dict[str, object]:
    try:
        given = yaml.safe_load(config.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{config}: not readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise InputError(f"{config}: expected a mapping of settings")
    return given
