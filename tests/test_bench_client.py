"""The client's benchmark: what misses a bar, and clients under load for a minute."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from bandstop.bench import client, client_soak
from bandstop.bench.__main__ import main
from bandstop.bench.client_load import ratio
from bandstop.bench.serve_releases import Expected
from tests.servers import prepare

GOOD = {
    "sync_cpu_ratio": 1.1,
    "async_cpu_ratio": 1.15,
    "uint8_throughput_ratio": 1.5,
    "mixed_memory_ratio": 0.25,
    "mixed_throughput_ratio": 0.85,
    "mixed_load_ratio": 0.2,
}


def test_the_bars_are_met_at_their_limits_and_every_one_of_them_can_be_missed() -> None:
    assert client.missed(GOOD) == []
    assert set(client.BARS) == set(GOOD)
    for key, bar in GOOD.items():
        for worse in (bar - 0.01 if bar in (1.5, 0.85) else bar + 0.01, float("nan")):
            assert client.missed({**GOOD, key: worse}) == [key]


def test_what_misses_a_bar_is_told_and_ends_with_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "cpu", lambda: {"sync_cpu_ratio": 1.3, "async_cpu_ratio": 1.0})
    assert main(["client", "--json", "--only", "cpu"]) == 1
    assert json.loads(capsys.readouterr().out)["missed"] == ["sync_cpu_ratio"]
    monkeypatch.setattr(client, "cpu", lambda: GOOD)
    assert main(["client", "--only", "cpu"]) == 0
    assert main(["client", "--only", "speed"]) == 2
    assert main(["client", "soak", "--control", "none"]) == 2


def test_rates_are_compared_round_by_round() -> None:
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0


def seen(**changes: object) -> Mapping[str, object]:
    """What a load of ten seconds tells where all is well."""
    told: dict[str, object] = {
        "requests": 2000,
        "wrong": 0,
        "errors": {},
        "sources": {"1 a": 1000, "2 b": 1000},
        "samples": [[30.0, 12.0, 9.0]] * 20,
    }
    return told | changes


RISING = [[30.0 + n / 3, 12.0, 9.0] for n in range(20)]


@pytest.mark.parametrize(
    ("told", "missed"),
    [
        (seen(), []),
        (seen(wrong=1), ["wrong"]),
        (seen(sources={"1 a": 1, "2 a": 1}), ["wrong"]),  # the new version, the old answers
        (seen(sources={"1 a": 1, "2 b": 1, "3 b": 1}), ["wrong"]),
        (seen(errors={"Unavailable: gone": 1}), ["failed"]),
        (seen(samples=RISING), ["growth_mb"]),
        (seen(samples=[[30.0, n, 9.0] for n in range(20)]), ["more_descriptors"]),
        (seen(samples=[[30.0, 12.0, n] for n in range(20)]), ["more_threads"]),
        (seen(requests=99), ["requests"]),
        (seen(sources={"2 b": 5}), []),
    ],
)
def test_a_soak_misses_what_it_saw(told: Mapping[str, object], missed: list[str]) -> None:
    table = np.zeros((1, 10, 10))
    versions = {n: Expected(Path(), (f"{letter}0",), table) for n, letter in ((1, "a"), (2, "b"))}
    assert client_soak.judged(told, versions, 10.0, swaps=1)["missed"] == missed
    assert "swaps" in client_soak.judged(told, versions, 10.0, swaps=2)["missed"]  # type: ignore[operator]


def test_growth_is_that_of_the_second_half() -> None:
    assert client_soak.growth([0.0, 50.0, *[60.0] * 18]) == 0
    assert client_soak.growth(range(100)) == 40
    assert client_soak.growth([]) == float("inf")


@pytest.mark.triton
def test_for_a_minute_of_swaps_every_answer_is_right_and_nothing_grows() -> None:
    prepare()
    told = client_soak.measured(60.0)
    assert told["missed"] == [], told
    assert told["swaps"] == 30


@pytest.mark.triton
@pytest.mark.parametrize(
    ("control", "missed"), [("leak", "growth_mb"), ("unload", "failed"), ("wrong", "wrong")]
)
def test_what_is_done_wrong_is_seen(control: str, missed: str) -> None:
    prepare()
    told = client_soak.measured(10.0, control, swaps=3)
    assert missed in told["missed"], told  # type: ignore[operator]


@pytest.mark.long
@pytest.mark.triton
@pytest.mark.timeout(1800)
def test_for_twenty_minutes_of_swaps_every_answer_is_right_and_nothing_grows() -> None:
    prepare()
    told = client_soak.measured(1200.0)
    assert told["missed"] == [], told
    assert int(str(told["requests"])) >= 200_000


@pytest.mark.long
@pytest.mark.triton
@pytest.mark.timeout(1800)
def test_the_benchmark_meets_its_bars(capsys: pytest.CaptureFixture[str]) -> None:
    prepare()
    code = main(["client", "--json"])
    assert code == 0, capsys.readouterr().out
