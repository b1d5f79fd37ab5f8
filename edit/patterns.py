"""Shell patterns on layer names: what they choose, and what is said when they choose nothing."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bandstop.edit.errors import InputError


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether `name` matches one of `patterns`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(method: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse patterns that match none of `names`, all at once.

    Raises:
        InputError: each such pattern, with the names closest to it.
    """
    misfits = [
        f"{pattern!r} matches no layer (there are {', '.join(_close(pattern, names))})"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    if misfits:
        raise InputError(f"{method}: " + "; ".join(misfits))


def _close(pattern: str, names: Sequence[str]) -> Sequence[str]:
    return get_close_matches(pattern, names, n=3, cutoff=0.4) or names[-3:]
