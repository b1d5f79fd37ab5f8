"""SVD unlearning of ImageNet classes from one photograph each, judged on photographs never used.

The network is a thousand-class EfficientNet-Lite0 with its published weights. What is forgotten is
seen in one photograph and its crops; whether the class is forgotten is read on other photographs of
it, and whether the rest is kept on photographs that neither the edit nor its choice has seen.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.edit.accuracy import accuracy, logits
from bandstop.edit.arch import build
from bandstop.edit.augment import crops
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.decode import store
from bandstop.edit.edits import edited
from bandstop.edit.errors import InputError, NothingForgottenError
from bandstop.edit.images import DataSplits, ImageSet
from bandstop.edit.load import read_weights
from bandstop.edit.method import Splits
from bandstop.edit.methods import configured, preset
from bandstop.edit.request import ForgetRequest
from bandstop.edit.resources import process_memory
from bandstop.edit.svd import SVD

app = typer.Typer(add_completion=False)
NETWORK = "timm:tf_efficientnet_lite0"
COMPARED = 100  # photographs of other classes that grid points are compared on
TESTED = 300  # photographs of other classes for the result
_CLASS = re.compile(r"_(\d+)$")  # at the end of a file's name


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one class.

    Attributes:
        forget: the class.
        before: its mean probability on the held-out photographs of it.
        after: the same, edited.
        used_after: on the photograph that it was forgotten by, edited.
        retain_before: accuracy on the held-out photographs of other classes.
        retain_after: the same, edited.
        seconds: that the edit took.
        peak_bytes: memory of the process at its highest so far.
    """

    forget: int
    before: float
    after: float
    used_after: float
    retain_before: float
    retain_after: float
    seconds: float
    peak_bytes: int


@app.command(name="photographs")
def run(
    weights: Annotated[Path, typer.Option(help="EfficientNet-Lite0's published weights.")],
    photos: Annotated[Path, typer.Option(help="A parquet file, one photograph a class.")],
    held_out: Annotated[
        Path, typer.Option(help="A folder of other photographs, NAME_CLASS.jpg, with the index.")
    ],
    classes: Annotated[int, typer.Option(min=1, help="How many of the held-out classes.")] = 10,
    preset_name: Annotated[str, typer.Option("--preset", help="Of svd.")] = "efficientnet-lite0",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the division of the photographs.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Forget classes one at a time and print what is left of them on photographs never used."""
    given = given_settings(None, [*(settings or []), f"seed={seed}"])
    method = configured(preset("svd", preset_name), given)
    if not isinstance(method, SVD):
        raise InputError(f"expected a preset of svd, got one of {method.name}")
    data = data_for(NETWORK, f"parquet:{photos}", seed=seed)
    model = fold_batchnorm(efficientnet(weights, data))
    others = labelled(held_out, data)
    chosen = list(dict.fromkeys(others.labels.tolist()))[:classes]
    outcomes = []
    for c in chosen:
        try:
            outcomes.append(forget(model, method, c, data.train, others, seed))
        except NothingForgottenError as error:
            say(f"{data.class_names[c]}: {error}")
            continue
        o = outcomes[-1]
        say(f"{data.class_names[c]}: p {o.before:.3f} -> {o.after:.3f}, {o.seconds:.0f} s")
    if as_json:
        typer.echo(json.dumps([asdict(o) for o in outcomes]))
    else:
        Console().print(table(outcomes, data.class_names))


def efficientnet(weights: Path, data: DataSplits) -> Classifier:
    """Return EfficientNet-Lite0 as timm builds it, with weights that come in the same order."""
    arch, prep = Arch(NETWORK), data.preprocess
    network = build(arch, len(data.class_names), prep.channels, prep.size)
    published, own = read_weights(weights), network.state_dict()
    if [v.shape for v in published.values()] != [v.shape for v in own.values()]:
        raise InputError(f"{weights}: not the weights of EfficientNet-Lite0 for 1,000 classes")
    network.load_state_dict(dict(zip(own, published.values(), strict=True)))
    return Classifier(network, arch, prep, data.class_names)


def labelled(folder: Path, data: DataSplits) -> ImageSet:
    """Return the photographs in `folder` with the class index at the end of each file's name."""
    found = [(file, _CLASS.search(file.stem)) for file in sorted(folder.glob("*.jpg"))]
    files = [file for file, match in found if match]
    labels = torch.tensor([int(match[1]) for _, match in found if match])
    if not files or int(labels.max()) >= len(data.class_names):
        raise InputError(f"{folder}: no photographs called NAME_CLASS.jpg")
    images = store(files, [str(file) for file in files], data.preprocess)
    return ImageSet(images, torch.arange(len(files)), labels)


def forget(
    model: Classifier, method: SVD, c: int, photos: ImageSet, others: ImageSet, seed: int
) -> Outcome:
    """Return what is left of class `c` when it is forgotten by its one photograph in `photos`.

    `photos` of other classes are divided: some are held out for the result, some grid points are
    compared on, the rest is retained. `others` are only for the result.
    """
    generator = torch.Generator().manual_seed(seed)
    used, rest = photos.of_classes([c]), photos.without_classes([c])
    order = torch.randperm(len(rest), generator=generator)
    tested, compared = rest.take(order[:TESTED]), rest.take(order[TESTED : TESTED + COMPARED])
    shown = crops(used, 16, generator)
    data = Splits(used, rest.take(order[TESTED + COMPARED :]), joined(compared, shown))
    started = time.perf_counter()
    edit = method(model, ForgetRequest((c,)), data)
    seconds = time.perf_counter() - started
    own = others.of_classes([c])
    changed = edited(model, edit, ())
    before, after = logits(model, own), logits(changed, own)
    kept_before, kept_after = logits(model, tested), logits(changed, tested)
    return Outcome(
        forget=c,
        before=_probability(before, c),
        after=_probability(after, c),
        used_after=_probability(logits(changed, used), c),
        retain_before=accuracy(kept_before.argmax(1), tested.labels),
        retain_after=accuracy(kept_after.argmax(1), tested.labels),
        seconds=seconds,
        peak_bytes=process_memory("VmHWM"),
    )


def joined(a: ImageSet, b: ImageSet) -> ImageSet:
    """Return the images of `a` and `b` as one set in memory."""
    pixels = torch.cat([part.images[part.index] for part in (a, b)])
    return ImageSet(pixels, torch.arange(len(pixels)), torch.cat([a.labels, b.labels]))


def table(outcomes: Sequence[Outcome], names: Sequence[str]) -> Table:
    """Return the outcomes and what they come to as a table."""
    made = Table(
        "forgotten", "p before", "p", "p, photo used", "others before", "others", "seconds"
    )
    for o in outcomes:
        made.add_row(
            names[o.forget],
            *(f"{p:.3f}" for p in (o.before, o.after, o.used_after)),
            *(f"{p:.1%}" for p in (o.retain_before, o.retain_after)),
            f"{o.seconds:.0f}",
        )
    below = sum(o.after < 0.1 for o in outcomes)
    made.add_section()
    peak = max((o.peak_bytes for o in outcomes), default=0) / 2**30
    made.add_row(f"p below 0.1 in {below} of {len(outcomes)}; {peak:.1f} GiB at the highest")
    return made


def _probability(scores: Tensor, c: int) -> float:
    return float(scores.double().softmax(1)[:, c].mean())
