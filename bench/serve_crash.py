"""Publishers killed at every system call, on full and broken disks, and twenty at once."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bandstop.bench.serve_releases import gated_releases
from bandstop.bench.serve_trace import command_line, points, with_fault
from bandstop.cli.output import say
from bandstop.export.config import served_versions
from bandstop.export.layout import version_numbers
from bandstop.export.record import CONFIG, RECORD
from bandstop.export.record_files import read_record
from bandstop.export.repository import publish

MODEL, PUBLISHERS = "digits", 20
FAULTS: Mapping[str, tuple[str, ...]] = {
    "error=ENOSPC": ("write", "mkdir"),
    "error=EIO": ("fsync", "write", "rename"),
    "error=EROFS": ("mkdir", "rename"),
}
Content = dict[str, str]


def measured(control: bool) -> dict[str, object]:
    """Return how many kills fired, what was torn, and what else went wrong."""
    with tempfile.TemporaryDirectory(prefix="bs-") as place:
        folder = Path(place)
        say("bench serve crash: exports two releases")
        first, second = (e.release for e in gated_releases(folder, "ab"))
        if control:
            seen = _killed(folder, "naive", _naive(second), first, second)
            return _judged(seen)
        seen = Counter[str]()
        for state in ("empty", "one", "interrupted"):
            seen += _killed(folder, state, ["repo", "publish", str(second)], first, second)
        for state, verb in (("two", "rollback"), ("back", "promote"), ("two", "gc")):
            seen += _killed(folder, state, ["repo", verb], first, second)
        seen += _broken_disks(folder, first, second)
        seen["distinct_versions"] = _at_once(folder / "many" / "models", second)
    return _judged(seen)


def _judged(seen: Mapping[str, int]) -> dict[str, object]:
    never = ("torn", "stuck", "changed", "unclear")
    counts: dict[str, object] = {key: seen.get(key, 0) for key in ("kills", "faults", *never)}
    missed = [key for key in never if counts[key]]
    if "distinct_versions" in seen:
        counts["publishers"], counts["distinct_versions"] = PUBLISHERS, seen["distinct_versions"]
        missed += ["distinct_versions"] * (seen["distinct_versions"] != PUBLISHERS)
    missed += ["kills"] * (not counts["kills"])
    return {**counts, "failed": counts["stuck"], "missed": missed}


def _naive(release: Path) -> list[str]:
    """Return a publisher that copies into place, as a script would."""
    return [sys.executable, "-B", "-m", "bandstop.bench.serve_naive", str(release)]


def _killed(
    folder: Path, state: str, command: list[str], first: Path, second: Path
) -> Counter[str]:
    """Kill the command at each of its changes and look at what is left each time."""
    place = folder / "place"
    seen: Counter[str] = Counter()
    before = _set_up(place, state, first, second)
    line = _line(command, place / "models")
    found = points(line, place)
    after = _whole_versions(place / "models")
    say(f"bench serve crash: {len(found)} kills of {command[1]}, repository {state}")
    for point in found:
        _set_up(place, state, first, second)
        ended = with_fault(line, point, "signal=KILL")
        seen["kills"] += ended.fired
        left = _whole_versions(place / "models")
        torn = _torn(place / "models") or left not in (before, after)
        seen["torn"] += torn
        if torn:
            say(f"bench serve crash: torn by {point}: serves {sorted(left)}")
        if not torn and command[0] == "repo":
            seen["stuck"] += not _goes_on(place, second)
    return seen


def _line(command: list[str], repo: Path) -> list[str]:
    if command[0] != "repo":
        return [*command, str(repo)]
    verb, rest = command[1], command[2:]
    last = {"publish": [], "gc": ["--keep", "0"], "promote": [MODEL, "2"], "rollback": [MODEL]}
    return command_line("repo", verb, *rest, repo, *last[verb])


def _set_up(place: Path, state: str, first: Path, second: Path) -> Content:
    """Make the repository that the command starts from; return its whole versions."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    repo = place / "models"
    if state == "naive":
        repo.mkdir()
    if state != "empty":
        publish(first, repo, MODEL)
    if state in ("two", "back"):
        publish(second, repo, MODEL)
    if state == "back":
        subprocess.run(_line(["repo", "rollback"], repo), check=True, capture_output=True)
    if state == "interrupted":
        line = _line(["repo", "publish", str(second)], repo)
        renames = [p for p in points(line, place) if p.call == "rename"]
        shutil.rmtree(repo)
        publish(first, repo, MODEL)
        with_fault(line, renames[-1], "signal=KILL")
    return _whole_versions(repo)


def _whole_versions(repo: Path) -> Content:
    """Return what is served, and a digest of each file of the versions it names."""
    folder = repo / MODEL
    if not (folder / CONFIG).is_file():
        return {}
    served = served_versions((folder / CONFIG).read_text())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for number in served
        for file in sorted((folder / str(number)).rglob("*"))
    }


def _torn(repo: Path) -> bool:
    """Return whether a version folder is not what its release.json says."""
    folder = repo / MODEL
    if not folder.is_dir():
        return False
    served = served_versions((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else ()
    numbers = version_numbers(folder)
    return (
        not set(served) <= set(numbers)
        or (bool(numbers) and not served)
        or any(not _is_whole(folder / str(number), number in served) for number in numbers)
    )


def _is_whole(version: Path, served: bool) -> bool:
    try:
        files = read_record(version / RECORD).files
        return all(
            hashlib.sha256((version / name).read_bytes()).hexdigest() == known.sha256
            for name, known in files.items()
            if name != CONFIG and (served or (version / name).exists())
        )
    except Exception:  # whatever makes it unreadable
        return False


def _goes_on(place: Path, release: Path) -> bool:
    """Return whether the next publish works and sweeps what lies beside."""
    try:
        number = publish(release, place / "models", MODEL)
    except Exception as error:
        say(f"bench serve crash: the next publish fails: {error}")
        return False
    left = [p.name for p in place.iterdir() if p.name not in ("models", ".models.lock")]
    served = served_versions((place / "models" / MODEL / CONFIG).read_text())
    return served == (number,) and not left and not _torn(place / "models")


def _broken_disks(folder: Path, first: Path, second: Path) -> Counter[str]:
    """Let each change of a publish fail: the repository stays, and one line says why."""
    place = folder / "place"
    seen: Counter[str] = Counter()
    line = _line(["repo", "publish", str(second)], place / "models")
    before = _set_up(place, "one", first, second)
    found = points(line, place)
    after = _whole_versions(place / "models")
    for fault, calls in FAULTS.items():
        chosen = [point for point in found if point.call in calls]
        say(f"bench serve crash: {len(chosen)} times {fault}")
        for point in chosen:
            _set_up(place, "one", first, second)
            ended = with_fault(line, point, fault)
            seen["faults"] += ended.fired
            left = _whole_versions(place / "models")
            wanted = after if ended.code == 0 else before
            if left != wanted or _torn(place / "models"):
                say(f"bench serve crash: {fault} at {point}, exit {ended.code}: {ended.said}")
            lines = ended.said.strip().splitlines()
            clear = len(lines) == 1 and lines[0].startswith("error: ")
            seen["unclear"] += ended.code != 0 and not clear
            seen["changed"] += left != wanted
            seen["torn"] += _torn(place / "models")
            seen["stuck"] += not _goes_on(place, second)
    return seen


def _at_once(repo: Path, release: Path) -> int:
    """Return how many different versions twenty publishers at once make."""
    repo.parent.mkdir()
    say(f"bench serve crash: {PUBLISHERS} publishers at once")
    line = _line(["repo", "publish", str(release)], repo)
    running = [
        subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(PUBLISHERS)
    ]
    ended = [process.wait() for process in running]
    whole = [n for n in version_numbers(repo / MODEL) if _is_whole(repo / MODEL / str(n), True)]
    return len(whole) if not any(ended) else 0
