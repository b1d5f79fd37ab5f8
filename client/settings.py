"""What a client is made with, checked."""

import math
import re

from bandstop.client.errors import InvalidInput
from bandstop.client.served import VERSION

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MOST_IN_FLIGHT = 1024


def check_settings(model: object, version: object, deadline: object, in_flight: object) -> None:
    """Refuse arguments out of their range; raises InvalidInput, which names them all."""
    misfits = []
    if not isinstance(model, str) or NAME.fullmatch(model) is None:
        misfits.append(f"model: expected a name that matches {NAME.pattern}, got {model!r}")
    if not isinstance(version, str) or (version and VERSION.fullmatch(version) is None):
        misfits.append(f"version: expected '' or a string of digits from 1 on, got {version!r}")
    seconds = deadline if isinstance(deadline, int | float) else math.nan
    if isinstance(deadline, bool) or not 0 < seconds < math.inf:
        misfits.append(f"deadline: expected seconds above 0, finite, got {deadline!r}")
    many = in_flight if isinstance(in_flight, int) and not isinstance(in_flight, bool) else 0
    if not 1 <= many <= MOST_IN_FLIGHT:
        misfits.append(f"in_flight: expected 1..{MOST_IN_FLIGHT}, got {in_flight!r}")
    if misfits:
        raise InvalidInput("; ".join(misfits))
