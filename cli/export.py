"""`bandstop export`: turn an artifact into a release."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bandstop.cli.output import show
from bandstop.edit.artifact import load_artifact
from bandstop.edit.request import parse_forget
from bandstop.export.release import export_release
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
    input_type: Annotated[
        Literal["float32", "uint8"],
        typer.Option("--input", help="Pixels in a request: [0, 1] NCHW, or bytes NHWC."),
    ] = "float32",
    max_batch_size: Annotated[int, typer.Option(help="The largest batch that is served.")] = 64,
    trust_factory: Annotated[
        bool, typer.Option("--trust-factory", help="Allow the artifact to import your own module.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export an artifact to ONNX, compare it with PyTorch, write a release.

    Example: bandstop export wf-artifact --mode gated --out release
    """
    loaded = load_artifact(artifact, trust_factory=trust_factory)
    names = loaded.model.class_names
    spec = ExportSpec(
        mode=mode,
        forget=() if forget is None else parse_forget(forget, names).classes,
        forget_slots=forget_slots,
        allow_none=allow_none,
        always_forget=() if always_forget is None else parse_forget(always_forget, names).classes,
        input=input_type,
        max_batch_size=max_batch_size,
    )
    record = export_release(loaded, spec, out).record
    show(
        {
            "release": str(out),
            "name": record.name,
            "mode": record.mode,
            "digest": record.files["model.onnx"].sha256,
            "parity_max_abs": record.parity.max_abs,
            "parity_compared": record.parity.compared,
        },
        as_json=as_json,
    )
