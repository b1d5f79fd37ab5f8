"""The whole flow once, on a seed that nothing was tuned on, and what its servers promise."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
import tritonclient.grpc as triton
from numpy.typing import NDArray

from bandstop.cli.demo_steps import pixels
from bandstop.cli.main import main
from bandstop.client import Client
from bandstop.edit.artifact import Artifact, load_artifact
from bandstop.edit.data import load_data
from bandstop.edit.method import split
from bandstop.edit.moments import editable_layers
from bandstop.edit.request import ForgetRequest
from bandstop.edit.svd import PAPER
from bandstop.export.parity import masked_logits
from bandstop.serve.triton import start
from tests.test_svd import paper_way

pytestmark = pytest.mark.triton
SEED = 20_261_121
Images = NDArray[np.float32]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "--seed", str(SEED), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def result(demo: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((demo / "demo.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def url(demo: Path) -> Iterator[str]:
    with start(demo / "repository") as server:
        yield server.url


@pytest.fixture(scope="module")
def gated(demo: Path) -> Artifact:
    return load_artifact(demo / "artifacts" / "wf-net")


@pytest.fixture(scope="module")
def session(demo: Path) -> ort.InferenceSession:
    file = demo / "repository" / "digits_gated" / "1" / "model.onnx"
    return ort.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def images() -> Images:
    return pixels(load_data("digits", seed=SEED).test)[:64]


def rows(result: dict[str, Any], model: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["model"] == model]


def infer(url: str, image: Images, classes: list[int]) -> tuple[Images, NDArray[np.int64]]:
    """Ask the gated model as any gRPC client could, without our own checks."""
    forget = np.array(classes, dtype=np.int64)[:, None]
    inputs = [
        triton.InferInput("image", list(image.shape), "FP32").set_data_from_numpy(image),
        triton.InferInput("forget_class", list(forget.shape), "INT64").set_data_from_numpy(forget),
    ]
    with triton.InferenceServerClient(url) as client:
        reply = client.infer("digits_gated", inputs, client_timeout=30)
    return reply.as_numpy("logits"), reply.as_numpy("applied_forget_class")


def test_every_class_is_measured_for_every_model(result: dict[str, Any]) -> None:
    assert result["seed"] == SEED
    assert result["seconds"] > 0
    for model in ("original", "svd", "gated", "logit-mask"):
        assert [row["forget"] for row in rows(result, model)] != []
        assert sorted(row["forget"] for row in rows(result, model)) == list(range(10))
    assert len(rows(result, "retrained")) >= 2
    served = {row["model"] for row in result["rows"] if row["served"]}
    assert served == {"original", "svd", "gated"}


def test_svd_forgets_and_retains(result: dict[str, Any]) -> None:
    original = mean(row["retain_acc"] for row in rows(result, "original"))
    assert mean(row["forget_acc"] for row in rows(result, "svd")) <= 0.01
    assert mean(row["retain_acc"] for row in rows(result, "svd")) >= original - 0.015


def test_gates_forget_and_retain(result: dict[str, Any]) -> None:
    original = mean(row["retain_acc"] for row in rows(result, "original"))
    assert mean(row["forget_acc"] for row in rows(result, "gated")) <= 0.01
    assert max(row["forget_acc"] for row in rows(result, "gated")) <= 0.05
    assert mean(row["retain_acc"] for row in rows(result, "gated")) >= original - 0.03


def test_every_layer_is_edited(demo: Path, result: dict[str, Any]) -> None:
    assert all(row["edit_norm"] > 0 for row in rows(result, "svd") + rows(result, "gated"))
    assert all(row["edit_norm"] == 0 for row in rows(result, "original"))
    assert all(row["edit_norm"] == 0 for row in rows(result, "logit-mask"))  # the head alone
    artifact = load_artifact(demo / "artifacts" / "svd-4")
    changed = artifact.manifest.found["relative_change"]
    assert isinstance(changed, dict)
    assert set(changed) == {f"{n}.weight" for n in editable_layers(artifact.model.network)}


def test_the_closed_form_equals_the_papers_svd_on_this_network(gated: Artifact) -> None:
    model = gated.model  # the frozen backbone, BatchNorm folded
    data = split(load_data("digits", seed=SEED), ForgetRequest((7,)))
    paper = replace(PAPER, alpha_r=(100.0,), alpha_f=(3.0,))
    setting = replace(paper, retain_images=9999, forget_images=9999, max_rows=None)
    edit = setting(model, ForgetRequest((7,)), data)
    want = paper_way(model, data, 100.0, 3.0)
    for name, weight in edit.weights.items():
        torch.testing.assert_close(weight.double(), want[name].double(), rtol=0, atol=1e-6)


def test_a_request_of_64_policies_equals_masked_weights(
    url: str, gated: Artifact, images: Images, result: dict[str, Any]
) -> None:
    classes = [(7 * i) % 10 for i in range(64)]
    with Client(url, "digits_gated") as client:
        answers = client.logits(list(images), classes)
    for image, c, answer in zip(images, classes, answers, strict=True):
        want = masked_logits(gated.model, gated.gates, [c], torch.from_numpy(image[None]))[
            0
        ].numpy()
        np.testing.assert_allclose(answer, want, rtol=0, atol=1e-4)
    assert result["batch_parity_max_abs"] <= 1e-4


@pytest.mark.parametrize("bad", [-1, 10, 2**31, 2**62])
def test_a_bad_index_refuses_its_own_row_only(
    url: str, session: ort.InferenceSession, images: Images, bad: int
) -> None:
    classes = [i % 10 for i in range(16)]
    for place in (0, 5, 15):
        classes[place] = bad
    logits, echo = infer(url, images[:16], classes)
    safe = np.array([0 if c == bad else c for c in classes])[:, None]
    want, _ = session.run(None, {"image": images[:16], "forget_class": safe})
    for i, c in enumerate(classes):
        if c == bad:
            assert np.isnan(logits[i]).all()
            assert echo[i].tolist() == [-1]
        else:
            assert logits[i].tobytes() == want[i].tobytes()
            assert echo[i].tolist() == [c]


def test_bad_rows_do_not_harm_their_neighbours_in_a_dynamic_batch(
    url: str, session: ort.InferenceSession, images: Images
) -> None:
    classes = [i % 10 for i in range(32)]
    classes[3], classes[11], classes[20], classes[31] = -1, 10, 2**31, 2**62

    def one(i: int) -> tuple[Images, NDArray[np.int64]]:
        return infer(url, images[i : i + 1], [classes[i]])

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(one, range(32)))
    for i, (logits, echo) in enumerate(answers):
        if 0 <= classes[i] < 10:
            row = np.array([[classes[i]]])
            want = session.run(None, {"image": images[i : i + 1], "forget_class": row})[0]
            np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5)
            assert echo.tolist() == row.tolist()
        else:
            assert np.isnan(logits).all()
            assert echo.tolist() == [[-1]]


def test_the_report_stands_alone(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert all(name in page for name in ("original", "svd", "gated", "logit-mask", "retrained"))


def test_a_folder_that_exists_is_left_alone(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (demo / "demo.json").read_bytes()
    assert main(["demo", "--out", str(demo)]) == 2
    assert "exists" in capsys.readouterr().err
    assert (demo / "demo.json").read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize("seed", [20_270_101, 20_270_102, 20_270_103])
def test_other_seeds_meet_the_same_bars(seed: int, tmp_path: Path) -> None:
    assert main(["demo", "--seed", str(seed), "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "demo.json").read_text())
    test_svd_forgets_and_retains(result)
    test_gates_forget_and_retain(result)
