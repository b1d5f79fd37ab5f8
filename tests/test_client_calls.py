"""The client over a fake transport: what it asks, what it believes, what it refuses."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from unittest import mock

import numpy as np
import pytest

from bandstop.client import (
    BackendError,
    Client,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    NotFinite,
    NotFound,
    Overloaded,
    PolicyNotApplied,
    ProtocolError,
    Refused,
    Restricted,
    Unavailable,
    Unreachable,
)
from bandstop.client.describe import read_model
from bandstop.client.predictions import predictions, softmax
from bandstop.client.replies import Answer, check_source
from bandstop.client.requests import MAX_MESSAGE_BYTES
from bandstop.client.retry import LONGEST_PAUSE, RetryBudget, pause
from bandstop.client.wire import Config, InferReply, InferRequest, Metadata
from tests.client_fakes import (
    LABELS,
    FakeTransport,
    NumpyModel,
    as_array,
    failing,
    picture,
    with_output,
)

BAKED = NumpyModel()
GATED = NumpyModel(slots=1)
ANY = NumpyModel(slots=3, allow_none=True)


def client(transport: FakeTransport, **options: object) -> Client:
    return Client("fake:1", "pixel", transport=transport, **options)  # type: ignore[arg-type]


def sent(transport: FakeTransport, name: str = "forget_class") -> list[list[int]]:
    """All rows of an input over all requests."""
    tensors = [t for request in transport.requests for t in request.inputs if t.name == name]
    return [row for tensor in tensors for row in as_array(tensor).tolist()]


# --- answers


def test_a_baked_model_names_the_class() -> None:
    (found,) = client(FakeTransport(BAKED)).classify(picture(2))
    assert found.names == ("cat", "bee", "dog", "ant", "eel")
    # softmax of 0, -1, -1, -2, -2
    total = 1 + 2 * math.exp(-1) + 2 * math.exp(-2)
    expected = [math.exp(-d) / total for d in (0, 1, 1, 2, 2)]
    assert found.probabilities == pytest.approx(expected, abs=1e-6)
    assert (found.version, found.applied) == ("1", ())


def test_a_gated_model_forgets_for_each_image_its_own_class() -> None:
    transport = FakeTransport(GATED)
    forget: list[str | int] = ["cat", 1, "#3"]
    found = client(transport).classify([picture(2)] * 3, forget=forget, top_k=1)
    assert [one.names[0] for one in found] == ["bee", "cat", "cat"]
    assert [one.applied for one in found] == [(2,), (1,), (3,)]
    assert sent(transport) == [[2], [1], [3]]


def test_one_class_is_meant_for_every_image() -> None:
    transport = FakeTransport(GATED)
    client(transport).classify([picture(0)] * 3, forget="dog")
    assert sent(transport) == [[3]] * 3


def test_probabilities_are_computed_in_double() -> None:
    rows = np.array([[0, -1e4, 88, 89], [3e38, 3e38, -3e38, 0]], np.float32)
    found = softmax(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found[1], [0.5, 0.5, 0, 0])


@pytest.mark.parametrize("count", [1, 7, 65])
def test_many_images_are_asked_in_batches_and_answered_in_order(count: int) -> None:
    transport = FakeTransport(GATED)
    images = [picture(i % 5) for i in range(count)]
    found = client(transport).classify(images, forget=[(i + 1) % 5 for i in range(count)], top_k=1)
    assert [one.names[0] for one in found] == [LABELS[i % 5] for i in range(count)]
    assert [one.applied for one in found] == [((i + 1) % 5,) for i in range(count)]
    sizes = [request.inputs[0].shape[0] for request in transport.requests]
    assert sum(sizes) == count
    assert max(sizes) <= GATED.max_batch_size
    assert len(sizes) == math.ceil(count / GATED.max_batch_size)


def test_logits_of_all_batches_are_one_array() -> None:
    images = np.stack([picture(i % 5) for i in range(20)])
    found = client(FakeTransport(BAKED)).logits(images)
    assert found.shape == (20, 5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], [-(i % 5) for i in range(20)], atol=1e-4)


def test_a_message_stays_small_however_large_the_batch() -> None:
    large = replace(BAKED, size=(1024, 1024), max_batch_size=1024)
    transport = FakeTransport(large)
    client(transport).logits([np.zeros((3, 1024, 1024), np.float32)] * 6)
    assert [request.inputs[0].shape[0] for request in transport.requests] == [5, 1]
    assert all(len(request.inputs[0].data) <= MAX_MESSAGE_BYTES for request in transport.requests)


def test_a_byte_model_gets_bytes() -> None:
    transport = FakeTransport(replace(BAKED, input="uint8"))
    (found,) = client(transport).classify(picture(4), top_k=1)
    assert found.names == ("eel",)
    (image,) = transport.requests[0].inputs
    assert (image.datatype, image.shape, len(image.data)) == ("UINT8", (1, 2, 3, 3), 18)


def test_of_equals_the_lower_index_comes_first() -> None:
    labels = tuple(map(str, range(99)))
    logits = np.tile(np.array([0, 1, 2], np.float32), 33)[None]
    answer = Answer("1", logits, np.empty((1, 0), np.int64))
    assert predictions([answer], labels, None)[0].names == labels[2::3] + labels[1::3] + labels[::3]


def test_the_server_is_asked_once_what_the_model_is() -> None:
    transport = FakeTransport(BAKED)
    with client(transport) as one:
        assert one.classes == LABELS
        one.classify(picture(0))
        one.classify(picture(1))
        assert transport.described == 1
        assert one.metadata().versions["1"].digest.endswith("1")
        assert transport.described == 2
    assert transport.closed


# --- what to forget


@pytest.mark.parametrize(
    ("forget", "row"),
    [
        ("cat", [2, 2, 2]),
        (np.int64(2), [2, 2, 2]),
        ((3, 1), [3, 1, 1]),
        ({3, "bee", 0}, [0, 1, 3]),
        ({3: 0, 1: 0}.keys(), [1, 3, 3]),
        (("cat", 2), [2, 2, 2]),
        ([(4, 0)], [4, 0, 0]),
        ([[4, 0]], [4, 0, 0]),
        (np.array([[4, 0]]), [4, 0, 0]),
        (np.array([4]), [4, 4, 4]),
        (None, [5, 5, 5]),
        ([None], [5, 5, 5]),
        (5, [5, 5, 5]),
    ],
)
def test_what_to_forget_fills_the_slots(forget: object, row: list[int]) -> None:
    transport = FakeTransport(ANY)
    client(transport).classify(picture(0), forget=forget)  # type: ignore[arg-type]
    assert sent(transport) == [row]


BAD_FORGET = [
    -1, 5, 6, 2**31, 2**32 + 3, 2**63 - 1, 2**70, 1.0, math.nan, True, False, np.bool_(True),
    np.float32(1), "nobody", "", "-1", "5", "#5", "1.0", "\uff13", "\u00b2",
    "9" * 5000, " cat", b"cat",
    object(), (), (0, 1), {0, 1}, (None,), (True,), [0, 1], [], [[0], [1]], [[0, 1]], [1.0],
    np.array([1.0]), np.array([True]), np.array(1), np.array([[[1]]]), np.array([0, 1]),
    None, [None],
]  # fmt: skip


@pytest.mark.parametrize("forget", BAD_FORGET, ids=lambda value: repr(value)[:30])
def test_what_cannot_be_forgotten_is_refused_and_nothing_is_sent(forget: object) -> None:
    transport = FakeTransport(GATED)
    with pytest.raises(InvalidInput, match=r"^forget: ") as caught:
        client(transport).classify(picture(0), forget=forget)  # type: ignore[arg-type]
    assert transport.requests == []
    assert "\n" not in str(caught.value)


def test_the_valid_range_is_told() -> None:
    with pytest.raises(InvalidInput, match=r"entry 1: no class 7; expected .*\(ant, bee.*0\.\.4"):
        client(FakeTransport(GATED)).classify([picture(0)] * 2, forget=[0, 7])
    with pytest.raises(InvalidInput, match=r"0\.\.4, or 5 to forget nothing"):
        client(FakeTransport(ANY)).classify(picture(0), forget=6)


@pytest.mark.parametrize(
    ("forget", "rows"),
    [
        (np.ones((8, 1), int), [[1]] * 8),
        (np.arange(8) % 5, [[i % 5] for i in range(8)]),
        (
            [0, "bee", np.int32(2), "#3", (4,), {0}, np.uint8(1), "2"],
            [[0], [1], [2], [3], [4], [0], [1], [2]],
        ),
        ((2, 2), [[2]] * 8),
        (np.array([1]), None),
        (np.array([[1]]), None),
        (np.ones((1, 8), int), None),
        (np.ones((8, 2), int) * np.arange(2), None),
        ([1], None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_eight_images_have_eight_rows_or_are_refused(
    forget: object, rows: list[list[int]] | None
) -> None:
    transport = FakeTransport(GATED)
    images = [picture(0)] * 8
    if rows is None:
        with pytest.raises(InvalidInput, match=r"^forget: "):
            client(transport).classify(images, forget=forget)  # type: ignore[arg-type]
        assert transport.requests == []
        return
    found = client(transport).classify(images, forget=forget)  # type: ignore[arg-type]
    assert sent(transport) == rows
    assert [list(one.applied) for one in found] == rows


@pytest.mark.parametrize(
    ("model", "forget", "inputs", "outputs"),
    [
        (BAKED, None, ["image"], ["logits"]),
        (GATED, "cat", ["image", "forget_class"], ["applied_forget_class", "logits"]),
    ],
)
def test_a_request_has_each_tensor_of_the_model_once_and_no_other(
    model: NumpyModel, forget: str | None, inputs: list[str], outputs: list[str]
) -> None:
    transport = FakeTransport(model)
    client(transport).classify([picture(0)] * 9, forget=forget)
    for request in transport.requests:
        assert [tensor.name for tensor in request.inputs] == inputs
        assert sorted(request.outputs) == outputs


@pytest.mark.parametrize("forget", ["cat", 2, [2], (2,)])
def test_a_baked_model_is_not_told_what_to_forget(forget: object) -> None:
    transport = FakeTransport(BAKED)
    with pytest.raises(InvalidInput, match="baked in"):
        client(transport).classify(picture(0), forget=forget)  # type: ignore[arg-type]
    assert transport.requests == []


def test_a_name_goes_before_an_index_and_a_shared_name_is_refused() -> None:
    model = replace(GATED, labels=("3", "crane", "crane", "x", "y"))
    transport = FakeTransport(model)
    client(transport).classify([picture(0)] * 2, forget=["3", "#3"])
    assert sent(transport) == [[0], [3]]
    with pytest.raises(InvalidInput, match=r"'crane' names the classes \[1, 2\]"):
        client(transport).classify(picture(0), forget="crane")


# --- arguments


@pytest.mark.parametrize("top_k", [0, -1, 6, True, 1.0, "1"])
def test_a_wrong_top_k_is_refused(top_k: object) -> None:
    with pytest.raises(InvalidInput, match=r"^top_k: expected a whole number 1\.\.5, got"):
        client(FakeTransport(BAKED)).classify(picture(0), top_k=top_k)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("deadline", value) for value in (0, -1, math.nan, math.inf, True, "1", None)]
    + [("version", value) for value in ("0", "01", "-1", "1e3", "x", "1" * 20, "\uff11", 1)]
    + [("model", value) for value in ("", "..", "a/b", "m\0x", "m\n", "M", "模型", "a" * 65, None)],
)
def test_wrong_settings_are_refused(name: str, value: object) -> None:
    settings: dict[str, object] = {"model": "pixel", name: value}
    with pytest.raises(InvalidInput, match=f"^{name}"):
        Client("fake:1", transport=FakeTransport(BAKED), **settings)  # type: ignore[arg-type]


def test_the_deadline_covers_learning_what_the_model_is() -> None:
    class Slow(FakeTransport):
        def metadata(self, model: str, version: str, timeout: float) -> Metadata:
            time.sleep(timeout + 0.05)
            return self.model.metadata

        def config(self, model: str, version: str, timeout: float) -> Config:
            raise AssertionError("no time was left")

    with pytest.raises(DeadlineExceeded):
        client(Slow(BAKED), deadline=0.1).classify(picture(0))


def test_a_tiny_deadline_ends_before_anything_is_sent() -> None:
    transport = FakeTransport(BAKED)
    with pytest.raises(DeadlineExceeded, match="no answer for model pixel within 1e-09 s"):
        client(transport, deadline=1e-9).classify(picture(0))
    assert transport.described == 0


def test_no_image_is_refused() -> None:
    transport = FakeTransport(BAKED)
    with pytest.raises(InvalidInput, match="at least one"):
        client(transport).classify([])
    assert transport.described == 0


# --- replies

TAMPER: dict[str, tuple[Callable[[InferReply], InferReply], type[ClientError], str]] = {
    "short bytes": (lambda r: with_output(r, "logits", data=b"\0" * 19), ProtocolError, "19 bytes"),
    "no bytes": (lambda r: with_output(r, "logits", data=b""), ProtocolError, "0 bytes"),
    "long bytes": (lambda r: with_output(r, "logits", data=b"\0" * 24), ProtocolError, "24 bytes"),
    "wrong dtype": (lambda r: with_output(r, "logits", datatype="INT32"), ProtocolError, "INT32"),
    "wrong shape": (lambda r: with_output(r, "logits", shape=(5, 1)), ProtocolError, r"\[5, 1\]"),
    "huge shape": (lambda r: with_output(r, "logits", shape=(2**62, 5)), ProtocolError, "FP32"),
    "negative shape": (lambda r: with_output(r, "logits", shape=(-1, 5)), ProtocolError, "FP32"),
    "missing output": (lambda r: r._replace(outputs=r.outputs[:1]), ProtocolError, "0 times"),
    "missing echo": (lambda r: r._replace(outputs=r.outputs[1:]), ProtocolError, "0 times"),
    "output twice": (lambda r: r._replace(outputs=r.outputs * 2), ProtocolError, "2 times"),
    "not a number": (
        lambda r: with_output(
            r, "logits", data=np.array([0, 1, np.nan, 0, 0], np.float32).tobytes()
        ),
        NotFinite,
        "not finite for image 0",
    ),
    "infinite": (
        lambda r: with_output(
            r, "logits", data=np.array([0, 1, -np.inf, 0, 0], np.float32).tobytes()
        ),
        NotFinite,
        "not finite for image 0",
    ),
    "another model": (lambda r: r._replace(model="other"), ProtocolError, "model 'other'"),
    "no version": (lambda r: r._replace(version=""), ProtocolError, "version ''"),
    "odd version": (lambda r: r._replace(version="1e3"), ProtocolError, "version '1e3'"),
    "unknown version": (lambda r: r._replace(version="7"), ProtocolError, "version 7"),
    "wrong echo": (
        lambda r: with_output(r, "applied_forget_class", data=np.array([3], np.int64).tobytes()),
        PolicyNotApplied,
        r"asked \[2\], applied \[3\]",
    ),
    "refused row": (
        lambda r: with_output(r, "applied_forget_class", data=np.array([-1], np.int64).tobytes()),
        Refused,
        r"refused image 0, forget_class \[2\]",
    ),
}


@pytest.mark.parametrize("name", TAMPER)
def test_a_reply_that_fails_a_check_is_not_believed(name: str) -> None:
    tamper, kind, words = TAMPER[name]
    transport = FakeTransport(GATED, tamper=tamper)
    with pytest.raises(kind, match=words) as caught:
        client(transport).classify(picture(0), forget=2)
    assert type(caught.value) is kind
    assert len(transport.requests) == 1


def test_a_half_applied_set_is_not_believed() -> None:
    def half(reply: InferReply) -> InferReply:
        return with_output(
            reply, "applied_forget_class", data=np.array([1, 1, 1], np.int64).tobytes()
        )

    with pytest.raises(PolicyNotApplied, match=r"asked \[1, 3, 3\], applied \[1, 1, 1\]"):
        client(FakeTransport(ANY, tamper=half)).classify(picture(0), forget=(1, 3))


def test_a_pinned_version_is_sent_and_must_answer() -> None:
    transport = FakeTransport(replace(BAKED, version="4"))
    (found,) = client(transport, version="4").classify(picture(0))
    assert (transport.requests[0].version, found.version) == ("4", "4")
    with pytest.raises(NotFound, match="version 3: not served; offered: 4"):
        client(transport, version="3").classify(picture(0))


def test_another_version_than_the_pinned_one_is_not_believed() -> None:
    request = InferRequest("pixel", "4", (), ())
    check_source(InferReply("pixel", "4", ()), request)
    with pytest.raises(ProtocolError, match="from version '5', expected 4"):
        check_source(InferReply("pixel", "5", ()), request)


# --- a model that is no export of ours


def parameters(config: Config, **changes: str | None) -> Config:
    changed = {**config.parameters, **{f"{key}.1": value for key, value in changes.items()}}
    return replace(config, parameters={k: v for k, v in changed.items() if v is not None})


def preprocess(**changes: object) -> str:
    known = json.loads(GATED.config.parameters["preprocess.1"])
    return json.dumps({k: v for k, v in {**known, **changes}.items() if v != "gone"})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (parameters(GATED.config, labels=None, digest=None), "no parameter labels.1, digest.1"),
        (parameters(GATED.config, labels="[1, 2]"), "labels.1 must be a JSON list of names"),
        (parameters(GATED.config, labels="["), "labels.1 must be"),
        (parameters(GATED.config, labels="[" * 100_000), "labels.1 must be"),
        (parameters(GATED.config, labels='["a", "b"]'), r"logits must be FP32 \[-1, 2\]"),
        (parameters(GATED.config, allow_none="yes"), "allow_none.1 must be true or false"),
        (parameters(GATED.config, digest="abc"), "digest.1 must be 64 hex digits"),
        (parameters(GATED.config, preprocess="{}"), "preprocess.1.size"),
        (parameters(GATED.config, preprocess="nan"), "preprocess.1"),
        (parameters(GATED.config, preprocess=preprocess(size=[2])), "preprocess.1.size"),
        (parameters(GATED.config, preprocess=preprocess(size=[0, 3])), "preprocess.1.size"),
        (parameters(GATED.config, preprocess=preprocess(size=[5, 5])), r"image must be FP32"),
        (parameters(GATED.config, preprocess=preprocess(channels=2)), "preprocess.1.channels"),
        (parameters(GATED.config, preprocess=preprocess(input="uint8")), "image must be UINT8"),
        (parameters(GATED.config, preprocess=preprocess(resize=2)), "smaller than the crop"),
        (parameters(GATED.config, preprocess=preprocess(rotate=90)), "preprocess.1.rotate"),
        (parameters(GATED.config, preprocess=preprocess(std="gone")), "preprocess.1.std"),
        (parameters(GATED.config, preprocess=preprocess(order="BGR")), "preprocess.1.order: expe"),
        (parameters(GATED.config, preprocess=preprocess(order=["L"])), "preprocess.1.order"),
        (replace(GATED.config, max_batch_size=0), "max_batch_size must be at least 1, got 0"),
    ],
)
def test_a_model_of_another_make_is_refused(config: Config, words: str) -> None:
    class Described(FakeTransport):
        def config(self, model: str, version: str, timeout: float) -> Config:
            return config

    with pytest.raises(ProtocolError, match=words) as caught:
        client(Described(GATED)).classify(picture(0), forget=0)
    assert "is not one that `bandstop export` wrote" in str(caught.value)


def test_the_order_of_channels_is_the_clients_own_whether_told_or_not() -> None:
    told = parameters(
        GATED.config, preprocess=preprocess(order="L" if GATED.channels == 1 else "RGB")
    )
    models = [read_model("m", GATED.metadata, config) for config in (GATED.config, told)]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (replace(GATED, version="2.tmp"), "version '2.tmp' is no number"),
        (replace(GATED, slots=-1), r"forget_class must be INT64 \[-1, K\]"),
    ],
)
def test_odd_metadata_is_refused(model: NumpyModel, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        client(FakeTransport(model)).classify(picture(0), forget=0)


# --- the model changes under way


def swap(to: NumpyModel, at: int) -> Callable[[FakeTransport], None]:
    def before(transport: FakeTransport) -> None:
        if len(transport.requests) == at:
            transport.model = to

    return before


def test_a_new_version_with_other_labels_is_read_by_its_own_labels() -> None:
    fewer = replace(GATED, version="2", labels=("ant", "cat", "dog", "eel"))
    transport = FakeTransport(GATED, before=swap(fewer, at=2))
    one = client(transport)
    images = [picture(1)] * 16
    found = one.classify(images, forget="ant", top_k=1)
    assert {(p.names, p.version) for p in found} == {(("cat",), "2")}
    assert one.classes == fewer.labels


def test_a_name_means_the_class_of_the_version_that_answers() -> None:
    moved = replace(GATED, version="2", labels=("bee", "ant", "cat", "dog", "eel"))
    transport = FakeTransport(GATED, before=swap(moved, at=1))
    (found,) = client(transport).classify(picture(0), forget="ant", top_k=1)
    assert (found.applied, found.names) == ((1,), ("bee",))


def test_a_new_version_that_knows_the_same_needs_no_second_look_at_the_first_images() -> None:
    transport = FakeTransport(BAKED, before=swap(replace(BAKED, version="2"), at=1))
    one = client(transport)
    assert [p.version for p in one.classify([picture(0)] * 9)] == ["2", "2"] + ["2"] * 7
    assert [p.version for p in one.classify(picture(0))] == ["2"]
    assert transport.described == 2


def test_an_answer_is_never_read_by_another_versions_labels() -> None:
    """Versions 1 and 2 are offered, 2 should answer, 1 does."""
    second = replace(BAKED, version="2", labels=tuple(reversed(LABELS)))

    class Both(FakeTransport):
        def metadata(self, model: str, version: str, timeout: float) -> Metadata:
            return replace(self.model.metadata, versions=("1", "2"))

        def config(self, model: str, version: str, timeout: float) -> Config:
            both = {**BAKED.config.parameters, **second.config.parameters}
            return replace(BAKED.config, parameters=both)

    with pytest.raises(ProtocolError, match="comes from version 1, which"):
        client(Both(BAKED)).classify(picture(0))
    (found,) = client(Both(second)).classify(picture(0), top_k=1)
    assert found.names == ("eel",)


def test_a_model_that_takes_another_size_is_learned_anew() -> None:
    def strict(transport: FakeTransport) -> None:
        expected = (transport.model.channels, *transport.model.size)
        if transport.requests[-1].inputs[0].shape[1:] != expected:
            raise InvalidInput("unexpected shape for input 'image'")

    transport = FakeTransport(BAKED, before=strict)
    one = client(transport)
    one.classify(picture(0))
    transport.model = replace(BAKED, version="2", size=(5, 5))
    assert one.classify(picture(1), top_k=1)[0].names == ("bee",)


def test_a_model_that_becomes_gated_is_learned_anew() -> None:
    transport = FakeTransport(BAKED)
    one = client(transport)
    one.classify(picture(0))
    transport.model = replace(GATED, version="2")
    (found,) = one.classify(picture(0), forget="ant", top_k=1)
    assert (found.applied, found.names) == ((0,), ("bee",))


def test_what_the_server_refuses_is_asked_again_only_when_the_model_changed() -> None:
    refuse = failing(*[InvalidInput("unexpected shape")] * 2)
    transport = FakeTransport(BAKED, before=refuse)
    with pytest.raises(InvalidInput, match="unexpected shape"):
        client(transport).classify(picture(0))
    assert len(transport.requests) == 1


# --- failures and retries


@contextmanager
def counted_sleep() -> Iterator[list[float]]:
    """Sleeping is only counted."""
    slept: list[float] = []
    with mock.patch.object(time, "sleep", slept.append):
        yield slept


@pytest.mark.parametrize("error", [Unavailable, Unreachable, Overloaded, Draining])
def test_a_passing_failure_is_tried_again(error: type[ClientError]) -> None:
    transport = FakeTransport(BAKED, before=failing(error("x"), error("x")))
    with counted_sleep() as slept:
        (found,) = client(transport).classify(picture(3), top_k=1)
    assert found.names == ("dog",)
    assert len(transport.requests) == 3
    assert 0 < slept[0] < 0.051
    assert 0.05 <= slept[1] < 0.101


@pytest.mark.parametrize(
    "error", [Restricted, NotFound, BackendError, ProtocolError, DeadlineExceeded, PolicyNotApplied]
)
def test_a_lasting_failure_is_not(error: type[ClientError]) -> None:
    transport = FakeTransport(BAKED, before=failing(error("x")))
    with counted_sleep() as slept, pytest.raises(error):
        client(transport).classify(picture(3))
    assert slept == []
    assert len(transport.requests) == 1


def test_a_server_that_never_answered_is_reported_at_once() -> None:
    class Nobody(FakeTransport):
        def metadata(self, model: str, version: str, timeout: float) -> Metadata:
            self.described += 1
            raise Unreachable("nobody")

        def ready(self, model: str, version: str, timeout: float) -> bool:
            raise Unreachable("nobody")

    transport = Nobody(BAKED)
    with counted_sleep() as slept, pytest.raises(Unreachable):
        client(transport).classify(picture(0))
    assert (slept, transport.described) == ([], 1)
    assert client(transport).ready() is False


def test_a_failure_that_lasts_is_reported_as_itself_within_the_deadline() -> None:
    transport = FakeTransport(BAKED, before=failing(*[Unreachable("gone")] * 99))
    started = time.monotonic()
    with pytest.raises(Unreachable, match="gone"):
        client(transport, deadline=0.4).classify(picture(0))
    assert time.monotonic() - started < 0.4 + 0.2


def test_a_failing_server_is_not_stormed() -> None:
    transport = FakeTransport(BAKED)
    one = client(transport)
    one.classify(picture(0))
    transport.before = failing(*[Overloaded("full")] * 999)
    with counted_sleep():
        for _ in range(100):
            with pytest.raises(Overloaded):
                one.classify(picture(0))
    assert len(transport.requests) - 1 <= 100 + 11


def test_answers_refill_the_retry_budget() -> None:
    budget = RetryBudget(tokens=0)
    assert not budget.allows(Unavailable("x"))
    for error in (Unreachable("x"), Draining("x")):
        assert budget.allows(error)  # nobody is loaded by asking again
    for _ in range(11):
        budget.earn()
    assert budget.allows(Unavailable("x"))
    assert not budget.allows(Unavailable("x"))


def test_pauses_grow_differ_and_end() -> None:
    random = Random(0)
    pauses = [pause(attempt, random) for attempt in range(2000)]
    assert 0.025 <= pauses[0] <= 0.05
    assert max(pauses) <= LONGEST_PAUSE
    assert min(pauses[10:]) >= LONGEST_PAUSE / 2
    assert len(set(pauses)) > 1900


def test_ready_asks_the_server() -> None:
    assert client(FakeTransport(BAKED)).ready() is True
    assert Client("fake:1", "other", transport=FakeTransport(BAKED)).ready() is False
