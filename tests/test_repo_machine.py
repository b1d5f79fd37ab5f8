"""Any sequence of changes, some of them killed, leaves what must hold."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bandstop.export.disk import Disk
from bandstop.export.errors import NotServed, RefusedByPolicy, SpecError
from bandstop.export.gc import gc
from bandstop.export.promote import promote, rollback
from bandstop.export.repository import changing, publish, versions
from tests.repository_toys import FakeServer, FastDisk, KilledDisk, StepError, release, served

SETS = ((), (1,), (2,), (1, 2))


class Repository(RuleBasedStateMachine):
    """Compares a repository with what is known of it: a few sets and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp())
        self.root = self.place / "models"
        self.releases = [release(self.place / str(n), s) for n, s in enumerate(SETS)]
        self.server = FakeServer(self.root)
        self.forgets: dict[int, set[int]] = {}  # of each version that was committed
        self.duties: set[int] = set()
        self.highest = 0

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    def there(self) -> set[int]:
        if not (self.root / "digits").exists():
            return set()
        return {v.version for v in versions(self.root)}

    def now(self) -> tuple[int, ...]:
        return served(self.root) if self.there() else ()

    def attempt(
        self, change: Callable[[Disk], object], target: set[int], alone: bool, reason: bool
    ) -> None:
        """Make a change that serves a version that forgets `target`; hold it to the policy."""
        before = self.now()
        try:
            change(FastDisk())
        except RefusedByPolicy:
            assert not self.duties <= target
            assert not reason
            assert self.now() == before
        except (SpecError, NotServed):
            assert self.now() == before
        else:
            if alone:
                assert reason or self.duties <= target or len(before) == 2 or self.now() == before

    @rule(
        n=st.integers(0, 3), how=st.sampled_from(["serve", "canary", "add"]), reason=st.booleans()
    )
    def publish(self, n: int, how: str, reason: bool) -> None:
        known = self.there()

        def change(disk: Disk) -> None:
            number = publish(
                self.releases[n],
                self.root,
                serve=how != "add",
                canary=how == "canary",
                override="a reason" if reason else None,
                server=None if how == "add" else self.server,
                disk=disk,
            )
            assert number > self.highest
            assert number not in known
            self.forgets[number] = set(SETS[n])
            self.highest = number

        if not known:
            self.highest = 0
        self.attempt(change, set(SETS[n]), how == "serve", reason or how == "add" or not known)

    @precondition(lambda self: self.forgets)
    @rule(data=st.data(), canary=st.booleans(), reason=st.booleans())
    def promote(self, data: st.DataObject, canary: bool, reason: bool) -> None:
        version = data.draw(st.sampled_from(sorted(self.forgets)))
        why = "a reason" if reason else None
        self.attempt(
            lambda disk: promote(
                self.root,
                "digits",
                version,
                canary=canary,
                override=why,
                server=self.server,
                disk=disk,
            ),
            self.forgets[version],
            not canary,
            reason,
        )

    @precondition(lambda self: self.forgets)
    @rule(data=st.data(), reason=st.booleans())
    def rollback(self, data: st.DataObject, reason: bool) -> None:
        version = data.draw(st.sampled_from([None, *sorted(self.forgets)]))
        why = "a reason" if reason else None
        target = set() if version is None else self.forgets[version]
        self.attempt(
            lambda disk: rollback(
                self.root, "digits", version, override=why, server=self.server, disk=disk
            ),
            target,
            version is not None,
            reason,
        )

    @precondition(lambda self: self.forgets)
    @rule(keep=st.integers(0, 2))
    def gc(self, keep: int) -> None:
        gc(self.root, keep=keep, disk=FastDisk())

    @rule(
        n=st.integers(0, 3),
        step=st.integers(0, 40),
        what=st.sampled_from(["publish", "promote", "rollback", "gc"]),
        beside=st.booleans(),
    )
    def crash(self, n: int, step: int, what: str, beside: bool) -> None:
        disk = KilledDisk(step, beside=beside)
        before, known = self.now(), self.there()
        try:
            if what == "publish":
                publish(self.releases[n], self.root, override="x", disk=disk)
            elif what == "promote":
                promote(self.root, "digits", n + 1, override="x", disk=disk)
            elif what == "rollback":
                rollback(self.root, "digits", override="x", disk=disk)
            else:
                gc(self.root, disk=disk)
        except (StepError, SpecError):
            pass
        with changing(self.root, None, FastDisk()):
            pass
        for new in self.there() - known:
            assert self.now() == (new,)
            self.forgets[new] = set(SETS[n])
            self.highest = new
        assert known <= self.there()
        assert what in ("publish", "promote", "rollback") or self.now() == before

    @invariant()
    def what_is_served_is_whole(self) -> None:
        if not self.there():
            return
        now = served(self.root)
        listed = {v.version: v for v in versions(self.root)}
        assert 1 <= len(now) <= 2
        assert all(listed[v].weights for v in now)
        assert set(listed) == set(self.forgets)
        labels = (self.root / "digits" / str(max(now)) / "labels.txt").read_bytes()
        assert (self.root / "digits" / "labels.txt").read_bytes() == labels
        if len(now) == 1:
            self.duties |= self.forgets[now[0]]

    @invariant()
    def nothing_is_left_over(self) -> None:
        assert not [p for p in self.place.rglob("*") if "stage" in p.name]


@pytest.mark.timeout(120)
def test_any_sequence_of_changes_keeps_what_must_hold() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Repository,
        settings=settings(
            max_examples=100,
            stateful_step_count=8,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
