"""`python -m bandstop.bench NAME`: a table of benchmarks, each imported only when asked for."""

import sys
from collections.abc import Sequence

import typer

from bandstop.cli.main import USAGE, run

BENCHMARKS = {
    "classes": "bandstop.bench.classes:app",
    "client": "bandstop.bench.client:app",
    "edit": "bandstop.bench.edit:app",
    "export": "bandstop.bench.export:app",
    "few-samples": "bandstop.bench.few_samples:app",
    "graph": "bandstop.bench.graph:app",
    "instances": "bandstop.bench.instances:app",
    "last-stage": "bandstop.bench.last_stage:app",
    "photographs": "bandstop.bench.photographs:app",
    "reestimate": "bandstop.bench.reestimate:app",
    "serve": "bandstop.bench.serve:app",
    "ulira": "bandstop.bench.ulira:app",
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
    return run(f"python -m bandstop.bench {name}", BENCHMARKS[name], arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
