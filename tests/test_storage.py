"""Files and folders that appear whole or not at all; digests that nothing escapes."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bandstop.edit.errors import InputError
from bandstop.edit.storage import (
    canonical_json,
    library_versions,
    refuse_existing,
    replace_file,
    sha256,
    state_sha256,
    write_file,
    write_folder,
)

FILES = {"a.json": b"{}", "b.bin": b"\x00\x01"}


def test_a_folder_holds_what_was_given(tmp_path: Path) -> None:
    write_folder(tmp_path / "out", FILES)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == FILES
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_file_holds_what_was_given(tmp_path: Path) -> None:
    write_file(tmp_path / "out", b"content")
    assert (tmp_path / "out").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o644
    replace_file(tmp_path / "out", b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def failing(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def interrupted(_descriptor: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("sync", "error"), [(failing, OSError), (interrupted, KeyboardInterrupt)])
def test_a_failure_leaves_nothing_new_and_the_old_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sync: Callable[[int], None],
    error: type[BaseException],
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(error):
        write_folder(tmp_path / "folder", FILES)
    with pytest.raises(error):
        write_file(tmp_path / "file", b"x")
    with pytest.raises(error):
        replace_file(tmp_path / "old", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_what_exists_is_refused_a_dangling_link_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for name in ("file", "folder", "link"):
        with pytest.raises(InputError, match=f"{name} exists"):
            write_folder(tmp_path / name, FILES)
        with pytest.raises(InputError, match=f"{name} exists"):
            write_file(tmp_path / name, b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_output_without_a_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its parent folder does not exist"):
        refuse_existing(tmp_path / "absent" / "out")
    refuse_existing(tmp_path / "out")


PROC = Path("/proc")  # takes no file, whoever asks


@pytest.mark.skipif(not PROC.is_dir(), reason="needs Linux")
def test_a_folder_that_takes_no_file_is_told_by_the_name_that_was_given() -> None:
    ways: list[Callable[[Path], object]] = [
        refuse_existing,
        lambda out: write_folder(out, FILES),
        lambda out: write_file(out, b"new"),
        lambda out: replace_file(out, b"new"),
    ]
    for way in ways:
        with pytest.raises(InputError, match=r"output /proc/out: nothing can be written") as told:
            way(PROC / "out")
        assert ".out." not in str(told.value)


def test_trying_whether_a_folder_takes_a_file_leaves_none(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    refuse_existing(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns == before


def test_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ü"}) == canonical_json(
        {"a": "ü", "b": (1, 2.5, None)}
    )
    assert canonical_json({"b": 1, "a": "ü"}) == '{\n "a": "ü",\n "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_the_digest_is_sha_256() -> None:
    # the first example of FIPS 180-2
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_state_digest_depends_on_all_but_order_and_layout() -> None:
    state = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    digest = state_sha256(state)
    assert state_sha256(dict(reversed(state.items()))) == digest
    assert state_sha256(state | {"w": state["w"].T.contiguous().T}) == digest
    assert state_sha256(state | {"w": torch.nn.Parameter(state["w"])}) == digest
    others = [
        {"v": state["w"], "b": state["b"]},
        state | {"w": state["w"].reshape(3, 2)},
        state | {"w": state["w"].view(torch.int32)},
        state | {"w": state["w"] + 1e-6},
        state | {"b": torch.tensor([1])},
        {"w": state["w"]},
        state | {"c": torch.zeros(0)},
    ]
    digests = {state_sha256(other) for other in others}
    assert len(digests) == len(others)
    assert digest not in digests


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_every_type_has_a_digest(dtype: torch.dtype) -> None:
    ones, zeros = torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype)
    assert state_sha256({"w": ones}) != state_sha256({"w": zeros})


def test_versions_name_what_decides_the_numbers() -> None:
    versions = library_versions()
    assert versions["torch"] == torch.__version__
    assert versions.keys() == {"bandstop", "python", "torch"}
