"""Headers of a call, such as a token: checked here, since gRPC reports a bad one in its own way."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from bandstop.client.errors import InvalidInput

Pairs: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
Headers: TypeAlias = Pairs | Callable[[], Pairs]
NAME = re.compile(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)")
VALUE = re.compile(r"[\x20-\x7e]*")


def sendable(headers: Pairs) -> tuple[tuple[str, str], ...]:
    """Return `headers` as gRPC takes them.

    Raises:
        InvalidInput: one cannot be sent; its value is not told, for it may be a secret.
    """
    try:
        pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
        checked = tuple((name, value) for name, value in pairs)
    except (TypeError, ValueError):
        raise InvalidInput("headers: expected a mapping of names to values") from None
    for name, value in checked:
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise InvalidInput(f"headers: a name must match {NAME.pattern}, got {name!r}")
        if not isinstance(value, str) or VALUE.fullmatch(value) is None:
            raise InvalidInput(f"headers: the value of {name} must be printable ASCII")
    return checked
