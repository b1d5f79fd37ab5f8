"""The command `bandstop`: a table of subcommands, each imported only when it is asked for."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NamedTuple

import typer


class Subcommand(NamedTuple):
    """Where a subcommand lives (`module:app`) and what it does, for the overview."""

    target: str
    summary: str


COMMANDS = {
    "demo": Subcommand("bandstop.cli.demo:app", "The whole flow on real data with a real Triton."),
    "train": Subcommand("bandstop.cli.train:app", "Train a base classifier."),
    "unlearn": Subcommand(
        "bandstop.cli.unlearn:app", "Make a classifier forget; write an artifact."
    ),
    "evaluate": Subcommand(
        "bandstop.cli.evaluate:app", "Measure what an artifact forgot; write the evidence."
    ),
    "compare": Subcommand(
        "bandstop.cli.compare:app", "Several evaluations in one table and report."
    ),
    "gate": Subcommand("bandstop.cli.gate:app", "Hold an evaluation against thresholds."),
    "export": Subcommand("bandstop.cli.export:app", "Turn an artifact into an ONNX release."),
    "keygen": Subcommand("bandstop.cli.keygen:app", "Make a pair of keys to sign with."),
    "sign": Subcommand("bandstop.cli.sign:app", "Sign a release, and say what it replaces."),
    "statement": Subcommand(
        "bandstop.cli.statement:app", "Tell an auditor what was done and measured, signed."
    ),
    "verify": Subcommand(
        "bandstop.cli.verify:app", "Check an artifact, release, served version or statement."
    ),
    "repo": Subcommand("bandstop.cli.repo:app", "Publish releases into a Triton model repository."),
    "serve": Subcommand("bandstop.cli.serve:app", "Start a real Triton on a model repository."),
    "predict": Subcommand("bandstop.cli.predict:app", "Classify images through a served model."),
    "watch": Subcommand("bandstop.cli.watch:app", "Watch a running server live."),
    "load": Subcommand("bandstop.cli.load:app", "Load a served model; latency and failures."),
}
# what is missing when a part is installed without the extra that it needs
EXTRAS = {
    "torch": "edit",
    "torchvision": "edit",
    "timm": "edit",
    "safetensors": "edit",
    "sklearn": "edit",
    "pyarrow": "edit",
    "jinja2": "edit",
    "matplotlib": "edit",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "psutil": "serve",
    "cryptography": "sign",
}
USAGE, INTERRUPTED = 2, 130
ABOUT = """usage: bandstop COMMAND [ARGUMENTS]   (bandstop COMMAND --help tells more)

Make a trained image classifier forget classes, export it to ONNX, serve it with Triton."""
EXIT_CODES = """exit codes: 0 ok, 1 error, 2 usage, 3 gate missed, 4 parity failed, 5 integrity,
6 server unreachable or model not served, 7 refused by policy"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an expected error is one line on stderr."""
    # ONNX Runtime reports what it runs to its makers unless told not to before it is imported
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        typer.echo(overview())
        return 0
    if name == "--version":
        typer.echo(f"bandstop, version {version('bandstop')}")
        return 0
    if name not in COMMANDS:
        typer.echo(f"error: no command {name!r}; expected one of {', '.join(COMMANDS)}", err=True)
        return USAGE
    return run(f"bandstop {name}", COMMANDS[name].target, arguments[1:])


def overview() -> str:
    """Return what `bandstop --help` prints; nothing is imported for it."""
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join((ABOUT, "", *lines, "", EXIT_CODES))


def run(program: str, target: str, arguments: Sequence[str]) -> int:
    """Import and run the command at `target`, `module:attribute`; return its exit code."""
    module, _, attribute = target.partition(":")
    try:
        command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        outcome = command.main(args=list(arguments), prog_name=program, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except typer.TyperException as error:
        typer.echo(f"error: {error.format_message()} (see {program} --help)", err=True)
        return error.exit_code
    except Exception as error:
        typer.echo(f"error: {explain(error)}", err=True)
        return int(getattr(error, "exit_code", 1))


def explain(error: Exception) -> str:
    """Return one line for an expected error; raise anything else again, it is a bug of ours.

    Every expected error of the parts carries `exit_code`; a missing package names its extra.
    """
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in EXTRAS:
        extra = EXTRAS[(error.name or "").split(".")[0]]
        return f'{error.name} is not installed; mend it with: pip install "bandstop[{extra}]"'
    if hasattr(error, "exit_code"):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    raise error


if __name__ == "__main__":
    sys.exit(main())
