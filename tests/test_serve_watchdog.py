"""The watchdog against servers that only pretend: what is illness, what is done about it."""

from collections.abc import Callable, Iterator

import pytest

from bandstop.serve.access import Access
from bandstop.serve.errors import NotServed, ServeError
from bandstop.serve.link import NoAnswer, Version
from bandstop.serve.probe import Finding, Health
from bandstop.serve.symptoms import Pace, Symptoms
from bandstop.serve.watchdog import Watchdog

ONE = Version("digits", "1", "READY", "")
TWO = Version("digits", "2", "READY", "")
WELL, DEAD = Finding(Health.WELL), Finding(Health.DEAD, "Stub process 'd' is not healthy.")
PACE = Pace(interval=0.01, gone=0.0, restarts=3, window=60.0, pause=0.0)


# --- what counts as illness


def looks(*healths: Health, runs: Callable[[int], int] = lambda look: 0) -> list[bool]:
    """Return for each look whether the model was judged to be ill."""
    symptoms, found = Symptoms(3), []
    for look, health in enumerate(healths):
        seen = symptoms.seen({ONE: Finding(health)}, lambda _, look=look: runs(look))  # type: ignore[misc]
        found.append("digits" in seen.ill)
    return found


def test_a_dead_process_is_illness_at_once() -> None:
    assert looks(Health.WELL, Health.DEAD) == [False, True]
    assert looks(Health.DEAD) == [True]


def test_a_failure_is_illness_when_it_comes_twice_in_a_row() -> None:
    well, failed = Health.WELL, Health.FAILED
    assert looks(well, failed, failed) == [False, False, True]
    assert looks(well, failed, well, failed) == [False] * 4


def test_a_version_that_never_answered_is_left_as_it_is_and_told_once() -> None:
    symptoms = Symptoms(3)
    failed = {ONE: Finding(Health.FAILED, "no such class")}
    seen = [symptoms.seen(failed, lambda _: 0) for _ in range(4)]
    assert [s.ill for s in seen] == [{}] * 4
    assert [len(s.remarks) for s in seen] == [0, 1, 0, 0]
    assert "digits version 1 does not answer: no such class; it never did" in seen[1].remarks[0]


@pytest.mark.parametrize("health", [Health.BUSY, Health.GONE, Health.DOWN])
def test_a_full_queue_and_an_unloading_model_are_no_illness(health: Health) -> None:
    assert looks(Health.WELL, *[health] * 10) == [False] * 11


def test_late_answers_are_illness_only_when_nothing_else_is_answered() -> None:
    late = [Health.LATE] * 5
    assert looks(Health.LATE, Health.WELL, Health.LATE) == [False] * 3
    assert looks(*late) == [False, False, True, True, True]
    assert looks(*late, runs=lambda look: look) == [False] * 5  # it works, and is behind


# --- what is done


class FakeLink:
    """A server's answers, changed by what is asked of it."""

    def __init__(self, patient: "Patient") -> None:
        self._patient = patient

    def index(self) -> list[Version]:
        if self._patient.frozen:
            raise NoAnswer("silence")
        return self._patient.listed

    def live(self) -> bool:
        return self._patient.live

    def probe(self, versions: list[Version], seconds: float) -> dict[Version, Finding]:
        self._patient.probed.append(list(versions))
        return {v: self._patient.findings.get(v, WELL) for v in versions}

    def executions(self, version: Version) -> int:
        return 0

    def unload(self, model: str) -> None:
        self._patient.did.append(f"unload {model}")

    def load(self, model: str) -> None:
        self._patient.did.append(f"load {model}")
        error = next(self._patient.refusals, None)
        if error:
            raise error
        if self._patient.heals:
            self._patient.findings.clear()

    def close(self) -> None:
        pass


class Patient:
    """A server that notes what is done to it."""

    def __init__(self) -> None:
        self.access, self.pid, self.repairs, self.stopped = Access("u"), 2**22 + 1, 0, False
        self.did: list[str] = []
        self.events: list[str] = []
        self.probed: list[list[Version]] = []
        self.listed, self.findings = [ONE], {ONE: WELL}
        self.ended = self.frozen = self.live = False
        self.heals, self.comes_back = True, True
        self.refusals: Iterator[ServeError | None] = iter(())

    def ends_within(self, seconds: float) -> bool:
        return self.ended

    def restart(self) -> None:
        self.did.append("restart")
        if not self.comes_back:
            raise NotServed("it does not come up")
        self.ended = self.frozen = False

    def watchdog(self) -> Watchdog:
        return Watchdog(self, lambda _, m: self.events.append(m), PACE, lambda _: FakeLink(self))  # type: ignore[arg-type,return-value]


@pytest.fixture
def patient() -> Patient:
    return Patient()


def test_a_healthy_server_is_left_alone(patient: Patient) -> None:
    watchdog = patient.watchdog()
    for _ in range(5):
        watchdog.look()
    assert (patient.did, patient.events) == ([], [])
    assert patient.probed == [[ONE]] * 5


def test_an_ill_model_is_unloaded_and_loaded_and_each_step_is_told(patient: Patient) -> None:
    patient.findings = {ONE: DEAD}
    watchdog = patient.watchdog()
    watchdog.look()
    watchdog.look()
    assert patient.did == ["unload digits", "load digits"]
    assert patient.repairs == 1
    first, second = patient.events
    assert "is not healthy.; unloading and loading digits" in first
    assert second.startswith("digits answers again after")


def test_a_model_that_stays_ill_makes_the_server_start_again(patient: Patient) -> None:
    patient.findings, patient.heals = {ONE: DEAD}, False
    patient.watchdog().look()
    assert patient.did == ["unload digits", "load digits", "restart"]
    assert patient.repairs == 0


def test_a_model_that_is_refused_is_tried_again_and_the_others_go_on(patient: Patient) -> None:
    patient.findings = {ONE: DEAD}
    patient.refusals = iter([NotServed("broken"), NotServed("broken"), None])
    watchdog = patient.watchdog()
    watchdog.look()
    patient.listed = []
    for _ in range(4):
        watchdog.look()
    assert patient.did == ["unload digits", *["load digits"] * 3]
    assert patient.events[-1] == "digits is loaded again"


def test_a_model_that_somebody_loads_is_left_to_them(patient: Patient) -> None:
    patient.listed = [ONE, Version("digits", "2", "LOADING", "")]
    patient.findings = {ONE: DEAD}
    patient.watchdog().look()
    assert patient.did == []
    assert patient.probed == [[]]


def test_an_old_version_that_never_ends_does_not_keep_the_new_one_from_being_seen(
    patient: Patient,
) -> None:
    patient.listed = [Version("digits", "1", "UNLOADING", ""), TWO]
    patient.findings = {TWO: DEAD}
    patient.watchdog().look()
    assert patient.did == ["unload digits", "load digits"]


def test_a_server_that_ended_is_started_again(patient: Patient) -> None:
    patient.ended = True
    patient.watchdog().look()
    assert patient.did == ["restart"]
    assert patient.events[0] == "the server ended; restarting it"


def test_a_silent_server_is_frozen_only_after_several_looks(patient: Patient) -> None:
    patient.frozen = True
    watchdog = patient.watchdog()
    watchdog.look()
    watchdog.look()
    assert patient.did == []
    watchdog.look()
    assert patient.did == ["restart"]


def test_a_server_that_is_late_with_its_list_but_lives_is_not_frozen(patient: Patient) -> None:
    patient.frozen = patient.live = True
    watchdog = patient.watchdog()
    for _ in range(10):
        watchdog.look()
    assert patient.did == []


def test_a_server_that_does_not_come_back_is_given_up_with_a_reason(patient: Patient) -> None:
    patient.ended, patient.comes_back = True, False
    watchdog = patient.watchdog()
    watchdog.run()
    assert patient.did == ["restart"] * 3
    assert watchdog.wait() == "the server ended; given up after 3 restarts within 60 s"
    assert patient.events.count("the restart failed: it does not come up") == 3


def test_a_server_that_is_stopped_is_not_brought_back(patient: Patient) -> None:
    patient.ended = patient.stopped = True
    watchdog = patient.watchdog()
    watchdog.run()
    assert patient.did == []
    assert watchdog.wait() == ""
