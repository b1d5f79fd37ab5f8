"""`bandstop load`: what it sends, when, and how it counts."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from bandstop.cli.load_drive import Sender, Traffic
from bandstop.cli.load_images import images_of, random_images
from bandstop.cli.load_tally import Tally, quantiles_ms, summary
from bandstop.cli.main import main
from bandstop.client import AsyncClient, InvalidInput, Overloaded, Prediction, Preprocess
from bandstop.client.images import decode
from bandstop.client.wire import InferReply, InferRequest
from tests.client_fakes import LABELS, NumpyModel, Servicer, grpc_server, picture
from tests.test_client_streams import AsyncFake
from tests.test_client_triton import server, write_repository  # noqa: F401 - a fixture

Captured = pytest.CaptureFixture[str]
SHORT = ("--model", "pixel", "--seconds", "0.4", "--json")
GATED = NumpyModel(slots=1)
IMAGES = [picture(value) for value in range(5)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with grpc_server(Servicer(NumpyModel(slots=1))) as address:
        yield address


def load(capsys: Captured, *arguments: str) -> dict[str, object]:
    assert main(["load", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_closed_loop_counts_answers_classes_and_versions(url: str, capsys: Captured) -> None:
    found = load(capsys, url, *SHORT, "--concurrency", "3", "--batch", "4")
    assert (found["loop"], found["concurrency"], found["batch"]) == ("closed", 3, 4)
    answered = found["answered"]
    assert isinstance(answered, int)
    assert answered > 3
    assert found["versions"] == {"1": 4 * answered}
    assert isinstance(found["forgotten"], dict)
    assert sum(found["forgotten"].values()) == 4 * answered
    assert set(found["forgotten"]) == set(LABELS)
    assert (found["failed"], found["failures"], found["lag_ms"]) == (0, {}, None)
    rate = answered / float(str(found["seconds"]))
    assert found["requests_per_second"] == pytest.approx(rate, rel=0.01)
    assert found["images_per_second"] == pytest.approx(4 * rate, rel=0.01)
    latency = found["latency_ms"]
    assert isinstance(latency, dict)
    assert list(latency) == ["p50", "p90", "p95", "p99", "p99.9", "max"]
    assert sorted(latency.values()) == list(latency.values())


def test_only_what_is_named_is_forgotten_and_plain_lines_tell_the_same(
    url: str, capsys: Captured
) -> None:
    short = [word for word in SHORT if word != "--json"]
    assert main(["load", url, *short, "--forget", "bee", "--forget", "4", "--batch", "8"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert [pair.split()[0] for pair in lines["forgotten"].split(", ")] == ["bee", "eel"]
    assert lines["failures"] == "none"
    assert lines["latency_ms"].startswith("p50 ")


def test_the_open_loop_sends_at_the_rate_and_at_the_seeds_times(url: str, capsys: Captured) -> None:
    runs = [load(capsys, url, *SHORT, "--rate", "100", "--seed", str(seed)) for seed in (1, 1, 2)]
    counts = [run["answered"] for run in runs]
    assert counts[0] == counts[1] != counts[2]
    assert all(15 < int(str(count)) < 75 for count in counts)  # 40 expected, 4 deviations
    assert isinstance(runs[0]["lag_ms"], dict)
    assert (runs[0]["loop"], runs[0]["rate"]) == ("open", 100.0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--forget", "nobody"], 2, "no class 'nobody'"),
        (["--batch", "9"], 2, "takes 8 images in a request"),
        (["--rate", "0"], 2, "--rate: expected a number above 0"),
        (["--seconds", "nan"], 2, "--seconds: expected"),
        (["--images", "/none"], 2, "No such file"),
        (["--version", "7"], 6, "version 7: not served"),
        (["--concurrency", "0"], 2, "concurrency"),
    ],
)
def test_what_cannot_be_sent_is_one_line(
    url: str, capsys: Captured, arguments: list[str], code: int, words: str
) -> None:
    assert main(["load", url, *SHORT, *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert words in shown.err
    assert shown.err.count("\n") == 1


def test_nobody_there_is_exit_code_6(capsys: Captured) -> None:
    assert main(["load", "unix:/none/sock", *SHORT]) == 6
    assert capsys.readouterr().out == ""


def test_failures_are_counted_by_kind_and_do_not_stop_the_load(capsys: Captured) -> None:
    calls = itertools.count()

    def before(context: grpc.ServicerContext) -> None:
        if next(calls) % 4 == 3:
            context.abort(grpc.StatusCode.INTERNAL, "out of luck")

    with grpc_server(Servicer(NumpyModel(), before=before)) as url:
        assert main(["load", url, *SHORT, "--concurrency", "1"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failures"]["BackendError"]["count"] == found["failed"] > 0
    assert "out of luck" in found["failures"]["BackendError"]["example"]
    assert found["answered"] == pytest.approx(3 * found["failed"], abs=3)
    assert found["forgotten"] == {"baked": found["answered"]}


# --- when


def test_the_open_loops_latency_counts_from_when_the_request_was_due() -> None:
    """One slot of 50 ms and a request each 10 ms: the last ones wait for most of the time."""
    tally, fake = Tally(), AsyncFake(GATED, seconds=0.05)

    async def send() -> None:
        async with AsyncClient("h:1", "pixel", transport=fake, in_flight=1) as client:
            await client.classes
            traffic = Traffic(IMAGES, [0], 1, seed=3)
            await Sender(client, traffic, tally).open(100, 0.3)

    asyncio.run(send())
    many = len(tally.latencies)
    assert many > 10
    assert max(tally.latencies) > 0.05 * many - 0.3 - 0.02
    assert max(tally.latencies) > 0.3
    assert max(tally.lags) < 0.2  # the loop itself was on time


def test_a_blocked_loop_hides_no_waiting() -> None:
    """The first answer holds up everything for 0.3 s; what was due meanwhile has waited for it."""

    @dataclass(slots=True)
    class Blocking(AsyncFake):
        free_at: float = 0.0

        async def infer(self, request: InferRequest, timeout: float) -> InferReply:
            if not self.free_at:
                time.sleep(0.3)  # the whole loop waits
                self.free_at = time.perf_counter()
            return self.model.infer(request)

    tally, fake = Tally(), Blocking(GATED)

    async def send() -> float:
        async with AsyncClient("h:1", "pixel", transport=fake) as client:
            await client.classes
            began = time.perf_counter()
            await Sender(client, Traffic(IMAGES, [0], 1, seed=3), tally).open(200, 0.4)
            return fake.free_at - began

    blocked = asyncio.run(send())
    gaps = np.random.default_rng((3, 1)).exponential(1 / 200, 1000)
    due = np.cumsum(gaps)[np.cumsum(gaps) < 0.4]
    assert len(tally.latencies) == len(tally.lags) == len(due)  # none is left out or put off
    waited = np.maximum(0, blocked - due)
    assert (waited > 0.1).sum() > 20
    assert (np.sort(tally.latencies)[::-1] > np.sort(waited)[::-1] - 0.01).all()
    assert max(tally.lags) == pytest.approx(waited[1], abs=0.05)


def test_the_open_loop_does_not_wait_for_answers_and_the_closed_one_does() -> None:
    async def most(rate: float | None) -> int:
        fake = AsyncFake(GATED, seconds=0.2)
        async with AsyncClient("h:1", "pixel", transport=fake) as client:
            await client.classes
            sender = Sender(client, Traffic(IMAGES, [0, 1], 2, seed=0), Tally())
            await (sender.open(100, 0.15) if rate else sender.closed(3, 0.3))
        return fake.most

    assert asyncio.run(most(100)) > 5
    assert asyncio.run(most(None)) == 3


def test_the_closed_loop_waits_for_its_last_answers() -> None:
    tally = Tally()

    async def send() -> None:
        fake = AsyncFake(GATED, seconds=0.1)
        async with AsyncClient("h:1", "pixel", transport=fake) as client:
            await client.classes
            await Sender(client, Traffic(IMAGES, [0], 1, seed=0), tally).closed(2, 0.15)

    started = time.perf_counter()
    asyncio.run(send())
    assert len(tally.latencies) == 4
    assert 0.2 <= tally.seconds <= time.perf_counter() - started


# --- figures


def test_quantiles_are_values_that_were_seen() -> None:
    seconds = [i / 1000 for i in range(1, 101)]
    expected = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 100, "max": 100}
    assert quantiles_ms(seconds) == expected
    assert set(quantiles_ms([]).values()) == {None}


def test_the_summary_names_classes_or_numbers_them() -> None:
    tally = Tally(seconds=2.0)
    for applied, version in (((0,), "2"), ((1,), "10"), ((2, 0), "2"), ((3,), "2"), ((4,), "2")):
        tally.answered([Prediction(("x",), (1.0,), version, applied)], 0.001)
    tally.failed(Overloaded("first"))
    tally.failed(Overloaded("second"))
    found = summary(tally, ["ant", "twin", "twin", ""])
    assert found["forgotten"] == {"ant": 1, "#1": 1, "#2+ant": 1, "#3": 1, "nothing": 1}
    assert list(found["versions"].items()) == [("2", 4), ("10", 1)]  # type: ignore[attr-defined]
    assert found["failures"] == {"Overloaded": {"count": 2, "example": "first"}}
    assert (found["requests_per_second"], found["answered"], found["failed"]) == (2.5, 5, 2)
    nothing = summary(Tally(), ["ant"])
    assert nothing["requests_per_second"] is None


# --- images


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("resize", [None, 9])
def test_images_are_decoded_once_and_sent_as_they_are(
    kind: str, resize: int | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    spec = Preprocess((4, 6), 3, (0.0,) * 3, (1.0,) * 3, resize, "bilinear", kind)  # type: ignore[arg-type]
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (31, 17, 3), np.uint8)).save(path)
    wanted = decode([str(path)], spec).images[0]
    (one,) = images_of(tmp_path, spec)
    again = decode([one], spec).images[0]
    if kind == "float32":
        again = np.rint(again.transpose(1, 2, 0) * 255).astype(np.uint8)
    np.testing.assert_array_equal(again, wanted)
    some = decode(random_images(spec, seed=1), spec)
    assert (len(some.images), some.reasons) == (64, {})


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    spec = Preprocess((4, 6), 3, (0.0,) * 3, (1.0,) * 3, None, "bilinear", "uint8")
    with pytest.raises(InvalidInput, match="there is none"):
        images_of(tmp_path, spec)


@pytest.mark.triton
@pytest.mark.parametrize("loop", [("--concurrency", "4"), ("--rate", "50")])
def test_a_real_server_answers_all(server: object, capsys: Captured, loop: tuple[str, str]) -> None:  # noqa: F811
    url = getattr(server, "url")  # noqa: B009
    found = load(capsys, url, "--model", "rows", "--seconds", "1", "--json", *loop)
    answered = found["answered"]
    assert int(str(answered)) > 20
    assert (found["failed"], found["versions"], found["forgotten"]) == (
        0, {"1": answered}, {"baked": answered}
    )  # fmt: skip
