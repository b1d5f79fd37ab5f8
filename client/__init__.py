"""A client for served models: names and probabilities for images, checked from end to end.

It learns everything from the server and needs neither torch nor onnx.
"""

from bandstop.client.async_client import AsyncClient
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
