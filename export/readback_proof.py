"""The proof that a server serves exactly what it should, and every way in which it does not."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bandstop.client.errors import ClientError, listed
from bandstop.export.errors import NotServed
from bandstop.export.readback_calls import READY, Calls, Patience, State, explained
from bandstop.export.readback_checks import (
    compare,
    config_misses,
    policy_misses,
    questions,
    state_misses,
)
from bandstop.export.record import ReleaseRecord

Served = Mapping[int, ReleaseRecord]
States = Mapping[int, State]


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen of a model that is served as it should be.

    Attributes:
        versions: that are ready, all of them.
        compared: those whose answers were compared with recorded ones that tell files apart; of
            the others the digest in the served configuration alone speaks.
        max_abs: largest difference of a logit; None where none was compared.
        seconds: that it took.
    """

    versions: tuple[int, ...]
    compared: tuple[int, ...]
    max_abs: float | None
    seconds: float


def proof(calls: Calls, patience: Patience, model: str, served: Served) -> Proof:
    """Return what was seen of `model`, of which exactly the versions `served` should answer.

    Raises:
        NotServed: they do not; naming every miss.
    """
    began = time.monotonic()
    misses: list[str] = []
    found: dict[int, float] = {}
    try:
        states = _settled(calls, patience, model, served)
        misses += state_misses(states, served)
        ready = [version for version in sorted(served) if _is(READY, states, version)]
        # one by one: what was missed before a call fails is told with that failure
        misses.extend(_described(calls, model, served, ready))
        misses.extend(_answers(calls, model, served, ready, found))
    except ClientError as error:
        misses.append(explained(error, calls.headers))
    if misses:
        raise NotServed(f"model {model} is not served as it should be: {listed(misses)}")
    telling = [v for v, r in sorted(served.items()) if r.canary and r.canary.tells_apart]
    largest = max(found.values(), default=None)
    return Proof(tuple(sorted(served)), tuple(telling), largest, time.monotonic() - began)


def _settled(calls: Calls, patience: Patience, model: str, served: Served) -> States:
    """Return the versions' states once they are as they should be, or will not become so."""
    began = time.monotonic()
    while True:
        states = calls.states(model)
        waited = time.monotonic() - began
        lacking = [version for version in served if not _is(READY, states, version)]
        coming = any(_is("LOADING", states, version) for version in lacking)
        if not list(state_misses(states, served)) or waited > patience.settle:
            return states
        if lacking and not coming and waited > patience.appear:
            return states
        time.sleep(patience.pause)


def _is(name: str, states: States, version: int) -> bool:
    return version in states and states[version].name == name


def _described(calls: Calls, model: str, served: Served, ready: list[int]) -> Iterator[str]:
    """Tell where configuration and metadata are not of `served`."""
    if not ready:
        return
    # a version that was not loaded anew may keep the configuration of its time
    for version in ready[:-1]:
        yield from config_misses(calls.config(model, str(version)), served, [version])
    newest = calls.config(model, str(ready[-1]))
    yield from config_misses(newest, served, sorted(served))
    yield from policy_misses(newest, calls.versions(model), served)


def _answers(
    calls: Calls, model: str, served: Served, ready: list[int], found: dict[int, float]
) -> Iterator[str]:
    """Tell where answers are not as recorded; `found` takes each version's largest difference."""
    most = min((record.max_batch_size for record in served.values()), default=1)
    asked = [(str(version), version) for version in ready]
    if ready:
        asked.append(("", max(served)))
    for name, version in asked:
        record = served[version]
        replies = [calls.infer(question) for question in questions(model, name, record, most)]
        seen = compare(replies, version, record)
        if seen.max_abs is not None:
            found[version] = max(seen.max_abs, found.get(version, 0.0))
        who = f"version {name}" if name else "a request that names no version"
        yield from (f"{who}: {miss}" for miss in seen.misses)
