"""`bandstop train`: train a base classifier and write a checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.classes import classes_of
from bandstop.cli.device import device_of
from bandstop.cli.output import show
from bandstop.edit.accuracy import accuracy_on
from bandstop.edit.arch import parse_arch
from bandstop.edit.checkpoint import load_checkpoint, save_checkpoint
from bandstop.edit.data import load_data
from bandstop.edit.errors import InputError
from bandstop.edit.seeds import MAX_SEED
from bandstop.edit.storage import refuse_existing
from bandstop.edit.train import recipe_for, train, validation_accuracy, without_classes

app = typer.Typer(add_completion=False)


@app.command(name="train")
def run(
    arch: Annotated[
        str, typer.Option(help="resnet, vgg, vit, torchvision:NAME, timm:NAME or module:function.")
    ],
    data: Annotated[
        str, typer.Option(help="digits, parquet:FILE, imagefolder:DIR, torchvision:NAME@ROOT.")
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint to write; must not exist.")],
    arch_arg: Annotated[
        list[str] | None, typer.Option(help="key=value for the network, e.g. width=32.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's.")] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0, help="Instead of the recipe's.")
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(help="Leave out classes, as cat,3,#4: the retrained reference of forgetting."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Start from the weights of this checkpoint.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Stretch images to this height and width.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seeds split, weights, order, augmentation.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from OUT.partial of an interrupted run.")
    ] = False,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow --arch to import your own module.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a base classifier.

    Example: bandstop train --arch resnet --data digits --out base.safetensors

    With --without, accuracies are those of the classes that are left.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not resume:
        raise InputError(f"{partial} is left of an interrupted run; say --resume or remove it")
    where = device_of(device)
    chosen = parse_arch(arch, arch_args(arch_arg or []))
    splits = load_data(data, seed=seed, image_size=image_size)
    left_out = classes_of("--without", without, splits.class_names)
    seen = without_classes(splits, left_out)
    recipe = recipe_for(chosen, splits)
    recipe = replace(
        recipe,
        epochs=recipe.epochs if epochs is None else epochs,
        lr=recipe.lr if lr is None else lr,
        batch=recipe.batch if batch is None else batch,
        label_smoothing=recipe.label_smoothing if label_smoothing is None else label_smoothing,
    )
    start = None if init is None else load_checkpoint(init, trust_factory=trust_factory)
    model = train(
        chosen,
        seen,
        recipe,
        seed=seed,
        device=where,
        start=None if start is None else start.network.state_dict(),
        partial=partial,
        trust_factory=trust_factory,
    )
    from_nothing = recipe if start is None else None
    save_checkpoint(out, model, seed=seed, without=left_out, recipe=from_nothing)
    partial.unlink(missing_ok=True)
    test = splits.test.without_classes(left_out)
    result: dict[str, object] = {
        "checkpoint": str(out),
        "validation_acc": round(validation_accuracy(model, seen), 4),
        "test_acc": round(accuracy_on(model, test), 4) if len(test) else None,
    }
    if left_out:
        result["without"] = [splits.class_names[c] for c in left_out]
    show(result, as_json=as_json)


def arch_args(texts: Sequence[str]) -> dict[str, str]:
    """Return the `key=value` of --arch-arg.

    Raises:
        InputError: a text is none.
    """
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--arch-arg {text}: expected key=value")
        pairs[key] = value
    return pairs
