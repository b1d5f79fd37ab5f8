"""A client for served models: names and probabilities for images, checked from end to end.

It learns everything from the server and needs neither torch nor onnx.
"""

from bandstop.client.client import Client
from bandstop.client.errors import (
    BackendError,
    ClientError,
    DeadlineExceeded,
    Draining,
    InvalidImage,
    InvalidInput,
    NotFound,
    Overloaded,
    PolicyNotApplied,
    ProtocolError,
    Refused,
    Restricted,
    Unavailable,
    Unreachable,
)
from bandstop.client.predictions import Prediction
from bandstop.client.served import Preprocess, ServedModel, VersionSpec

__all__ = [
    "BackendError",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "Draining",
    "InvalidImage",
    "InvalidInput",
    "NotFound",
    "Overloaded",
    "PolicyNotApplied",
    "Prediction",
    "Preprocess",
    "ProtocolError",
    "Refused",
    "Restricted",
    "ServedModel",
    "Unavailable",
    "Unreachable",
    "VersionSpec",
]
