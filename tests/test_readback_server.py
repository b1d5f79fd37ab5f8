"""The calls behind the proof: servers that refuse, fail, go away or hang."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from bandstop.export.errors import NotServed
from bandstop.export.readback import server_at
from bandstop.export.readback_calls import Patience
from tests.readback_fakes import (
    MODEL,
    NEW,
    SHORT,
    Served,
    Spoil,
    missed,
    one_of_two,
    reachable,
    serving,
)

HEADER = "triton-grpc-protocol-bandstop"
Code = grpc.StatusCode


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server with version 2 of two, which is the one that should be served."""
    with one_of_two(tmp_path) as found:
        yield found


def _aborting(name: str, code: grpc.StatusCode, details: str) -> Spoil:
    def before(called: str, context: grpc.ServicerContext) -> None:
        if called == name:
            context.abort(code, details)

    return lambda fake: setattr(fake, "before", before)


RESTRICTED = f"This protocol is restricted, expecting header '{HEADER}'"
TRACE = "onnx runtime error 2: bad\n\nAt:\n  /srv/model.py(64): initialize\n"


@pytest.mark.parametrize("name", ["index", "unload", "config", "metadata", "infer"])
def test_a_restriction_is_told_before_anything_is_changed(served: Served, name: str) -> None:
    _aborting(name, Code.UNAVAILABLE, RESTRICTED)(served.fake)
    with pytest.raises(NotServed, match=f"secret for {HEADER} is missing: name .* --token-file"):
        served.proves.reach()


def test_a_wrong_secret_is_told_without_telling_it(tmp_path: Path) -> None:
    fake = serving(v1=NEW)
    _aborting("index", Code.UNAVAILABLE, RESTRICTED)(fake)
    headers = ((HEADER, "hunter2"),)
    with reachable(fake, tmp_path) as (url, _), server_at(url, None, headers) as server:
        with pytest.raises(NotServed, match="is not this server's") as caught:
            server.reach()
        assert "hunter2" not in str(caught.value)


def test_the_secret_goes_with_every_call(tmp_path: Path) -> None:
    fake = serving(v1=NEW)

    def check(name: str, context: grpc.ServicerContext) -> None:
        if (HEADER, "hunter2") not in {(k, v) for k, v in context.invocation_metadata()}:
            context.abort(Code.UNAVAILABLE, RESTRICTED)

    fake.before = check
    headers = ((HEADER, "hunter2"),)
    with reachable(fake, tmp_path) as (url, _), server_at(url, None, headers) as server:
        server.reach()
        server.load(MODEL)
        server.prove(MODEL, {1: NEW.record})


def test_a_server_that_loads_nothing_by_request_is_told(served: Served) -> None:
    refusal = "explicit model load / unload is not allowed if polling is enabled"
    _aborting("unload", Code.UNAVAILABLE, refusal)(served.fake)
    with pytest.raises(NotServed, match="--model-control-mode=explicit"):
        served.proves.reach()


def test_no_server_is_told(tmp_path: Path) -> None:
    with server_at(f"unix:{tmp_path}/none", patience=SHORT) as server:
        with pytest.raises(NotServed, match="no server answers at") as caught:
            server.reach()
        assert "\n" not in str(caught.value)


def test_a_refused_load_gives_the_servers_reason_without_its_trace(served: Served) -> None:
    _aborting("load", Code.INVALID_ARGUMENT, f"load failed for model 'digits': {TRACE}")(
        served.fake
    )
    with pytest.raises(NotServed, match="load failed for model 'digits': onnx") as caught:
        served.proves.load(MODEL)
    assert "/srv" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failing_model_is_a_miss_beside_the_others(served: Served) -> None:
    served.fake.states[1] = "READY"
    _aborting("infer", Code.INTERNAL, TRACE)(served.fake)
    said = missed(served)
    assert "version 1 is READY too" in said
    assert "onnx runtime error 2: bad (INTERNAL)" in said


@pytest.mark.parametrize("name", ["index", "config", "infer"])
def test_a_server_that_goes_away_is_told(served: Served, name: str) -> None:
    def leave(called: str, context: grpc.ServicerContext) -> None:
        if called == name:
            served.runs.stop(None)

    served.fake.before = leave
    assert "unix:" in missed(served)


@pytest.mark.parametrize("name", ["index", "metadata", "infer"])
def test_a_server_that_hangs_is_given_up_at_the_deadline(served: Served, name: str) -> None:
    release = threading.Event()

    def hang(called: str, context: grpc.ServicerContext) -> None:
        if called == name:
            release.wait(10)

    served.fake.before = hang
    began = time.monotonic()
    said = missed(served)
    assert SHORT.call * 0.9 < time.monotonic() - began < SHORT.call + 1
    assert "DEADLINE_EXCEEDED" in said
    release.set()


def test_a_load_may_take_longer_than_another_call(tmp_path: Path) -> None:
    fake = serving(v1=NEW)

    def slow(called: str, context: grpc.ServicerContext) -> None:
        if called == "load":
            time.sleep(0.5)

    fake.before = slow
    patience = Patience(call=0.2, load=5)
    with reachable(fake, tmp_path) as (url, _), server_at(url, patience=patience) as server:
        server.load(MODEL)


# --- unload


def test_an_unload_is_over_when_nothing_is_held(served: Served) -> None:
    def gone(number: int) -> None:
        if number == 3:
            served.fake.states = {2: "UNAVAILABLE"}

    served.fake.looks = gone
    served.proves.unload(MODEL)
    assert served.fake.calls.count("index") == 3


def test_an_unload_that_does_not_end_is_told(served: Served) -> None:
    with pytest.raises(NotServed, match=r"model digits: versions \[2\] are still held 0.4 s"):
        served.proves.unload(MODEL)
