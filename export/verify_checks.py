"""What a verification found: a check each, with all its misfits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bandstop.export.errors import RollbackRefused, VerifyFailed

Kind = Literal["artifact", "release", "version", "statement"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what, in a word.
        misfits: what is wrong, a line each; nothing where it is as it should be.
        note: what was found, or why it was not looked at.
        skipped: whether it was not looked at.
        policy: whether its misfits are against a policy rather than against integrity.
    """

    name: str
    misfits: Sequence[str] = ()
    note: str = ""
    skipped: bool = False
    policy: bool = False

    @property
    def outcome(self) -> Literal["passed", "failed", "skipped"]:
        """What became of it."""
        if self.misfits:
            return "failed"
        return "skipped" if self.skipped else "passed"


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one artifact, release, version or statement."""

    path: Path
    kind: Kind
    checks: Sequence[Check]

    @property
    def misfits(self) -> Iterator[tuple[str, str]]:
        """Each misfit with the name of its check."""
        return ((check.name, misfit) for check in self.checks for misfit in check.misfits)

    @property
    def exit_code(self) -> int:
        """0, 5 where something is not what it should be, 7 where only a policy is against it."""
        failed = [check for check in self.checks if check.misfits]
        if not failed:
            return 0
        error = RollbackRefused if all(check.policy for check in failed) else VerifyFailed
        return error.exit_code

    def refuse_misfits(self) -> None:
        """Raise where there is a misfit; one against integrity counts before one of policy.

        Raises:
            VerifyFailed: something is not what it should be.
            RollbackRefused: all is good, but a newer release is known or this one is revoked.
        """
        lines = [f"{check}: {misfit}" for check, misfit in self.misfits]
        more = f"; and {len(lines) - 8} more" if lines[8:] else ""
        told = f"{self.kind} {self.path}: {'; '.join(lines[:8])}{more}"
        if self.exit_code == RollbackRefused.exit_code:
            raise RollbackRefused(told)
        if lines:
            raise VerifyFailed(told)
