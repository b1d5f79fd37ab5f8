"""From what probes found, look after look: which model is ill."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bandstop.serve.link import Version
from bandstop.serve.probe import Finding, Health


@dataclass(frozen=True, slots=True)
class Pace:
    """How often, and how patiently.

    Attributes:
        interval: seconds between two looks.
        deadline: seconds for a probe.
        patience: silent looks, or late probes without any run between, until it counts as illness.
        gone: seconds to wait for an unloaded model to be gone.
        restarts: at most so many within `window`; one more gives up.
        window: seconds.
        pause: seconds before a second restart; doubled with each further one.
    """

    interval: float = 1.0
    deadline: float = 2.0
    patience: int = 3
    gone: float = 1.5
    restarts: int = 5
    window: float = 300.0
    pause: float = 0.25


@dataclass(slots=True)
class Seen:
    """What one look tells.

    Attributes:
        ill: models that need a repair, and why.
        remarks: what an operator has to know, and we cannot mend.
    """

    ill: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Symptoms:
    """Remembers what was found of each version, and judges by it.

    A dead process is illness at once. So is a failure that comes twice in a row, of a version that
    has answered before. A late answer is one only when nothing else was answered meanwhile, several
    times in a row: a server under load is late too.
    """

    def __init__(self, patience: int) -> None:
        """Start with nothing seen; `patience` is how many late answers in a row are too many."""
        self._patience = patience
        self._well: set[Version] = set()
        self._last: dict[Version, tuple[Health, int]] = {}
        self._runs: dict[Version, int] = {}

    def seen(
        self, findings: Mapping[Version, Finding], executions: Callable[[Version], int]
    ) -> Seen:
        """Take in the findings of one look.

        Args:
            findings: of all ready versions.
            executions: how often a version has run so far.
        """
        seen = Seen()
        for version, finding in findings.items():
            count = self._counted(version, finding.health, executions)
            said = f"{version.name} does not answer: {finding.reason}"
            late = finding.health is Health.LATE and count >= self._patience
            if finding.health is Health.WELL:
                self._well.add(version)
            elif finding.health is Health.DEAD or late:
                seen.ill[version.model] = said
            elif finding.health is Health.FAILED and count == 2:
                if version in self._well:
                    seen.ill[version.model] = said
                else:  # then it is made that way, and loading it again changes nothing
                    seen.remarks.append(f"{said}; it never did, so it is left as it is")
        return seen

    def forget(self, model: str) -> None:
        """Forget what was seen of `model`, which was loaded again."""
        self._last = {v: c for v, c in self._last.items() if v.model != model}
        self._runs = {v: c for v, c in self._runs.items() if v.model != model}

    def _counted(
        self, version: Version, health: Health, executions: Callable[[Version], int]
    ) -> int:
        """Return how often in a row `version` was found like this."""
        before, count = self._last.get(version, (Health.WELL, 0))
        count = count + 1 if before is health else 1
        if health is Health.LATE:
            runs = executions(version)
            if runs != self._runs.get(version):  # it works, and has more to do than it can
                count = 1
            self._runs[version] = runs
        self._last[version] = (health, count)
        return count
