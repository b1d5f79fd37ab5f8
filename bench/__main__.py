"""`python -m bandstop.bench NAME`: a table of benchmarks, each imported only when asked for."""

import importlib
import sys
from collections.abc import Sequence

import typer

from bandstop.cli.main import INTERRUPTED, USAGE, explain

BENCHMARKS = {
    "classes": "bandstop.bench.classes:app",
    "edit": "bandstop.bench.edit:app",
    "photographs": "bandstop.bench.photographs:app",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and return the exit code; an expected error is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        typer.echo(f"usage: python -m bandstop.bench {{{','.join(BENCHMARKS)}}} [OPTIONS]")
        return 0
    if name not in BENCHMARKS:
        typer.echo(
            f"error: no benchmark {name!r}; expected one of {', '.join(BENCHMARKS)}", err=True
        )
        return USAGE
    return run(name, arguments[1:])


def run(name: str, arguments: Sequence[str]) -> int:
    """Import and run one benchmark; return its exit code."""
    module, _, attribute = BENCHMARKS[name].partition(":")
    try:
        command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        outcome = command.main(
            args=list(arguments), prog_name=f"bandstop.bench {name}", standalone_mode=False
        )
        return outcome if isinstance(outcome, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except typer.TyperException as error:
        typer.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except Exception as error:
        typer.echo(f"error: {explain(error)}", err=True)
        return int(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    sys.exit(main())
