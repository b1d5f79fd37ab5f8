"""Bad artifact files, each refused in one line: rows 1-19 of the table of bad inputs.

Part of the rows is elsewhere: 5, 8, 13 in test_artifact, 9 in test_checkpoint, 14 and 15 in
test_cli_verify, 16 and 18 in test_load, devices, sockets and swapped files of 12 in
test_export_verify. Row 20 (archives) does not apply: nothing here unpacks an archive. Row 12's
hard link is refused by `verify`; loading reads a file once and checks the very bytes that it uses.
"""

import contextlib
import gzip
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from bandstop.cli.main import main
from bandstop.edit import tensors
from bandstop.edit.artifact import load_artifact
from bandstop.edit.checkpoint import load_checkpoint
from bandstop.edit.errors import ArtifactError, EditError
from bandstop.edit.load import read_weights
from bandstop.edit.storage import canonical_json, sha256
from tests.releases import gates_artifact, weights_artifact

WANTED = {"w": torch.zeros(2, 3)}


def safe(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a safetensors file with any header: JSON, or bytes as they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: object = (2, 3), offsets: object = (0, 24)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = safetensors.torch.save({"w": torch.arange(6.0).reshape(2, 3)})
ZEROS = bytes(24)
FILES: dict[str, tuple[bytes, str]] = {
    "1 empty": (b"", "truncated, 0 bytes"),
    "1 two bytes": (b"ab", "truncated, 2 bytes"),
    "1 header only": (GOOD[:-24], "not a readable safetensors file"),
    "2 cut by one": (GOOD[:-1], "not a readable safetensors file"),
    "2 one byte more": (GOOD + b"x", "not a readable safetensors file"),
    "3 header of 2^60": (safe(b"{}", length=2**60), "truncated"),
    "3 header of 17 MB": (safe(b" " * (17 << 20)), "the header has 17825792 bytes"),
    "3 deep": (safe(b"[" * 100_000), "not JSON"),
    "3 number without end": (safe(b"1" * 9999), "not JSON"),
    "3 not UTF-8": (safe(b'{"\xff": 1}'), "not JSON"),
    "3 array": (safe([1]), "not a JSON object"),
    "4 overlapping": (
        safe({"w": entry(), "v": entry(offsets=(8, 32))}, bytes(32)),
        "not a readable safetensors",
    ),
    "4 hole": (safe({"w": entry(offsets=(8, 32))}, bytes(32)), "not a readable safetensors"),
    "4 shape and bytes": (safe({"w": entry(shape=(2, 4))}, ZEROS), "not a readable safetensors"),
    "4 dims of 2^62": (safe({"w": entry(shape=(2**62, 4))}, ZEROS), "not a readable safetensors"),
    "4 negative dim": (safe({"w": entry(shape=(-2, -3))}, ZEROS), "not a readable safetensors"),
    "4 unknown type": (safe({"w": entry("F33")}, ZEROS), "not a readable safetensors"),
    "4 name of two lines": (
        safe({"w\nall good": entry(offsets=(8, 32))}, bytes(32)),
        r"w\\nall good",
    ),
    "4 offsets reversed": (safe({"w": entry(offsets=(24, 0))}, ZEROS), "not a readable safe"),
    "4 no description": (safe({"w": 1}, ZEROS), "not a readable safetensors"),
    "5 named twice": (
        safe(b'{"w":%b,"w":%b}' % ((json.dumps(entry()).encode(),) * 2), ZEROS),
        "names a tensor twice: 'w'",
    ),
    "19 page": (b"<!DOCTYPE html><title>404</title>", "truncated"),
    "19 pointer": (b"version https://git-lfs.github.com/spec/v1\n", "looks like a Git LFS pointer"),
    "19 packed": (gzip.compress(GOOD), "truncated"),
    "16 pickle": (pickle.dumps({"w": 1}), "truncated"),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_safetensors_file_is_refused_and_costs_nothing(case: str) -> None:
    data, said = FILES[case]
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=said) as refused:
            tensors.load(data, WANTED, "file")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert str(refused.value).startswith("file: ")
    assert "\n" not in str(refused.value)


NAMES = [
    *("", "a\0b", "../../etc/x", "/etc/x", "k" * 10_000, "W", "w ", "__metadata"),
    *("w\u00e9", "we\u0301"),  # the same to a reader
]


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_is_one_that_was_not_expected(name: str) -> None:
    data = safetensors.torch.save({**WANTED, name: torch.zeros(1)})
    with pytest.raises(ArtifactError, match="not expected") as refused:
        tensors.load(data, WANTED, "file")
    assert len(str(refused.value)) < 200
    assert "\0" not in str(refused.value)


VALUES: dict[str, tuple[Mapping[str, Tensor], str]] = {
    "7 NaN": ({"w": torch.tensor([[0, 0, 0], [0, float("nan"), 0]])}, r"NaN .*at \[1, 1\]"),
    "7 infinity": ({"w": torch.tensor([[0, 0, float("-inf")], [0, 0, 0]])}, r"at \[0, 2\]"),
    "8 smuggled": ({**WANTED, "v": torch.zeros(2, 3)}, "'v': not expected"),
    "9 missing": ({}, "w: missing"),
    "9 transposed": ({"w": torch.zeros(3, 2)}, r"expected torch.float32 \(2, 3\), got .* \(3, 2\)"),
    "9 half": ({"w": torch.zeros(2, 3).half()}, "expected torch.float32 .* got torch.float16"),
    "9 whole numbers": ({"w": torch.zeros(2, 3).long()}, "expected torch.float32 .* torch.int64"),
    "9 complex": (
        {"w": torch.zeros(2, 3).to(torch.complex64)},
        "expected torch.float32 .* torch.complex64",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_other_tensors_than_expected_are_told(case: str) -> None:
    given, said = VALUES[case]
    with pytest.raises(ArtifactError, match=said):
        tensors.load(safetensors.torch.save(dict(given)), WANTED, "file")


def test_a_negative_variance_is_told_with_its_place() -> None:
    name = "bn.running_var"
    data = tensors.dump({name: torch.tensor([1.0, -1.0])})
    with pytest.raises(ArtifactError, match=r"bn\.running_var: holds a negative .* at \[1\]"):
        tensors.load(data, {name: torch.zeros(2)}, "file")


# artifacts

Spoil = Callable[[Path], object]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    weights_artifact(tmp_path / "artifact")
    return tmp_path / "artifact"


def content(**fields: object) -> Spoil:
    """Change fields of the manifest."""

    def change(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_bytes(canonical_json(json.loads(file.read_bytes()) | fields))

    return change


def text(change: Callable[[bytes], bytes]) -> Spoil:
    """Change the bytes of the manifest."""

    def write(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_bytes(change(file.read_bytes()))

    return write


def listed(name: str, **fields: object) -> Spoil:
    """List a file of that name, or another description of it."""

    def change(folder: Path) -> None:
        files = json.loads((folder / "manifest.json").read_bytes())["files"]
        known = files.pop("model.safetensors")
        content(files={**files, name: {**known, **fields}})(folder)

    return change


def replaced(make: Callable[[Path], object]) -> Spoil:
    """Put something else in the place of the weights, which stay beside the artifact."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "weights")
        make(folder / "model.safetensors")

    return change


def huge(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 100 << 20)


def manifest_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def case_twin(folder: Path) -> None:
    (folder / "MODEL.safetensors").write_bytes((folder / "model.safetensors").read_bytes())


ARTIFACTS: dict[str, tuple[Spoil, str]] = {
    "10 other version": (content(format="bandstop-artifact/2"), "format: "),
    "10 unknown field": (content(surprise=1), "surprise: "),
    "10 wrong type": (content(seed="7"), "seed: "),
    "10 wrong type inside": (content(preprocess={"size": 8}), "preprocess.size: "),
    "10 a field twice": (text(lambda t: b'{"seed": 1,' + t[1:]), "names seed twice"),
    "10 a field inside twice": (
        text(lambda t: t.replace(b'"name":', b'"name": "x", "name":', 1)),
        "names name twice",
    ),
    "10 100 MB": (huge, "larger than 16777216 bytes"),
    "10 trailing data": (text(lambda t: t + b"{}"), "Invalid JSON"),
    "10 byte order mark": (text(lambda t: b"\xef\xbb\xbf" + t), "Invalid JSON"),
    "10 not a number": (text(lambda t: t.replace(b"0.3", b"NaN", 1)), "manifest"),
    "10 deep": (text(lambda t: b"[" * 100_000), "Invalid JSON"),
    "11 upper case": (listed("model.safetensors", sha256="A" * 64), "sha256: "),
    "11 too short": (listed("model.safetensors", sha256="a" * 63), "sha256: "),
    "11 too long": (listed("model.safetensors", sha256="a" * 64 + "\n"), "sha256: "),
    "11 of another kind": (listed("model.safetensors", sha256="sha512:" + "a" * 57), "sha256: "),
    "11 size as text": (listed("model.safetensors", size="9"), "size: "),
    "12 above": (listed("../weights"), "files"),
    "12 absolute": (listed("/etc/passwd"), "files"),
    "12 link": (replaced(lambda f: f.symlink_to(f.parent.parent / "weights")), "regular file"),
    "12 dangling link": (replaced(lambda f: f.symlink_to("nowhere")), "regular file"),
    "12 pipe": (replaced(os.mkfifo), "regular file"),
    "12 device": (replaced(lambda f: f.symlink_to("/dev/zero")), "regular file"),
    "12 folder": (replaced(Path.mkdir), "regular file"),
    "12 manifest is a pipe": (
        manifest_pipe,
        "not an artifact",
    ),
    "12 case twin": (case_twin, "unlisted file MODEL.safetensors"),
    "13 hidden": (lambda f: (f / ".git").mkdir(), "unlisted file .git"),
}


@pytest.mark.parametrize("case", ARTIFACTS)
def test_a_bad_artifact_is_refused_and_nothing_else_is_opened(
    artifact: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = ARTIFACTS[case]
    spoil(artifact)
    with pytest.raises(ArtifactError, match=said) as refused:
        load_artifact(artifact)
    assert "\n" not in str(refused.value)
    assert main(["verify", str(artifact)]) == 5
    assert capsys.readouterr().err.startswith("error: ")


def test_a_hard_link_is_refused_by_verify(artifact: Path) -> None:
    os.link(artifact / "model.safetensors", artifact.parent / "other-name")
    assert main(["verify", str(artifact)]) == 5


@pytest.mark.parametrize("value", [float("nan"), -0.01, 1.01, float("inf")])
def test_masks_out_of_range_are_refused(tmp_path: Path, value: float) -> None:
    gates = gates_artifact(tmp_path / "a").gates
    assert gates is not None
    masks = {name: mask.clone() for name, mask in gates.masks.items()}
    masks["conv1.weight"][1, 2] = value
    data = tensors.dump(masks)
    (tmp_path / "a" / "gates.safetensors").write_bytes(data)
    files = json.loads((tmp_path / "a" / "manifest.json").read_bytes())["files"]
    files["gates.safetensors"] = {"size": len(data), "sha256": sha256(data)}
    content(files=files)(tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"conv1\.weight"):
        load_artifact(tmp_path / "a")


# foreign weights


def zipped(path: Path, *, twice: bool = False, outside: bool = False) -> Path:
    """Write weights of PyTorch with an entry too many."""
    torch.save(WANTED, path)
    with zipfile.ZipFile(path) as archive:
        (data,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
        pickled = archive.read(data)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(data if twice else "../outside" if outside else "more", pickled)
    return path


def test_names_in_a_zip_are_never_paths(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "in" / "w.pt", outside=True)
    with contextlib.suppress(ArtifactError):
        read_weights(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "w.pt"]


def test_an_entry_twice_is_read_once_or_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "w.pt", twice=True)
    with pytest.raises(ArtifactError, match="twice"):
        read_weights(path)


def test_a_tar_of_old_pytorch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(pickle.dumps({"w": 1}))
    with tarfile.open(tmp_path / "w.pt", "w") as archive:
        archive.add(tmp_path / "pickle", "pickle")
    with pytest.raises(ArtifactError, match=r"safely|truncated"):
        read_weights(tmp_path / "w.pt")


# memory


def enormous(folder: Path) -> dict[str, Callable[[], object]]:
    """Return small inputs that claim to be large, as calls that must refuse them."""
    weights_artifact(folder / "wide")
    arch = {"name": "bandstop:resnet", "args": {"width": 4096, "blocks": "64-64-64-64-64"}}
    content(arch=arch)(folder / "wide")
    weights_artifact(folder / "many")
    content(
        class_names=[f"{c:x}" for c in range(300_000)],
        arch={"name": "bandstop:resnet", "args": {"width": 1024, "blocks": "1"}},
    )(folder / "many")
    data = (folder / "wide" / "model.safetensors").read_bytes()
    record = json.loads((folder / "wide" / "manifest.json").read_bytes())
    kept = {k: record[k] for k in ("arch", "class_names", "preprocess", "seed", "versions")}
    metadata = {"bandstop": json.dumps({**kept, "format": "bandstop-checkpoint/1"})}
    loaded = safetensors.torch.load(data)
    (folder / "wide.safetensors").write_bytes(safetensors.torch.save(loaded, metadata))
    torch.save({"w": torch.zeros(1).expand(2**31, 4)}, folder / "stride.pt")
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(64 << 20))
    with (folder / "head.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 3 << 30))
        file.truncate(64 << 20)
    return {
        "wide artifact": lambda: load_artifact(folder / "wide"),
        "many classes": lambda: load_artifact(folder / "many"),
        "wide checkpoint": lambda: load_checkpoint(folder / "wide.safetensors"),
        "stride": lambda: read_weights(folder / "stride.pt"),
        "bomb": lambda: read_weights(folder / "bomb.pt"),
        "claim": lambda: read_weights(folder / "head.safetensors"),
        "shape": lambda: tensors.load(safe({"w": entry(shape=(2**40,))}, ZEROS), WANTED, "file"),
    }


def refuse_enormous(folder: Path) -> None:
    """Refuse them all in a process that can have no more than a gigabyte more than it has."""
    calls = enormous(folder)
    (pages,) = Path("/proc/self/statm").read_text().split()[:1]
    limit = int(pages) * os.sysconf("SC_PAGE_SIZE") + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, call in calls.items():
        try:
            call()
        except EditError:
            continue
        raise AssertionError(name)


def test_a_small_file_never_takes_a_gigabyte(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.test_bad_artifacts import refuse_enormous\n"
        "refuse_enormous(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
