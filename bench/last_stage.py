"""WF-Net with a thousand rows, one for each class of ImageNet, by masks on the last stage alone.

What lies before the masked stage is the same for every row. It is computed once for each
photograph, and WF-Net trains on what the stage reads. There is one photograph a class to train on;
the result is read on photographs that were never used.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bandstop.bench.photographs import NETWORK, efficientnet, labelled
from bandstop.bench.workload import Activations
from bandstop.cli.output import say
from bandstop.cli.settings import given_settings
from bandstop.edit.accuracy import logits
from bandstop.edit.augment import crops
from bandstop.edit.batchnorm import fold_batchnorm
from bandstop.edit.classifier import Arch, Classifier
from bandstop.edit.data_for import data_for
from bandstop.edit.edits import GateEdit, edited
from bandstop.edit.errors import InputError
from bandstop.edit.images import ImageSet, Preprocess
from bandstop.edit.method import Splits
from bandstop.edit.methods import configured, preset
from bandstop.edit.progress import progress
from bandstop.edit.resources import process_memory
from bandstop.edit.unlearn import every_class
from bandstop.edit.wf_net import WFNet

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the rows do on photographs that were never used.

    Attributes:
        photographs: how many; each under its own row, and under `others` random rows.
        others: see `photographs`.
        own_before: mean probability of the true class, no mask.
        own: the same under the row of the class.
        below: of the photographs, how many have a probability below 0.1 there.
        top1_before: share of right answers, no mask.
        top1_own: under the row of the class.
        top1_others: under rows of other classes.
        seconds: of the training, without what lies before the stage.
        best_step: after which the masks were taken.
        peak_bytes: memory of the process at its highest.
    """

    photographs: int
    others: int
    own_before: float
    own: float
    below: int
    top1_before: float
    top1_own: float
    top1_others: float
    seconds: float
    best_step: int
    peak_bytes: int


@app.command(name="last-stage")
def run(
    weights: Annotated[Path, typer.Option(help="EfficientNet-Lite0's published weights.")],
    photos: Annotated[Path, typer.Option(help="A parquet file, one photograph a class.")],
    held_out: Annotated[Path, typer.Option(help="A folder of NAME_CLASS.jpg, as in photographs.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value.")] = None,
    shown: Annotated[int, typer.Option(min=1, help="Crops of each photograph to train on.")] = 4,
    others: Annotated[int, typer.Option(min=1, help="Other rows that each is read under.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of crops, batches and rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a thousand rows on the last stage and read them on photographs never used."""
    given = given_settings(None, [*(settings or []), f"seed={seed}"])
    method = configured(preset("wf-net", "efficientnet-lite0"), given)
    if not isinstance(method, WFNet):
        raise InputError(f"expected settings of wf-net, got those of {method.name}")
    data = data_for(NETWORK, f"parquet:{photos}", seed=seed)
    model = fold_batchnorm(efficientnet(weights, data))
    generator = torch.Generator().manual_seed(seed)
    before, stage = divided(model)
    seen = what_it_reads(before, crops(data.train, shown, generator))
    held_back = what_it_reads(before, crops(data.train, 1, generator))
    test = what_it_reads(before, labelled(held_out, data))
    say(f"last stage: {len(seen)} crops to train on, {len(test)} photographs for the result")
    outcome = trained(method, stage, Splits(seen, seen.of_classes([]), held_back), test, others)
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    else:
        Console().print(table(outcome))


def divided(model: Classifier) -> tuple[Classifier, Classifier]:
    """Return what lies before the last stage of EfficientNet-Lite0, and the rest with the head.

    What the first answers is what the second takes for its images, (n, channels, h, w).
    """
    parts = dict(model.network.named_children())
    blocks = parts["blocks"]
    assert isinstance(blocks, nn.Sequential)  # so timm builds it
    first = nn.Sequential(parts["conv_stem"], parts["bn1"], *blocks[:-1])
    tail = ("conv_head", "bn2", "global_pool", "classifier")
    rest = nn.Sequential(blocks[-1], *(parts[name] for name in tail))
    with torch.no_grad():
        size = model.preprocess.size
        shape = first(torch.zeros(1, model.preprocess.channels, *size)).shape
    prep = Preprocess((shape[2], shape[3]), shape[1], (0.0,) * shape[1], (1.0,) * shape[1])
    stage = Classifier(rest.eval(), Arch("last-stage"), prep, model.class_names, bn_folded=True)
    return model.replaced(first.eval()), stage


def what_it_reads(before: Classifier, images: ImageSet) -> ImageSet:
    """Return what the last stage reads of `images`, as images with the same labels."""
    parts: list[Tensor] = []
    with torch.no_grad():
        for image, _ in progress(list(images.batches(50)), "before the stage"):
            parts.append(before(image))
    return ImageSet(Activations(torch.cat(parts)), torch.arange(len(images)), images.labels)


def trained(method: WFNet, stage: Classifier, data: Splits, test: ImageSet, others: int) -> Outcome:
    """Return what the rows that `method` trains on `data` do to `test`."""
    started = time.perf_counter()
    edit = method(stage, every_class(stage), data)
    seconds = time.perf_counter() - started
    plain = logits(stage, test)
    own, elsewhere = under_rows(stage, edit, test, others, method.seed)
    p = _probabilities(own, test.labels)
    return Outcome(
        photographs=len(test),
        others=others,
        own_before=float(_probabilities(plain, test.labels).mean()),
        own=float(p.mean()),
        below=int((p < 0.1).sum()),
        top1_before=_top1(plain, test.labels),
        top1_own=_top1(own, test.labels),
        top1_others=_top1(elsewhere, test.labels.repeat_interleave(others)),
        seconds=seconds,
        best_step=int(str(edit.found["best_step"])),
        peak_bytes=process_memory("VmHWM"),
    )


def under_rows(
    stage: Classifier, edit: GateEdit, test: ImageSet, others: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return logits (n, C) under each image's own row, and (n * others, C) under random others."""
    generator = torch.Generator().manual_seed(seed)
    own, elsewhere = [], []
    for i, label in enumerate(test.labels.tolist()):
        one = test.take(torch.tensor([i]))
        drawn = torch.randint(1, stage.num_classes, (others,), generator=generator)
        rows = [(label + int(step)) % stage.num_classes for step in drawn]
        own.append(logits(edited(stage, edit, (label,)), one))
        elsewhere += [logits(edited(stage, edit, (row,)), one) for row in rows]
    return torch.cat(own), torch.cat(elsewhere)


def table(o: Outcome) -> Table:
    """Return the outcome as a table."""
    made = Table(f"{o.photographs} photographs never used", "no mask", "own row", "other rows")
    made.add_row("p of the class", f"{o.own_before:.3f}", f"{o.own:.3f}", "")
    made.add_row("top-1", f"{o.top1_before:.1%}", f"{o.top1_own:.1%}", f"{o.top1_others:.1%}")
    made.add_section()
    made.add_row(f"p below 0.1 in {o.below} of {o.photographs}")
    made.add_row(
        f"{o.seconds:.0f} s, step {o.best_step}, {o.peak_bytes / 2**30:.1f} GiB at the highest"
    )
    return made


def _probabilities(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.double().softmax(1).gather(1, labels[:, None])[:, 0]


def _top1(scores: Tensor, labels: Sequence[int] | Tensor) -> float:
    return float((scores.argmax(1) == torch.as_tensor(labels)).double().mean())
