"""`bandstop train`: train a base classifier and write a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bandstop.cli.output import show
from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.arch import parse_arch
from bandstop.edit.checkpoint import save_checkpoint
from bandstop.edit.data import load_data
from bandstop.edit.errors import InputError
from bandstop.edit.storage import refuse_existing
from bandstop.edit.train import recipe_for, train, validation_accuracy

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
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Stretch images to this height and width.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds split, weights, order, augmentation.")] = 0,
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
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not resume:
        raise InputError(f"{partial} is left of an interrupted run; say --resume or remove it")
    where = _device(device)
    chosen = parse_arch(arch, _pairs(arch_arg or []))
    splits = load_data(data, seed=seed, image_size=image_size)
    recipe = recipe_for(chosen, splits)
    recipe = replace(recipe, epochs=epochs or recipe.epochs, lr=recipe.lr if lr is None else lr)
    model = train(
        chosen,
        splits,
        recipe,
        seed=seed,
        device=where,
        partial=partial,
        trust_factory=trust_factory,
    )
    save_checkpoint(out, model, seed=seed)
    partial.unlink(missing_ok=True)
    show(
        {
            "checkpoint": str(out),
            "validation_acc": round(validation_accuracy(model, splits), 4),
            "test_acc": round(accuracy(logits(model, splits.test).argmax(1), splits.test.labels), 4)
            if len(splits.test)
            else None,
        },
        as_json=as_json,
    )


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--arch-arg {text}: expected key=value")
        pairs[key] = value
    return pairs


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is available here; say --device cpu")
    return name
