"""`bandstop export`: turn an artifact into a release."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bandstop.cli.classes import classes_of
from bandstop.cli.export_precision import Given, images_for, samples_of
from bandstop.cli.output import show
from bandstop.edit.artifact import load_artifact
from bandstop.edit.storage import refuse_existing
from bandstop.export.forget_sets import parse_sets
from bandstop.export.measure_asks import MOST
from bandstop.export.measure_record import MeasuredRecord
from bandstop.export.precision_record import PrecisionRecord
from bandstop.export.release import Options, export_release
from bandstop.export.spec import ExportSpec

app = typer.Typer(add_completion=False)


@app.command(name="export")
def run(
    artifact: Annotated[Path, typer.Argument(help="The folder that bandstop unlearn wrote.")],
    mode: Annotated[
        Literal["gated", "baked"],
        typer.Option(help="Whether each request names the class to forget, or the weights do."),
    ],
    out: Annotated[Path, typer.Option(help="The release folder to write; must not exist.")],
    forget: Annotated[
        str | None,
        typer.Option(help="Classes whose gates are baked in; only to bake a wf-net artifact."),
    ] = None,
    forget_slots: Annotated[
        int, typer.Option(help="Gated: how many classes each request names.")
    ] = 1,
    allow_none: Annotated[
        bool, typer.Option("--allow-none", help="Gated: let requests ask to forget nothing.")
    ] = False,
    always_forget: Annotated[
        str | None, typer.Option(help="Gated: classes that every request forgets.")
    ] = None,
    forget_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLASS,..",
            help="Gated: a name that requests may give for several classes; again for more.",
        ),
    ] = None,
    mask_logits: Annotated[
        bool,
        typer.Option(
            "--mask-logits",
            help="Switch the logits of --always-forget off as well: hides, does not forget more.",
        ),
    ] = False,
    input_type: Annotated[
        Literal["float32", "uint8"],
        typer.Option("--input", help="Pixels in a request: [0, 1] NCHW, or bytes NHWC."),
    ] = "float32",
    max_batch_size: Annotated[int, typer.Option(help="The largest batch that is served.")] = 64,
    table: Annotated[
        Literal["float32", "float16", "uint16"],
        typer.Option(help="Gated: how masks are stored; with 16 bits the file is smaller."),
    ] = "float32",
    precision: Annotated[
        Literal["float32", "fp16", "int8"],
        typer.Option(help="Of the file's numbers; below float32 forgetting is measured again."),
    ] = "float32",
    data: Annotated[
        str | None,
        typer.Option(help="Compare and measure the file on the test images of this data set."),
    ] = None,
    measure: Annotated[
        int | None,
        typer.Option(min=0, help=f"How many answers to measure at most (else {MOST}); 0 for all."),
    ] = None,
    calibrate: Annotated[
        int | None, typer.Option(help="int8: how many training images to calibrate with.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="int8: draws these images.")] = None,
    forget_rise: Annotated[
        float | None,
        typer.Option(help="fp16, int8: how much forget_acc may rise, as a fraction."),
    ] = None,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow the artifact to import your own module.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export an artifact to ONNX, compare it with PyTorch, write a release.

    Example: bandstop export wf-artifact --mode gated --out release
    """
    refuse_existing(out)
    loaded = load_artifact(artifact, trust_factory=trust_factory)
    names = loaded.model.class_names
    spec = ExportSpec(
        mode=mode,
        forget=classes_of("--forget", forget, names),
        forget_slots=forget_slots,
        allow_none=allow_none,
        always_forget=classes_of("--always-forget", always_forget, names),
        mask_logits=mask_logits,
        forget_sets=parse_sets(forget_set or (), names),
        input=input_type,
        precision=precision,
        max_batch_size=max_batch_size,
        table=table,
    )
    given = Given(data, measure, calibrate, seed, forget_rise)
    measured_on, lowering = images_for(loaded, spec, given)
    samples = None if measured_on is None else samples_of(measured_on)
    options = Options(images=samples, measure=measured_on, lowering=lowering)
    record = export_release(loaded, spec, out, options).record
    show(
        {
            "release": str(out),
            "name": record.name,
            "mode": record.mode,
            "digest": record.files["model.onnx"].sha256,
            "parity_max_abs": record.parity.max_abs,
            "parity_compared": record.parity.compared,
            **_accuracies(record.measured),
            **_precision(record.precision),
        },
        as_json=as_json,
    )


def _accuracies(measured: MeasuredRecord | None) -> dict[str, object]:
    if measured is None:
        return {}
    shown = measured.model_dump(include={"forget_acc", "worst_forget_acc", "retain_acc"})
    return {**shown, "answers": measured.forget_images + measured.retain_images}


def _precision(precision: PrecisionRecord | None) -> dict[str, object]:
    if precision is None:
        return {}
    shown = {"forget_acc_float32", "retain_acc_float32", "mean_abs", "top1_agreement"}
    return {"precision": precision.kind, **precision.model_dump(include=shown)}
