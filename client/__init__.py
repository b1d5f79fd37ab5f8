"""A client for served models: names and probabilities for images, checked from end to end.

It learns everything from the server and needs neither torch nor onnx.
"""

import typing

from bandstop.client.channel import Tls
from bandstop.client.client import Client
from bandstop.client.errors import (
    BackendError,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidImage,
    InvalidInput,
    NotFinite,
    NotFound,
    Overloaded,
    PolicyNotApplied,
    ProtocolError,
    Refused,
    Restricted,
    Unavailable,
    Unreachable,
    Untrusted,
)
from bandstop.client.predictions import Prediction
from bandstop.client.served import Preprocess, ServedModel, VersionSpec

if typing.TYPE_CHECKING:
    from bandstop.client.async_client import AsyncClient

__all__ = [
    "AsyncClient",
    "BackendError",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Draining",
    "InvalidImage",
    "InvalidInput",
    "NotFinite",
    "NotFound",
    "Overloaded",
    "PolicyNotApplied",
    "Prediction",
    "Preprocess",
    "ProtocolError",
    "Refused",
    "Restricted",
    "ServedModel",
    "Tls",
    "Unavailable",
    "Unreachable",
    "Untrusted",
    "VersionSpec",
]


if not typing.TYPE_CHECKING:  # else a name that is not there would pass for one that is

    def __getattr__(name: str) -> object:
        """Return `AsyncClient`, loaded late: who does without does not wait for it."""
        if name != "AsyncClient":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bandstop.client.async_client import AsyncClient

        return AsyncClient
