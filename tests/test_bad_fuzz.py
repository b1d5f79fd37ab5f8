"""What is fuzzed for minutes by `make check-long`, for a moment: seeds and a few random changes."""

import importlib
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.fuzz.__main__ import HARNESSES, main


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.{request.param}")


def test_what_our_own_writers_write_is_accepted(harness: ModuleType) -> None:
    assert all(harness.check(seed) for seed in harness.seeds())


def test_what_they_did_not_write_is_refused_or_as_it_should_be(harness: ModuleType) -> None:
    chance = random.Random(0)
    seeds = harness.seeds()
    accepted = [harness.check(changed(chance.choice(seeds), chance)) for _ in range(300)]
    assert not all(accepted)
    assert not harness.check(b"")


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return `data` with some bytes flipped, cut out, doubled or made extreme."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        size = chance.randint(1, 16)
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + size :]
        elif kind == 2:
            data = data[: at + size] + data[at:]
        elif kind == 3:
            data = data[:at] + chance.choice((b"\xff", b"\0", b"\x7f")) * size + data[at + size :]
        else:
            data = data[:at] + chance.choice((b"-1", b"1e999", b'"', b"{", b"]")) + data[at + 2 :]
    return data


def test_without_a_fuzzer_the_long_run_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert main(["graphs", "1"]) == 1
    assert capsys.readouterr().err.startswith("error: atheris is not installed")
    assert main(["nothing", "1"]) == 2


def test_the_long_run_brings_its_fuzzer() -> None:
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    recipe = makefile.partition("\ncheck-long:")[2].partition("\n\n")[0]
    before, fuzzing, _ = recipe.partition("-m tests.fuzz")
    assert fuzzing
    assert "pip install -q --group fuzz\n" in before
