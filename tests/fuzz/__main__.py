"""Feed one of the harnesses for some seconds: `python -m tests.fuzz graphs 200`.

A crash, a failed assertion, five seconds for one input or more than a gigabyte ends it with another
exit code than 0, and the path of that input is told.
"""

import importlib
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HARNESSES = ("manifest", "weights", "graphs")


def main(argv: Sequence[str]) -> int:
    """Run the harness `argv[0]` for `argv[1]` seconds; the fuzzer ends the process itself."""
    name, seconds = argv
    if name not in HARNESSES:
        sys.stderr.write(f"no harness {name!r}; expected one of {', '.join(HARNESSES)}\n")
        return 2
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.stderr.write("error: atheris is not installed; pip install --group fuzz\n")
        return 1
    with atheris.instrument_imports(include=["bandstop"]):
        harness = importlib.import_module(f"tests.fuzz.{name}")
    corpus, kept = tempfile.mkdtemp(), tempfile.mkdtemp()
    for number, seed in enumerate(harness.seeds()):
        assert harness.check(seed), "a seed is refused"
        (Path(corpus) / str(number)).write_bytes(seed)
    limit = 1024 + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB
    options = [f"-max_total_time={seconds}", "-timeout=5", f"-rss_limit_mb={limit}"]
    options += [f"-artifact_prefix={kept}/", "-print_final_stats=1"]

    def one(data: bytes) -> None:
        harness.check(data)  # what it returns would mean something to the fuzzer

    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
