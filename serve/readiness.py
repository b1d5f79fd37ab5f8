"""Whether a server really serves: every model is ready and answers an inference."""

import re
import time
from collections.abc import Callable, Sequence

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from bandstop.serve.errors import NotServed

_CALL_S = 10.0
_PAUSE_S = 0.05


def wait_until_served(
    url: str, models: Sequence[str], *, timeout: float, alive: Callable[[], bool]
) -> str:
    """Wait until every model answers, and return the server's version.

    Args:
        url: of the server's gRPC port.
        models: all must answer an inference of zeros.
        timeout: seconds.
        alive: whether the server still runs.

    Raises:
        NotServed: the server ended, the time is over, or a model answers nonsense.
    """
    until = time.monotonic() + timeout
    with triton.InferenceServerClient(url) as client:
        while not _is_ready(client, models):
            if not alive():
                raise NotServed("the server ended before it was ready")
            if time.monotonic() > until:
                raise NotServed(f"the server was not ready within {timeout:g} s")
            time.sleep(_PAUSE_S)
        for model in models:
            prove(client, model)
        metadata = client.get_server_metadata(client_timeout=_CALL_S)
        return str(metadata.version)


def prove(client: triton.InferenceServerClient, model: str) -> None:
    """Ask `model` about one row of zeros and look at what comes back.

    Raises:
        NotServed: no answer, or an empty one, as a server with NumPy 2 in its Python gives.
    """
    try:
        metadata = client.get_model_metadata(model, client_timeout=_CALL_S)
        inputs = []
        for spec in metadata.inputs:
            zeros: NDArray[np.generic] = np.zeros(
                [max(1, d) for d in spec.shape], triton_to_np_dtype(spec.datatype)
            )
            tensor = triton.InferInput(spec.name, list(zeros.shape), spec.datatype)
            inputs.append(tensor.set_data_from_numpy(zeros))
        reply = client.infer(model, inputs, client_timeout=_CALL_S).get_response()
    except InferenceServerException as error:
        raise NotServed(
            f"model {model} is loaded but does not answer: {error.message()}"
        ) from error
    if not reply.raw_output_contents or not all(reply.raw_output_contents):
        raise NotServed(
            f"model {model} answers with empty tensors: its Python has NumPy 2, expected NumPy 1"
        )


def reason_in_log(log: str) -> str:
    """Return why the server did not start, as it wrote it, in one line; empty if it did not."""
    patterns = (
        r'failed to load \'[^\']+\' version \d+: (?:[^\n"]+)',
        r"Poll failed for model directory '[^']+': [^\n\"]+",
        r"error: [^\n]+",
        r"Error: [^\n]+",
    )
    for pattern in patterns:
        if found := re.search(pattern, log):
            return found.group(0).strip()
    return ""


def _is_ready(client: triton.InferenceServerClient, models: Sequence[str]) -> bool:
    try:
        return all(client.is_model_ready(model, client_timeout=_CALL_S) for model in models)
    except InferenceServerException:
        return False  # not listening yet
