"""What every call forgets, and sets of classes that the release names."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bandstop.client import Client, InvalidInput, ProtocolError
from bandstop.client.wire import Config
from tests.client_fakes import FakeTransport, NumpyModel, as_array, picture

BAKED = NumpyModel()
ONE = NumpyModel(slots=1)
MUST = NumpyModel(slots=3)
ANY = NumpyModel(slots=3, allow_none=True)


class Sets(FakeTransport):
    """A server whose release names sets of classes."""

    text = json.dumps(
        {"insects": ["ant", 1], "pets": ["cat", "dog"], "all": [0, 1, 2, 3], "no": []}
    )

    def config(self, model: str, version: str, timeout: float) -> Config:
        config = self.model.config
        named = {f"forget_sets.{self.model.version}": self.text}
        return replace(config, parameters={**config.parameters, **named})


def rows(model: NumpyModel, always: object, forget: object, images: int = 1) -> list[list[int]]:
    transport = Sets(model)
    client = Client("fake:1", "pixel", always_forget=always, transport=transport)  # type: ignore[arg-type]
    client.classify([picture(0)] * images, forget=forget)  # type: ignore[arg-type]
    return [row for r in transport.requests for row in as_array(r.inputs[1]).tolist()]


@pytest.mark.parametrize("model", [MUST, ANY])
@pytest.mark.parametrize(
    ("always", "forget", "row"),
    [
        ("cat", None, [2, 2, 2]),
        (2, "ant", [2, 0, 0]),
        (2, 2, [2, 2, 2]),
        ((4, 2), None, [4, 2, 2]),
        ({4, 2}, 0, [2, 4, 0]),
        ((4, 2), (2, 0), [4, 2, 0]),
        ("pets", "ant", [2, 3, 0]),
        ("pets", "pets", [2, 3, 3]),
        (None, "insects", [0, 1, 1]),
        (None, ("insects", "dog"), [0, 1, 3]),
        (4, "insects", [4, 0, 1]),
    ],
)
def test_a_call_widens_what_is_always_forgotten(
    model: NumpyModel, always: object, forget: object, row: list[int]
) -> None:
    assert rows(model, always, forget) == [row]


def test_asking_for_nothing_takes_nothing_back() -> None:
    assert rows(ANY, "cat", 5) == [[2, 2, 2]]
    assert rows(ANY, "cat", [None, 5, (5, 0), 1], images=4) == [
        [2, 2, 2],
        [2, 2, 2],
        [2, 0, 0],
        [2, 1, 1],
    ]


def test_one_slot_serves_one_class_that_is_always_forgotten() -> None:
    assert rows(ONE, 3, None) == [[3]]
    assert rows(ONE, 3, [3, None], images=2) == [[3], [3]]


@pytest.mark.parametrize(
    ("model", "always", "forget", "words"),
    [
        (ONE, 3, 1, r"expected 1 to 1 classes an image, got 2 \(1 by always_forget\)"),
        (ONE, (3, 1), None, "always_forget names 2 classes, but this model can forget only 1"),
        (MUST, "all", None, "always_forget names 4 classes.*--forget-slots 4"),
        (MUST, "pets", ("ant", "bee"), r"got 4 \(2 by always_forget\)"),
        (BAKED, 3, None, "baked in.*leave forget and always_forget out"),
        (MUST, "nobody", 0, r"always_forget: no class 'nobody'.*a set \(insects, pets, all, no\)"),
        (MUST, (), 0, "always_forget: expected classes"),
        (MUST, "no", 0, "always_forget: expected classes"),
        (ANY, 5, 0, "always_forget: expected classes"),
        (ANY, 1.5, 0, "always_forget: expected one of 5 names"),
        (MUST, None, "all", "expected 1 to 3 classes an image, got 4"),
        (MUST, None, "no", "expected 1 to 3 classes an image, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_sent(
    model: NumpyModel, always: object, forget: object, words: str
) -> None:
    transport = Sets(model)
    client = Client("fake:1", "pixel", always_forget=always, transport=transport)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=rf"^forget: .*{words}"):
        client.classify(picture(0), forget=forget)  # type: ignore[arg-type]
    assert transport.requests == []


def test_what_is_always_forgotten_is_checked_in_the_reply() -> None:
    transport = FakeTransport(MUST)
    client = Client("fake:1", "pixel", always_forget="cat", transport=transport)
    (found,) = client.classify(picture(2), forget="bee", top_k=1)
    assert (found.names, found.applied) == (("dog",), (2, 1))


def test_streams_forget_it_too() -> None:
    transport = FakeTransport(MUST)
    client = Client("fake:1", "pixel", always_forget="cat", transport=transport)
    found = list(client.stream([picture(2)] * 20, forget=[i % 5 for i in range(20)]))
    assert [one.applied for one in found] == [tuple(dict.fromkeys((2, i % 5))) for i in range(20)]


@pytest.mark.parametrize(
    "text",
    ["[", "[]", '{"a": 1}', '{"a": ["nobody"]}', '{"a": [5]}', '{"a": [true]}', '{"a": [-1]}',
     '{"a": [null]}', '{"cat": [1]}', '{"a": [1.0]}'],
)  # fmt: skip
def test_sets_that_are_none_are_refused(text: str) -> None:
    transport = Sets(MUST)
    transport.text = text
    with pytest.raises(ProtocolError, match="forget_sets"):
        Client("fake:1", "pixel", transport=transport).classify(picture(0), forget=0)


def test_entries_of_a_stream_must_be_as_many_as_its_images() -> None:
    client = Client("fake:1", "pixel", transport=FakeTransport(ONE))
    images = [picture(0)] * 20
    for forget in ([0] * 21, np.zeros(21, int), [0] * 19, np.zeros(19, int), np.array(1)):
        with pytest.raises(InvalidInput, match=r"^forget: "):
            list(client.stream(images, forget=forget))
    assert len(list(client.stream(images, forget=np.ones((20, 1), int)))) == 20
