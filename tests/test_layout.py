"""Who may import whom, and what a wheel holds."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "edit": set(),
    "export": {"edit", "client"},
    "serve": {"client"},
    "client": set(),
    "cli": {"edit", "export", "serve", "client"},
    "bench": {"edit", "export", "serve", "client", "cli"},
}
HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "safetensors"}
MAY_NOT_LOAD = {"client": HEAVY, "serve": {"torch", "torchvision", "timm", "safetensors"}}


def imports(file: Path) -> list[str]:
    """Return the full names of all modules that `file` imports, at any depth of its code."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_follow_the_flow(part: str) -> None:
    wrong = []
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            top, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if top == "bandstop" and other not in MAY_IMPORT[part] | {part}:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
            if top in MAY_NOT_LOAD.get(part, set()) and "backends" not in file.parts:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert wrong == []


@pytest.mark.parametrize(
    "code",
    [
        "import bandstop.client",
        "import bandstop.serve.triton",
        "from bandstop.cli.main import main; main(['--help'])",
        "from bandstop.cli.main import main; main(['predict', '--help'])",
    ],
)
def test_light_commands_load_nothing_heavy(code: str) -> None:
    check = f"import sys; {code}; print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files that git tracks; without git there is nothing to compare with."""
    listing = ["git", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(listing, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_a_wheel_holds_every_tracked_file_of_the_parts(tmp_path: Path, tracked: list[str]) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out"
    export = ["git", "-C", str(ROOT), "checkout-index", "--all", f"--prefix={copy}{os.sep}"]
    subprocess.run(export, check=True, capture_output=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), "."]
    subprocess.run(build, check=True, capture_output=True, cwd=copy)
    (wheel,) = out.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    parts = (*MAY_IMPORT, "triton_repo")
    wanted = {f"bandstop/{name}" for name in tracked if name.split("/")[0] in parts}
    assert wanted
    assert wanted - inside == set()
