"""The proof of what a server serves: every way in which it could be something else is a miss."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from bandstop.export.errors import NotServed
from bandstop.export.readback import server_at
from bandstop.export.serving import Server
from tests.readback_fakes import (
    MODEL,
    NEW,
    OLD,
    OTHER,
    SHORT,
    FakeTriton,
    Made,
    Reply,
    Served,
    Spoil,
    made,
    missed,
    one_of_two,
    reachable,
    serving,
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server with version 2 of two, which is the one that should be served."""
    with one_of_two(tmp_path) as found:
        yield found


# --- what is served as it should be


def test_it_is_a_server_for_changes_of_a_repository(served: Served) -> None:
    server: Server = served.proves
    server.reach()
    assert "load" not in served.fake.calls
    server.load(MODEL)
    server.prove(MODEL, {2: NEW.record})


@pytest.mark.parametrize("mode", ["gated", "baked"])
def test_what_is_served_is_proved_by_its_answers(tmp_path: Path, mode: str) -> None:
    release = made(mode)
    with reachable(serving(v7=release), tmp_path) as (url, _), server_at(url) as server:
        proof = server.proof(MODEL, {7: release.record})
    assert (proof.versions, proof.compared) == ((7,), (7,))
    assert proof.max_abs is not None
    assert proof.max_abs < 1e-5
    assert 0 < proof.seconds < 5


def test_a_release_without_recorded_answers_has_to_answer_all_the_same(tmp_path: Path) -> None:
    release = made(canary=False)
    fake = serving(v1=release)
    with reachable(fake, tmp_path) as (url, _), server_at(url) as server:
        proof = server.proof(MODEL, {1: release.record})
        assert (proof.versions, proof.compared, proof.max_abs) == ((1,), (), None)
        fake.tamper = lambda asked, reply: _add(reply, np.nan)
        with pytest.raises(NotServed, match="version 1: a logit is no finite number"):
            server.proof(MODEL, {1: release.record})


def test_answers_that_never_change_are_not_counted_as_compared(tmp_path: Path) -> None:
    release = made("baked", scale=0.0)
    assert release.record.canary is not None
    assert not release.record.canary.tells_apart
    with reachable(serving(v1=release), tmp_path) as (url, _), server_at(url) as server:
        assert server.proof(MODEL, {1: release.record}).compared == ()


def test_two_versions_are_asked_each_and_the_highest_answers(tmp_path: Path) -> None:
    fake = serving(v1=OLD, v2=NEW)
    records = {1: OLD.record, 2: NEW.record}
    with reachable(fake, tmp_path) as (url, _), server_at(url) as server:
        assert server.proof(MODEL, records).compared == (1, 2)
        assert fake.calls.count("infer") == 3
        fake.files[1] = OTHER.file
        with pytest.raises(NotServed, match=r"version 1: canary: 4 of 4 rows") as caught:
            server.prove(MODEL, records)
    assert "version 2" not in str(caught.value)


def test_a_version_may_keep_the_configuration_of_its_time_but_no_other(tmp_path: Path) -> None:
    fake = serving(v1=OLD, v2=NEW)
    records = {1: OLD.record, 2: NEW.record}
    with reachable(fake, tmp_path) as (url, _), server_at(url) as server:
        fake.kept["1"] = {1: OLD.record}
        server.prove(MODEL, records)
        fake.kept["1"] = {1: OTHER.record}
        with pytest.raises(NotServed, match="digest of version 1 is"):
            server.prove(MODEL, records)


def test_no_request_is_larger_than_the_server_takes(tmp_path: Path) -> None:
    small = Made(NEW.record.model_copy(update={"max_batch_size": 3}), NEW.file)
    fake = serving(v1=OLD, v2=small)
    rows: list[int] = []
    fake.tamper = lambda asked, reply: rows.append(reply.outputs[0].shape[0])
    with reachable(fake, tmp_path) as (url, _), server_at(url) as server:
        server.prove(MODEL, {1: OLD.record, 2: small.record})
    assert rows == [3, 1] * 3


def test_versions_that_are_let_go_of_in_the_background_are_waited_for(served: Served) -> None:
    served.fake.states[1] = "READY"

    def fade(number: int) -> None:
        if number == 5:
            served.fake.states[1] = "UNLOADING"

    served.fake.looks = fade
    served.proves.prove(MODEL, {2: NEW.record})
    assert served.fake.calls.count("index") == 5


def test_a_version_that_still_loads_is_waited_for(served: Served) -> None:
    served.fake.states[2] = "LOADING"
    began = time.monotonic()

    def come(number: int) -> None:
        if time.monotonic() - began > 2 * SHORT.appear:
            served.fake.states[2] = "READY"

    served.fake.looks = come
    served.proves.prove(MODEL, {2: NEW.record})


def _crowded(served: Served, times: int) -> None:
    """Let the first `times` inferences find a full queue."""
    left = iter(range(times))

    def before(name: str, context: grpc.ServicerContext) -> None:
        if name == "infer" and next(left, None) is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Request timeout expired")

    served.fake.before = before


def test_a_place_in_a_full_queue_is_waited_for(served: Served) -> None:
    _crowded(served, 3)
    served.proves.prove(MODEL, {2: NEW.record})


def test_a_queue_that_stays_full_proves_nothing(served: Served) -> None:
    _crowded(served, 10_000)
    with pytest.raises(NotServed, match="Request timeout expired"):
        served.proves.prove(MODEL, {2: NEW.record})


def test_a_small_difference_passes_and_is_told(served: Served) -> None:
    served.fake.tamper = lambda asked, reply: _add(reply, 0 if asked else 5e-5)
    seen = served.proves.proof(MODEL, {2: NEW.record})
    assert seen.max_abs == pytest.approx(5e-5, abs=1e-5)


# --- what is not


def _add(reply: Reply, difference: float) -> None:
    """Add to the last row's last logit."""
    (at,) = (i for i, tensor in enumerate(reply.outputs) if tensor.name == "logits")
    logits = np.frombuffer(reply.raw_output_contents[at], np.float32).copy()
    logits[-1] += difference
    reply.raw_output_contents[at] = logits.tobytes()


def _echo(reply: Reply) -> None:
    (at,) = (i for i, t in enumerate(reply.outputs) if t.name == "applied_forget_class")
    echo = np.frombuffer(reply.raw_output_contents[at], np.int64).copy()
    echo[0] = 3
    reply.raw_output_contents[at] = echo.tobytes()


def _only_pinned(change: Callable[[Reply], object]) -> Spoil:
    def tamper(asked: str, reply: Reply) -> None:
        if asked:
            change(reply)

    return lambda fake: setattr(fake, "tamper", tamper)


def _stale(fake: FakeTriton) -> None:
    fake.states, fake.config, fake.default = {1: "READY"}, {1: OLD.record}, 1


def _broken(fake: FakeTriton) -> None:
    fake.states = {1: "READY", 2: "UNAVAILABLE"}


def _cut(reply: Reply) -> None:
    reply.raw_output_contents[0] = reply.raw_output_contents[0][:-4]


def _wide(reply: Reply) -> None:
    reply.outputs[0].shape[:] = [2**62, 4]


def _renamed(reply: Reply) -> None:
    reply.outputs[0].name = "scores"


def _numbered(reply: Reply) -> None:
    reply.model_version = "1"


def _typed(reply: Reply) -> None:
    del reply.raw_output_contents[:]


MISSES: dict[str, tuple[Spoil, str]] = {
    "the old version": (
        _stale,
        "version 2 is UNKNOWN, expected READY; version 1 is READY too",
    ),
    "a broken version": (
        _broken,
        r"version 2 is UNAVAILABLE \(why\), expected READY; version 1 is",
    ),
    "nothing": (lambda f: f.states.clear(), "version 2 is UNKNOWN, expected READY$"),
    "two versions": (lambda f: f.states.update({1: "READY"}), "version 1 is READY too"),
    "still loading": (lambda f: f.states.update({2: "LOADING"}), "version 2 is LOADING"),
    "another digest": (
        lambda f: f.config.update({2: OTHER.record}),
        f"digest of version 2 is {OTHER.record.files['model.onnx'].sha256[:12]}..., expected "
        f"{NEW.record.files['model.onnx'].sha256[:12]}",
    ),
    "another policy": (
        lambda f: f.config.update({1: OLD.record}),
        r"version_policy names \[1, 2\], expected \[2\]",
    ),
    "other metadata": (
        lambda f: setattr(f, "metadata", ("1", "2")),
        r"metadata names versions \['1', '2'\], expected \[2\]",
    ),
    "other weights": (
        lambda f: f.files.update({2: OTHER.file}),
        r"version 2: canary: 4 of 4 rows are not as recorded, the first is row 0 "
        r"\(forget_class \[0\]\); a logit differs by [0-9.]+, expected <= 0.0001",
    ),
    "a logit off": (
        lambda f: setattr(f, "tamper", lambda asked, reply: _add(reply, 3e-4)),
        r"1 of 4 rows .* row 3 \(forget_class \[3\]\); a logit differs by 0.0003",
    ),
    "no number": (
        _only_pinned(lambda reply: _add(reply, np.nan)),
        "version 2: a logit is no finite number",
    ),
    "another echo": (
        _only_pinned(_echo),
        r"version 2: asked for forget_class \[0\] it applied \[3\]",
    ),
    "another default": (
        lambda f: setattr(f, "default", 1),
        "a request that names no version: answered by version 1, expected 2",
    ),
    "another weight by default": (
        lambda f: setattr(f, "tamper", lambda asked, reply: None if asked else _add(reply, 1)),
        "a request that names no version: canary: 1 of 4",
    ),
    "another number": (_only_pinned(_numbered), "version 2: answered by version 1"),
    "cut bytes": (_only_pinned(_cut), "version 2: output logits is missing or of another"),
    "huge shape": (_only_pinned(_wide), "version 2: output logits is missing or of another"),
    "another name": (_only_pinned(_renamed), "version 2: output logits is missing or of another"),
    "typed contents": (_only_pinned(_typed), "2 outputs but bytes for 0"),
}


@pytest.mark.parametrize("case", MISSES)
def test_each_miss_is_named(served: Served, case: str) -> None:
    spoil, expected = MISSES[case]
    spoil(served.fake)
    with pytest.raises(NotServed, match=expected) as caught:
        served.proves.prove(MODEL, {2: NEW.record})
    assert str(caught.value).startswith(f"model {MODEL} is not served as it should be: ")
    assert "\n" not in str(caught.value)


def test_all_misses_are_named_together(served: Served) -> None:
    served.fake.states[1] = "READY"
    served.fake.files[2] = OTHER.file
    served.fake.config[2] = OTHER.record
    served.fake.default = 1
    said = missed(served)
    for part in (
        "version 1 is READY too",
        "digest of version 2",
        "version 2: canary",
        "no version",
    ):
        assert part in said


def test_a_stale_server_is_told_soon(served: Served) -> None:
    _stale(served.fake)
    began = time.monotonic()
    missed(served)
    assert time.monotonic() - began < SHORT.settle
