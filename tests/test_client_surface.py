"""The client as its users meet it: documentation that runs, types, the weight of the import."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bandstop.client import AsyncClient, Client
from tests.client_fakes import NumpyModel, Servicer, grpc_server, picture

DOCS = Path(__file__).resolve().parents[1] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_examples_of_the_documentation_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(2)).save(tmp_path / "cat.png")
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    with grpc_server(Servicer(NumpyModel(name="animals", slots=2, allow_none=True))) as address:
        for example in EXAMPLES:
            exec(example.replace("127.0.0.1:8001", address), known)
    printed = capsys.readouterr().out.splitlines()
    told = [
        line.split("  # ")[1]
        for line in "".join(EXAMPLES).splitlines()
        if "print(" in line and "  # " in line
    ]
    assert printed[: len(told)] == told
    assert "no class 'unicorn'; expected one of 5 names" in printed[len(told)]
    assert len(EXAMPLES) == 8


def public(kind: type) -> dict[str, inspect.Signature | None]:
    """The names of a class that users see, with the parameters of its methods."""
    found: dict[str, inspect.Signature | None] = {}
    for name, value in vars(kind).items():
        if not name.startswith("_"):
            found[name] = None if isinstance(value, property) else inspect.signature(value)
    return found


def test_both_clients_have_the_same_surface() -> None:
    ours, theirs = public(Client), public(AsyncClient)
    assert list(ours) == list(theirs)
    for name, signature in ours.items():
        other = theirs[name]
        assert (signature is None) == (other is None)
        if signature is not None and other is not None:
            parameters = [(p.name, p.default, p.kind) for p in signature.parameters.values()]
            assert parameters == [(p.name, p.default, p.kind) for p in other.parameters.values()]
    made = [list(inspect.signature(kind).parameters) for kind in (Client, AsyncClient)]
    assert made[0] == made[1]


USER = """
from typing import assert_type
import numpy as np
from numpy.typing import NDArray
from bandstop.client import AsyncClient, Client, InvalidImage, Prediction, ServedModel, Tls

def blocking() -> None:
    with Client("h:1", "m", always_forget={1}, headers={"a": "b"}, tls=Tls()) as client:
        assert_type(client, Client)
        found = client.classify(["a.png", b"x"], forget=["cat", 3, None], top_k=1)
        assert_type(found, list[Prediction])
        assert_type(client.logits(np.zeros((3, 4, 4), np.float32)), NDArray[np.float32])
        assert_type(client.classes, tuple[str, ...])
        assert_type(client.metadata(), ServedModel)
        assert_type(client.ready(), bool)
        assert_type(next(client.stream(["a.png"])), Prediction)
        assert_type(next(client.outcomes(["a.png"])), Prediction | InvalidImage)

async def waiting() -> None:
    async with AsyncClient("h:1", "m") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.classify("a.png", forget={1, 2}), list[Prediction])
        assert_type(await client.logits("a.png"), NDArray[np.float32])
        assert_type(await client.classes, tuple[str, ...])
        assert_type(await client.metadata(), ServedModel)
        assert_type(await client.ready(), bool)
        async for prediction in client.stream(["a.png"]):
            assert_type(prediction, Prediction)
"""


def test_a_users_program_under_strict_mypy_sees_no_any(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text(USER)
    flags = [
        "--strict",
        "--disallow-any-expr",
        "--follow-imports=silent",
        "--ignore-missing-imports",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", *flags, str(file)],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.stdout.startswith("Success"), done.stdout + done.stderr


WEIGH = """
import json, sys, time
start = time.process_time()
{}
seconds = time.process_time() - start
late = sorted({{"PIL", "pydantic", "bandstop.client.shm"}} & set(sys.modules))
memory = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
print(json.dumps([seconds, memory, late]))
"""


def test_the_import_costs_little_more_than_that_of_tritons_client() -> None:
    weights: dict[str, list[list[float]]] = {
        "import tritonclient.grpc": [],
        "from bandstop.client import Client": [],
    }
    for _ in range(7):
        for line, found in weights.items():
            done = subprocess.run(
                [sys.executable, "-c", WEIGH.format(line)],
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, memory, late = json.loads(done.stdout)
            assert late == []
            found.append([seconds, memory])
    bare, ours = (
        [min(column) for column in zip(*found, strict=True)] for found in weights.values()
    )
    assert ours[0] <= 1.25 * bare[0]
    assert ours[1] <= 1.25 * bare[1]
